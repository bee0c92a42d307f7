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

    /// The backends in so many slots from a first one on, of a frontend of this address.
    fn range(&self, addr: IpAddr, start: u32, count: u32) -> Result<HashSet<SocketAddr>, Error>;
}

impl Tables for Maps {
    fn frontend(&self, frontend: Frontend) -> Result<Option<FrontendValue>, Error> {
        let map = if frontend.addr.is_ipv4() { MapId::FRONTENDS_V4 } else { MapId::FRONTENDS_V6 };
        let value = self.get(map).lookup(&frontend.to_bytes())?;
        Ok(value.and_then(|value| entry::frontend_value(&value)))
    }

    fn range(&self, addr: IpAddr, start: u32, count: u32) -> Result<HashSet<SocketAddr>, Error> {
        let array = if addr.is_ipv4() { MapId::BACKENDS_V4 } else { MapId::BACKENDS_V6 };
        let slots = self.slots(array, start, count)?;
        let backends = slots.iter().filter_map(|(_, slot)| Backend::from_bytes(slot));
        Ok(backends.map(|backend| SocketAddr::new(backend.addr, backend.port)).collect())
    }
}

/// What a backend is to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// New flows may go there.
    Chosen,
    /// It serves the flows that it has, and gets no new ones.
    Kept,
    Gone,
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
    chosen: HashSet<SocketAddr>,
    kept: HashSet<SocketAddr>,
}

impl Known {
    fn standing(&self, backend: SocketAddr) -> Standing {
        if self.chosen.contains(&backend) {
            Standing::Chosen
        } else if self.kept.contains(&backend) {
            Standing::Kept
        } else {
            Standing::Gone
        }
    }
}

impl<'a, T: Tables> Backends<'a, T> {
    pub(super) fn new(tables: &'a T) -> Self {
        Self { tables, known: HashMap::new() }
    }

    /// What a backend is to a frontend. Before a "no" the frontend is looked up once more, because the agent may have
    /// added the backend, and a flow may have chosen it, since. The range is read again only if the frontend names
    /// another one: a range is written before a frontend names it, never changed while one does, and not used again for
    /// a while after, so these slots belong together.
    pub(super) fn standing(
        &mut self,
        frontend: SocketAddr,
        proto: u8,
        backend: SocketAddr,
    ) -> Result<Standing, Error> {
        let addr = frontend.ip();
        let key = Frontend::cluster(addr, frontend.port(), proto);
        let slot = self.known.entry(key);
        if let Entry::Occupied(known) = &slot {
            let standing = known.get().standing(backend);
            if standing != Standing::Gone {
                return Ok(standing);
            }
        }
        let value = self.tables.frontend(key)?;
        if let Entry::Occupied(known) = &slot
            && known.get().value == value
        {
            return Ok(Standing::Gone);
        }
        let range = |start, count: u16| match count {
            0 => Ok(HashSet::new()),
            count => self.tables.range(addr, start, count.into()),
        };
        let known = match value {
            Some(of) => Known {
                value,
                chosen: range(of.backends_start, of.backends_count)?,
                kept: range(of.kept_start(), of.kept_count)?,
            },
            None => Known { value, chosen: HashSet::new(), kept: HashSet::new() },
        };
        let standing = known.standing(backend);
        slot.insert_entry(known);
        Ok(standing)
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

        fn range(&self, _: IpAddr, start: u32, count: u32) -> Result<HashSet<SocketAddr>, Error> {
            self.ranges.set(self.ranges.get() + 1);
            let (value, backends) = &*self.range.borrow();
            if start == value.kept_start() {
                assert_eq!(count, u32::from(value.kept_count));
                return Ok(HashSet::from([backend(KEPT)]));
            }
            assert_eq!((start, count), (value.backends_start, u32::from(value.backends_count)));
            Ok(backends.clone())
        }
    }

    /// The port of the backend that only keeps its flows.
    const KEPT: u16 = 60_000;

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
            assert_eq!(backends.standing(frontend(), proto::UDP, backend(port)).unwrap(), Standing::Gone);
        }
        assert_eq!(tables.reads(), (20_000, 1));
    }

    #[test]
    fn a_flow_whose_backend_is_there_costs_nothing_after_the_first() {
        let tables = Counted::new(1..=1000);
        let mut backends = Backends::new(&tables);
        for port in 1..=1000 {
            assert_eq!(backends.standing(frontend(), proto::UDP, backend(port)).unwrap(), Standing::Chosen);
        }
        assert_eq!(tables.reads(), (1, 1));
    }

    #[test]
    fn a_backend_that_came_meanwhile_is_seen_before_a_no() {
        let tables = Counted::new([1]);
        let mut backends = Backends::new(&tables);
        assert_eq!(backends.standing(frontend(), proto::UDP, backend(2)).unwrap(), Standing::Gone);
        tables.flip(8, [1, 2]);
        assert_eq!(backends.standing(frontend(), proto::UDP, backend(2)).unwrap(), Standing::Chosen);
        assert_eq!(backends.standing(frontend(), proto::UDP, backend(3)).unwrap(), Standing::Gone);
        assert_eq!(tables.reads(), (3, 2));
    }

    #[test]
    fn a_backend_that_only_keeps_its_flows_is_told_from_both_others() {
        let tables = Counted::new(1..=3);
        tables.range.borrow_mut().0.kept_count = 1;
        let mut backends = Backends::new(&tables);
        let mut standing = |port| backends.standing(frontend(), proto::UDP, backend(port)).unwrap();
        assert_eq!([2, KEPT, 4].map(&mut standing), [Standing::Chosen, Standing::Kept, Standing::Gone]);
        assert_eq!(tables.ranges.get(), 2, "each part once");
    }
}
