//! Which backends a frontend has at this moment, from the maps themselves.
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use agent_core::entry::{self, Backend, Frontend};
use bpf_maps::Error;
use dataplane_common::{maps::MapId, service::FrontendValue};

use crate::dataplane::maps::Maps;

/// The maps of services.
pub(super) trait Tables {
    fn frontend(&self, frontend: Frontend) -> Result<Option<FrontendValue>, Error>;

    /// The backends in the slots that a frontend of this address names: those to choose from, and those that keep their flows.
    fn range(&self, addr: IpAddr, value: FrontendValue) -> Result<HashSet<SocketAddr>, Error>;
}

impl Tables for Maps {
    fn frontend(&self, frontend: Frontend) -> Result<Option<FrontendValue>, Error> {
        let map = if frontend.addr.is_ipv4() { MapId::FRONTENDS_V4 } else { MapId::FRONTENDS_V6 };
        let value = self.get(map).lookup(&frontend.to_bytes())?;
        Ok(value.and_then(|value| entry::frontend_value(&value)))
    }

    fn range(&self, addr: IpAddr, value: FrontendValue) -> Result<HashSet<SocketAddr>, Error> {
        let array = if addr.is_ipv4() { MapId::BACKENDS_V4 } else { MapId::BACKENDS_V6 };
        let slots = self.slots(array, value.backends_start, value.slots())?;
        let backends = slots.iter().filter_map(|(_, slot)| Backend::from_bytes(slot));
        Ok(backends.map(|backend| SocketAddr::new(backend.addr, backend.port)).collect())
    }
}

/// The backends of the frontends that were asked for, remembered during one portion of a sweep.
#[derive(Debug)]
pub(super) struct Backends<'a, T> {
    tables: &'a T,
    known: HashMap<Frontend, Known>,
}

/// What a frontend said, and the backends that it meant.
#[derive(Debug)]
struct Known {
    value: Option<FrontendValue>,
    backends: HashSet<SocketAddr>,
}

impl<'a, T: Tables> Backends<'a, T> {
    pub(super) fn new(tables: &'a T) -> Self {
        Self { tables, known: HashMap::new() }
    }

    /// Whether a frontend has a backend, if only for the flows that it has. Before a "no" the frontend is looked up once more, because the agent may have
    /// added the backend, and a flow may have chosen it, since. The range is read again only if the frontend names
    /// another one: a range is written before a frontend names it, never changed while one does, and not used again for
    /// a while after, so these slots belong together.
    pub(super) fn has(
        &mut self,
        frontend: SocketAddr,
        proto: u8,
        backend: SocketAddr,
    ) -> Result<bool, Error> {
        let addr = frontend.ip();
        let key = Frontend::cluster(addr, frontend.port(), proto);
        let slot = self.known.entry(key);
        if let Entry::Occupied(known) = &slot
            && known.get().backends.contains(&backend)
        {
            return Ok(true);
        }
        let value = self.tables.frontend(key)?;
        if let Entry::Occupied(known) = &slot
            && known.get().value == value
        {
            return Ok(false);
        }
        let backends = match value {
            Some(value) => self.tables.range(addr, value)?,
            None => HashSet::new(),
        };
        let has = backends.contains(&backend);
        slot.insert_entry(Known { value, backends });
        Ok(has)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use dataplane_common::net::proto;

    use super::*;

    /// A frontend and its range, and how often each is read.
    struct Counted {
        range: RefCell<(FrontendValue, HashSet<SocketAddr>)>,
        frontends: Cell<usize>,
        ranges: Cell<usize>,
    }

    impl Counted {
        fn new(backends: impl IntoIterator<Item = u16>) -> Self {
            let this = Self {
                range: RefCell::new((value(0), HashSet::new())),
                frontends: Cell::new(0),
                ranges: Cell::new(0),
            };
            this.flip(0, backends);
            this
        }

        /// The frontend names another range.
        fn flip(&self, start: u32, backends: impl IntoIterator<Item = u16>) {
            *self.range.borrow_mut() = (value(start), backends.into_iter().map(backend).collect());
        }

        fn reads(&self) -> (usize, usize) {
            (self.frontends.get(), self.ranges.get())
        }
    }

    impl Tables for Counted {
        fn frontend(&self, _: Frontend) -> Result<Option<FrontendValue>, Error> {
            self.frontends.set(self.frontends.get() + 1);
            Ok(Some(self.range.borrow().0))
        }

        fn range(&self, _: IpAddr, value: FrontendValue) -> Result<HashSet<SocketAddr>, Error> {
            self.ranges.set(self.ranges.get() + 1);
            assert_eq!(value, self.range.borrow().0);
            Ok(self.range.borrow().1.clone())
        }
    }

    fn value(backends_start: u32) -> FrontendValue {
        FrontendValue {
            service_id: 1,
            backends_start,
            backends_count: 1000,
            kept_count: 0,
            flags: 0,
            reserved: 0,
        }
    }

    fn backend(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, 2], port))
    }

    fn frontend() -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 1], 53))
    }

    #[test]
    fn an_orphaned_flow_costs_one_look_at_its_frontend_however_many_backends_that_has() {
        let tables = Counted::new(1..=1000);
        let mut backends = Backends::new(&tables);
        for port in 2001..=22_000 {
            assert!(!backends.has(frontend(), proto::UDP, backend(port)).unwrap());
        }
        assert_eq!(tables.reads(), (20_000, 1));
    }

    #[test]
    fn a_flow_whose_backend_is_there_costs_nothing_after_the_first() {
        let tables = Counted::new(1..=1000);
        let mut backends = Backends::new(&tables);
        for port in 1..=1000 {
            assert!(backends.has(frontend(), proto::UDP, backend(port)).unwrap());
        }
        assert_eq!(tables.reads(), (1, 1));
    }

    #[test]
    fn a_backend_that_came_meanwhile_is_seen_before_a_no() {
        let tables = Counted::new([1]);
        let mut backends = Backends::new(&tables);
        assert!(!backends.has(frontend(), proto::UDP, backend(2)).unwrap());
        tables.flip(8, [1, 2]);
        assert!(backends.has(frontend(), proto::UDP, backend(2)).unwrap());
        assert!(!backends.has(frontend(), proto::UDP, backend(3)).unwrap());
        assert_eq!(tables.reads(), (3, 2));
    }
}
