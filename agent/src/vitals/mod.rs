//! What the parts of the agent note of themselves while they work, for whoever looks from outside.
//!
//! Nobody who looks asks a part anything: one that is stuck is seen by what it does not note any more.
mod conntrack;
mod proxy;
mod pulse;
mod requests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use agent_core::model::{Family, node::Services};
use agent_sources::pulse::Watches;
use tokio::sync::watch;

pub(crate) use self::{
    conntrack::Sweeps,
    proxy::{Proxy, ProxyReport},
    pulse::{Kindred, Phase, Pulse, Snapshot},
    requests::{Asked, Requests},
};
use crate::ipam::Counted;

/// The families, in the order of their numbers.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What everybody notes.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) pulse: Pulse,
    pub(crate) sweeps: Sweeps,
    pub(crate) requests: Requests,
    pub(crate) proxy: Proxy,
    pub(crate) watches: Arc<Watches>,
    /// Who translates services, once the agent knows it.
    pub(crate) services: watch::Sender<Option<Services>>,
    addresses: Mutex<Counted>,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            pulse: Pulse::new(Instant::now()),
            sweeps: Sweeps::default(),
            requests: Requests::default(),
            proxy: Proxy::default(),
            watches: Arc::default(),
            services: watch::Sender::new(None),
            addresses: Mutex::default(),
        }
    }
}

impl Vitals {
    pub(crate) fn note_addresses(&self, counted: Counted) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = counted;
    }

    pub(crate) fn addresses(&self) -> Counted {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many measurements a histogram holds.
#[cfg(test)]
pub(crate) fn count(histogram: &prometheus_client::metrics::histogram::Histogram) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register("h", "h", histogram.clone());
    let mut page = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut page, &registry).unwrap();
    page.lines().find_map(|line| line.strip_prefix("h_count ")?.parse().ok()).unwrap()
}

/// A moment, by the clock that never jumps and by the one that people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) steady: Instant,
    pub(crate) wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}
