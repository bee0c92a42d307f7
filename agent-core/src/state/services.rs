//! Services and their EndpointSlices.
use std::{
    collections::{BTreeMap, BTreeSet, btree_set},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::Changed;
use crate::{
    entry::Frontend,
    ids::{IdTable, ServiceId},
    model::{
        ObjectName,
        service::{EndpointSlice, Service, ServicePort},
    },
    update::Change,
};

/// The Services, who claims which frontend, and the slices of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    records: BTreeMap<Arc<ObjectName>, Record>,
    /// Every claim of a frontend, in the order in which claims win: by name.
    claims: BTreeSet<(Frontend, Arc<ObjectName>)>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    /// (Service, slice).
    slices_of: BTreeSet<(ObjectName, ObjectName)>,
    ids: IdTable,
}

#[derive(Clone, Debug)]
struct Record {
    service: Service,
    /// One per port, in their order.
    ids: Vec<ServiceId>,
}

/// The port of a Service that owns a frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) name: &'a Arc<ObjectName>,
    pub(crate) service: &'a Service,
    pub(crate) port: &'a ServicePort,
    pub(crate) id: ServiceId,
}

impl Services {
    pub(crate) fn apply_service(
        &mut self,
        change: Change<Service, ObjectName>,
        changed: &mut Changed,
    ) -> bool {
        let (name, new) = match change {
            Change::Apply(service) => (service.name.clone(), Some(service)),
            Change::Delete(name) => (name, None),
        };
        let old = self.records.get_key_value(&name).map(|(name, record)| (Arc::clone(name), record.clone()));
        if old.as_ref().map(|(_, record)| &record.service) == new.as_ref() {
            return false;
        }
        // New ids are taken before old ones are given back, so that a port that stays keeps its id.
        let key = old.as_ref().map_or_else(|| Arc::new(name), |(name, _)| Arc::clone(name));
        let record = new.map(|service| {
            let ids = service.ports.iter().map(|port| self.acquire(&service.name, port)).collect();
            Record { service, ids }
        });
        if let Some((_, old)) = old {
            changed.routes.extend(addresses(&old.service));
            for frontend in frontends(&old.service) {
                self.claims.remove(&(frontend, Arc::clone(&key)));
                changed.frontends.insert(frontend);
            }
            for id in old.ids {
                self.ids.release(id.0);
            }
            self.records.remove(&key);
        }
        if let Some(record) = record {
            changed.routes.extend(addresses(&record.service));
            for frontend in frontends(&record.service) {
                self.claims.insert((frontend, Arc::clone(&key)));
                changed.frontends.insert(frontend);
            }
            self.records.insert(key, record);
        }
        true
    }

    pub(crate) fn apply_slice(
        &mut self,
        change: Change<EndpointSlice, ObjectName>,
        changed: &mut Changed,
    ) -> bool {
        let (name, new) = match change {
            Change::Apply(slice) => (slice.name.clone(), Some(slice)),
            Change::Delete(name) => (name, None),
        };
        if self.slices.get(&name) == new.as_ref() {
            return false;
        }
        if let Some(old) = self.slices.remove(&name) {
            let service = service_of(&old);
            self.mark(&service, changed);
            self.slices_of.remove(&(service, name.clone()));
        }
        if let Some(slice) = new {
            let service = service_of(&slice);
            self.mark(&service, changed);
            self.slices_of.insert((service, name.clone()));
            self.slices.insert(name, slice);
        }
        true
    }

