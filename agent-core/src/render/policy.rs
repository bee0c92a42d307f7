//! Policies: sets, classes and address ranges.
use std::collections::BTreeSet;

use dataplane_common::policy::CLASS_ANY;

use super::{Desired, SetEntries};
use crate::{
    ids::{ClassId, SetId},
    state::{Changed, ClusterState, compiled::set::PolicySet},
};

pub(super) fn render(state: &ClusterState, changed: &Changed, desired: &mut Desired) {
    let compiled = &state.compiled;
    for addr in &changed.addresses {
        let pod = state.workloads.peer_at(*addr);
        desired.classes.insert(*addr, pod.and_then(|pod| compiled.class_of(pod)));
    }
    if changed.cidrs {
        desired.cidrs = Some(compiled.trie().clone());
    }
    // The sets of an endpoint are rendered with it, so that the plan can tell whether they fit.
    let used = desired.endpoints.values().flatten().flat_map(|endpoint| [endpoint.ingress, endpoint.egress]);
    let sets: BTreeSet<SetId> = used.flatten().chain(changed.sets.iter().copied()).collect();
    for (id, set) in compiled.sets() {
        for class in changed.classes.iter().filter(|_| !sets.contains(&id)) {
            let cell = compiled.class(*class).map(|view| set.cell(view)).unwrap_or_default();
            desired.cells.insert((id, *class), cell);
        }
        if set.is_lingering() {
            desired.lingering.insert(id);
        }
    }
    for id in sets {
        desired.sets.insert(id, compiled.set(id).map(|set| entries(state, set)));
    }
}

fn entries(state: &ClusterState, set: &PolicySet) -> SetEntries {
    let compiled = &state.compiled;
    let of_class = |id| compiled.class(id).map(|view| (id, set.cell(view)));
    let cells = compiled.classes().filter_map(of_class).chain([(ClassId(CLASS_ANY), set.cell_anywhere())]);
    SetEntries {
        policies: set.policies.iter().map(|list| list.policy.clone()).collect(),
        cells: cells.filter(|(_, cell)| !cell.is_empty()).collect(),
    }
}
