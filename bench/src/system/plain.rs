//! veth routing by the kernel alone.
use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, bail};
use millrace_tests::machine::{netns::Netns, process::Place};

use super::{Footprint, Setup, System, routed::RoutedNode};

pub(super) struct Plain {
    setup: Setup,
    routed: RoutedNode,
}

impl Plain {
    pub(super) fn build(setup: Setup) -> Result<Self> {
        Ok(Self { setup, routed: RoutedNode::build(setup.hygiene)? })
    }
}

impl System for Plain {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn client(&self) -> Place<'_> {
        self.routed.client_place()
    }

    fn client_addr(&self) -> Ipv4Addr {
        RoutedNode::client_addr()
    }

    fn server(&self, endpoint: usize) -> Place<'_> {
        self.routed.server_place(endpoint)
    }

    fn server_addr(&self, endpoint: usize) -> Ipv4Addr {
        RoutedNode::server_addr(endpoint)
    }

    fn node(&self) -> &Netns {
        self.routed.node()
    }

    fn pod_links(&self) -> Vec<String> {
        RoutedNode::pod_links()
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