    /// The Service port that owns a frontend: of several claims the lowest name wins, then the first port.
    pub(crate) fn owner(&self, frontend: Frontend) -> Option<Owner<'_>> {
        let (_, name) = self.claimants(frontend).next()?;
        let record = self.records.get(name)?;
        let (port, id) = record
            .service
            .ports
            .iter()
            .zip(&record.ids)
            .find(|(port, _)| port.port == frontend.port && port.protocol.number() == frontend.proto)?;
        Some(Owner { name, service: &record.service, port, id: *id })
    }

    /// The Services that claim a frontend, the winner first.
    pub(crate) fn claimants(&self, frontend: Frontend) -> impl Iterator<Item = &(Frontend, Arc<ObjectName>)> {
        let lowest = Arc::new(ObjectName::new("", ""));
        self.claims.range((frontend, lowest)..).take_while(move |(claimed, _)| *claimed == frontend)
    }

    /// The slices of a Service, by name.
    pub(crate) fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let first = (service.clone(), ObjectName::new("", ""));
        self.slices_of
            .range(first..)
            .take_while(move |(owner, _)| owner == service)
            .filter_map(|(_, slice)| self.slices.get(slice))
    }

    /// Every frontend that is claimed, once.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = Frontend> {
        let mut last = None;
        self.claims.iter().filter_map(move |(frontend, _)| {
            (last.replace(*frontend) != Some(*frontend)).then_some(*frontend)
        })
    }

    /// Whether a prefix is the address of a Service.
    pub(crate) fn has_address(&self, prefix: IpNetwork) -> bool {
        let addr = prefix.network();
        let lowest = (Frontend::cluster(addr, 0, 0), Arc::new(ObjectName::new("", "")));
        let claimed = self.claims.range(lowest..).next();
        IpNetwork::from(addr) == prefix && claimed.is_some_and(|(frontend, _)| frontend.addr == addr)
    }

    /// For each family the longest prefix that holds the address of every Service.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        let first_v6 = Frontend::cluster(Ipv6Addr::UNSPECIFIED.into(), 0, 0);
        let middle = (first_v6, Arc::new(ObjectName::new("", "")));
        let ends = |mut claims: btree_set::Range<'_, (Frontend, Arc<ObjectName>)>| {
            let first = claims.next()?.0.addr;
            Some((first, claims.next_back().map_or(first, |(frontend, _)| frontend.addr)))
        };
        let (v4, v6) = (ends(self.claims.range(..middle.clone())), ends(self.claims.range(middle..)));
        [v4, v6].into_iter().flatten().filter_map(|(first, last)| common_prefix(first, last))
    }

    /// The address of every Service, as a prefix.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpNetwork> {
        self.services().flat_map(addresses)
    }

    /// Every port of every Service, with its id.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (ServiceId, &Service, &ServicePort)> {
        self.records.values().flat_map(|record| {
            record.ids.iter().zip(&record.service.ports).map(|(id, port)| (*id, &record.service, port))
        })
    }

    pub(crate) fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.records.values().map(|record| &record.service)
    }

    pub(crate) fn slices(&self) -> impl ExactSizeIterator<Item = &EndpointSlice> {
        self.slices.values()
    }

    fn mark(&self, service: &ObjectName, changed: &mut Changed) {
        if let Some(record) = self.records.get(service) {
            changed.frontends.extend(frontends(&record.service));
        }
    }

    fn acquire(&mut self, service: &ObjectName, port: &ServicePort) -> ServiceId {
        ServiceId(self.ids.acquire(&format!("{service}:{}:{}", port.name, port.protocol)))
    }
}

fn service_of(slice: &EndpointSlice) -> ObjectName {
    ObjectName::new(slice.name.namespace.clone(), slice.service.clone())
}

/// The longest prefix that holds two addresses of one family.
fn common_prefix(a: IpAddr, b: IpAddr) -> Option<IpNetwork> {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    let network = IpNetwork::new(a, u8::try_from(bits).ok()?).ok()?;
    IpNetwork::new(network.network(), network.prefix()).ok()
}

fn addresses(service: &Service) -> impl Iterator<Item = IpNetwork> {
    service.cluster_ips.iter().map(|addr| IpNetwork::from(*addr))
}

fn frontends(service: &Service) -> impl Iterator<Item = Frontend> {
    service.cluster_ips.iter().flat_map(|addr| {
        service.ports.iter().map(|port| Frontend::cluster(*addr, port.port, port.protocol.number()))
    })
}
