//! Endpoints.
use dataplane_common::{endpoint::EndpointValue, policy::SET_DENY_ALL};
use zerocopy::IntoBytes;

use super::{Draft, Room, policy::Placed};
use crate::{
    entry::addr_to_bytes,
    model::Family,
    observed::Observed,
    problem::Scope,
    render::{Desired, EndpointEntry},
    table::Table,
};

pub(super) fn plan(desired: &Desired, observed: &Observed, placed: &Placed, draft: &mut Draft) {
    let map = |family| Table::Endpoints.map(family);
    let mut room = Room::new(observed, map);
    for (addr, wanted) in &desired.endpoints {
        let family = Family::of(*addr);
        let found = observed.endpoints.get(addr).copied();
        let Some(entry) = wanted else {
            if found.is_some() {
                draft.delete(map(family), addr_to_bytes(*addr));
            }
            continue;
        };
        let value = value(entry, found, placed);
        if !(placed.has(entry.ingress) && placed.has(entry.egress)) {
            draft.unplaced.endpoints.insert(*addr);
        }
        if found == Some(EndpointValue { translated: found.map_or(0, |found| found.translated), ..value }) {
            continue;
        }
        if found.is_none() && !room.take(family, 1) {
            draft.unplaced.endpoints.insert(*addr);
            let object = format!("Pod {}", entry.pod);
            draft.overflow(map(family), Scope::Endpoint(*addr), object, "has no network");
            continue;
        }
        let sets = |value: EndpointValue| (value.ingress_set, value.egress_set);
        // Entries of conntrack may remain of an earlier pod that had the address and no policy.
        draft.revokes |= found.map_or((0, 0), sets) != sets(value);
        draft.upsert(map(family), addr_to_bytes(*addr), value.as_bytes().to_vec());
    }
    if desired.prune {
        for addr in observed.endpoints.keys().filter(|addr| !desired.endpoints.contains_key(addr)) {
            draft.delete(map(Family::of(*addr)), addr_to_bytes(*addr));
        }
    }
}

fn value(entry: &EndpointEntry, found: Option<EndpointValue>, placed: &Placed) -> EndpointValue {
    EndpointValue {
        ifindex: entry.ifindex,
        ingress_set: placed.number(entry.ingress),
        egress_set: placed.number(entry.egress),
        pod_mac: entry.pod_mac,
        host_mac: entry.host_mac,
        // The programs may set it at any moment: a replacement that said 0 could undo that. What was closed had no
        // flow to translate; that is an endpoint whose pod was not known yet.
        translated: found.map_or(0, |found| if is_closed(found) { found.translated } else { 1 }),
        reserved: [0; 3],
    }
}

fn is_closed(value: EndpointValue) -> bool {
    (value.ingress_set, value.egress_set) == (SET_DENY_ALL, SET_DENY_ALL)
}
