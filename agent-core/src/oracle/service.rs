//! Where services lead.
use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    entry::Backend,
    model::{
        Family,
        service::{Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy},
    },
    state::ClusterState,
};

/// What becomes of a new flow to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No Service has this address.
    NotAService,
    /// A Service has this address, and none has this port and protocol there: it is refused.
    NoSuchPort,
    /// It goes to one of these.
    OneOf(BTreeSet<Backend>),
    /// It is refused: no backend is usable.
    Reject,
    /// It is dropped: backends exist, but not on this node, and no other may be used.
    Drop,
}

/// Finds the backends of a cluster IP, seen from a node.
#[must_use]
pub fn resolve(state: &ClusterState, node_name: &str, addr: IpAddr, port: u16, protocol: u8) -> Choice {
    let (service, port) = match find(state, addr, port, protocol) {
        Found::NotAService => return Choice::NotAService,
        Found::NoSuchPort => return Choice::NoSuchPort,
        Found::Port(service, port) => (service, port),
    };
    let copies = copies(state, service, port, Family::of(addr));
    let local_only = service.internal_traffic_policy == TrafficPolicy::Local;
    let in_scope = |endpoint: &SliceEndpoint| !local_only || endpoint.node_name.as_deref() == Some(node_name);
    let fallback = |endpoint: &SliceEndpoint| endpoint.serving && endpoint.terminating;
    let select = |wanted: &dyn Fn(&SliceEndpoint) -> bool| -> BTreeSet<Backend> {
        copies.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(backend, _)| *backend).collect()
    };
    let ready = select(&|endpoint| in_scope(endpoint) && endpoint.ready);
    let terminating = select(&|endpoint| in_scope(endpoint) && fallback(endpoint));
    let anywhere = select(&|endpoint| endpoint.ready || fallback(endpoint));
    match (ready.is_empty(), terminating.is_empty()) {
        (false, _) => Choice::OneOf(ready),
        (true, false) => Choice::OneOf(terminating),
        (true, true) if local_only && !anywhere.is_empty() => Choice::Drop,
        (true, true) => Choice::Reject,
    }
}

/// The backends that a flow may stay with: of a TCP connection all, whatever a Service says, so none are named; of others
/// those that serve.
#[must_use]
pub fn keepers(state: &ClusterState, addr: IpAddr, port: u16, protocol: u8) -> BTreeSet<Backend> {
    let Found::Port(service, port) = find(state, addr, port, protocol) else { return BTreeSet::new() };
    let copies = copies(state, service, port, Family::of(addr)).into_iter();
    copies.filter(|(_, copy)| copy.ready || copy.serving).map(|(backend, _)| backend).collect()
}

/// What an address and a port are.
enum Found<'a> {
    NotAService,
    NoSuchPort,
    Port(&'a Service, &'a ServicePort),
}

fn find(state: &ClusterState, addr: IpAddr, port: u16, protocol: u8) -> Found<'_> {
    let claims = |wanted: &&ServicePort| wanted.port == port && wanted.protocol.number() == protocol;
    let mut claimants = state
        .services()
        .filter(|service| service.cluster_ips.contains(&addr) && !service.ports.is_empty())
        .peekable();
    if claimants.peek().is_none() {
        return Found::NotAService;
    }
    let found = claimants.filter_map(|service| Some((service, service.ports.iter().find(claims)?)));
    match found.min_by_key(|(service, _)| &service.name) {
        Some((service, port)) => Found::Port(service, port),
        None => Found::NoSuchPort,
    }
}

/// The copy of each backend that counts: not terminating beats terminating, then ready, then serving, then the slice
/// whose name sorts first.
fn copies<'a>(
    state: &'a ClusterState,
    service: &Service,
    wanted: &ServicePort,
    family: Family,
) -> Vec<(Backend, &'a SliceEndpoint)> {
    let mut copies: Vec<(Backend, &SliceEndpoint)> = Vec::new();
    let slices = state.slices().filter(|slice| {
        slice.name.namespace == service.name.namespace
            && slice.service == service.name.name
            && slice.family == family
    });
    for slice in slices {
        let is_it = |port: &&SlicePort| port.name == wanted.name && port.protocol == wanted.protocol;
        let Some(port) = slice.ports.iter().find(is_it) else { continue };
        let number = port.port.unwrap_or(wanted.port);
        let usable = |endpoint: &&SliceEndpoint| {
            Family::of(endpoint.address) == family && is_routable(endpoint.address)
        };
        for endpoint in slice.endpoints.iter().filter(usable) {
            let backend = Backend { addr: endpoint.address, port: number };
            match copies.iter_mut().find(|(known, _)| *known == backend) {
                None => copies.push((backend, endpoint)),
                Some((_, known)) => {
                    let is_better = (known.terminating && !endpoint.terminating)
                        || known.terminating == endpoint.terminating
                            && ((endpoint.ready && !known.ready)
                                || (endpoint.ready == known.ready && endpoint.serving && !known.serving));
                    if is_better {
                        *known = endpoint;
                    }
                }
            }
        }
    }
    copies
}

fn is_routable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            let [first, second, ..] = addr.octets();
            !matches!((first, second), (127 | 224..=239, _) | (169, 254)) && !addr.is_unspecified()
        }
        IpAddr::V6(addr) => {
            if let Some(mapped) = addr.to_ipv4_mapped() {
                let first = mapped.octets()[0];
                !matches!(first, 127 | 224..=239) && !mapped.is_unspecified()
            } else {
                let first = addr.segments()[0];
                !addr.is_loopback()
                    && !addr.is_unspecified()
                    && first & 0xffc0 != 0xfe80
                    && first & 0xff00 != 0xff00
            }
        }
    }
}
