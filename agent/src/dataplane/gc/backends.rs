//! Which backends a frontend has at this moment, from the maps themselves.
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use agent_core::entry::{self, Backend, Frontend};
use bpf_maps::Error;
use dataplane_common::maps::MapId;

use crate::dataplane::maps::Maps;

/// The backends of the frontends that were asked for, remembered during one sweep.
#[derive(Debug)]
pub(super) struct Backends<'a> {
    pub(super) maps: &'a Maps,
    known: HashMap<(SocketAddr, u8), HashSet<SocketAddr>>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(maps: &'a Maps) -> Self {
        Self { maps, known: HashMap::new() }
    }

    /// Whether a frontend has a backend. A "no" is read afresh, because the agent may have added the backend, and a
    /// flow may have chosen it, since the frontend was read.
    pub(super) fn has(
        &mut self,
        frontend: SocketAddr,
        proto: u8,
        backend: SocketAddr,
    ) -> Result<bool, Error> {
        if self.known.get(&(frontend, proto)).is_some_and(|backends| backends.contains(&backend)) {
            return Ok(true);
        }
        let backends = self.read(frontend, proto)?;
        let has = backends.contains(&backend);
        self.known.insert((frontend, proto), backends);
        Ok(has)
    }

    fn read(&self, frontend: SocketAddr, proto: u8) -> Result<HashSet<SocketAddr>, Error> {
        let (frontends, array) = match frontend.ip() {
            IpAddr::V4(_) => (MapId::FRONTENDS_V4, MapId::BACKENDS_V4),
            IpAddr::V6(_) => (MapId::FRONTENDS_V6, MapId::BACKENDS_V6),
        };
        let key = Frontend::cluster(frontend.ip(), frontend.port(), proto).to_bytes();
        let value = self.maps.get(frontends).lookup(&key)?;
        let Some(value) = value.and_then(|value| entry::frontend_value(&value)) else {
            return Ok(HashSet::new());
        };
        // The range is not reused for a while after the frontend has left it, so these slots belong together.
        let slots = self.maps.slots(array, value.backends_start, value.backends_count.into())?;
        let backends = slots.iter().filter_map(|(_, slot)| Backend::from_bytes(slot));
        Ok(backends.map(|backend| SocketAddr::new(backend.addr, backend.port)).collect())
    }
}
