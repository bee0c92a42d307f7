//! veth routing by the kernel alone.
use std::time::Duration;

use anyhow::{Result, bail};

use super::{
    Footprint, Setup, System,
    routed::{OnRoutedNode, RoutedNode},
};

pub(super) struct Plain {
    setup: Setup,
    routed: RoutedNode,
}

impl Plain {
    pub(super) fn build(setup: Setup) -> Result<Self> {
        Ok(Self { setup, routed: RoutedNode::build(setup.hygiene)? })
    }
}

impl OnRoutedNode for Plain {
    fn routed(&self) -> &RoutedNode {
        &self.routed
    }
}

impl System for Plain {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn forget_flows(&self) -> Result<()> {
        Ok(())
    }

    fn footprint(&self) -> Result<Footprint> {
        Ok(Footprint::default())
    }

    fn set_endpoints(&self, _service: usize, _endpoints: &[usize]) -> Result<()> {
        bail!("plain routing knows no services")
    }

    fn cold_sync(&self) -> Result<Duration> {
        bail!("plain routing knows no services")
    }
}
