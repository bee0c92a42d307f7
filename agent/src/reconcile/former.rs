//! Whose policy sets there were: a flow that was denied is listed for longer than the policy that denied it exists.
use std::collections::BTreeMap;

use agent_core::{
    catalog::{Catalog, FormerSet},
    ids::SetId,
    model::ObjectName,
    render::Desired,
};

/// Former sets that are remembered: more than a node has at a time, and little to write.
const REMEMBERED: usize = 512;

/// The policies of each set that is rendered, and of those that were.
#[derive(Debug, Default)]
pub(super) struct Sets {
    present: BTreeMap<SetId, Vec<ObjectName>>,
    former: BTreeMap<SetId, FormerSet>,
}

impl Sets {
    /// Continues from what the agent before wrote.
    pub(super) fn of(catalog: Catalog) -> Self {
        let present = catalog.sets.into_iter().map(|(id, info)| (id, info.policies)).collect();
        Self { present, former: catalog.former_sets }
    }

    /// Takes in what is rendered at this moment, in seconds since the epoch.
    pub(super) fn follow(&mut self, desired: &Desired, now: u64) {
        for (id, entries) in &desired.sets {
            match entries {
                Some(entries) => {
                    self.former.remove(id);
                    self.present.insert(*id, entries.policies.clone());
                }
                None => self.end(*id, now),
            }
        }
        if desired.prune {
            let gone: Vec<SetId> =
                self.present.keys().filter(|id| !desired.sets.contains_key(id)).copied().collect();
            for id in gone {
                self.end(id, now);
            }
        }
        while self.former.len() > REMEMBERED
            && let Some(oldest) = self.former.iter().min_by_key(|(_, former)| former.until).map(|(id, _)| *id)
        {
            self.former.remove(&oldest);
        }
    }

    pub(super) const fn former(&self) -> &BTreeMap<SetId, FormerSet> {
        &self.former
    }

    fn end(&mut self, id: SetId, until: u64) {
        if let Some(policies) = self.present.remove(&id) {
            self.former.insert(id, FormerSet { policies, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::render::SetEntries;

    use super::*;

    fn desired(prune: bool, sets: &[(u32, Option<&str>)]) -> Desired {
        let entries = |policy: &str| SetEntries {
            policies: vec![ObjectName::new("shop", policy)],
            cells: BTreeMap::new(),
        };
        let sets = sets.iter().map(|(id, policy)| (SetId(*id), policy.map(entries))).collect();
        Desired { prune, sets, ..Desired::default() }
    }

    fn shown(sets: &Sets) -> Vec<String> {
        let former = sets.former().iter();
        former.map(|(id, former)| format!("{} {} {}", id.0, former.policies[0], former.until)).collect()
    }

    #[test]
    fn a_set_that_goes_is_remembered_until_it_comes_back() {
        let mut sets = Sets::default();
        sets.follow(&desired(false, &[(1, Some("a")), (2, Some("b"))]), 10);
        assert!(shown(&sets).is_empty());
        sets.follow(&desired(false, &[(1, None), (9, None)]), 20);
        assert_eq!(shown(&sets), ["1 shop/a 20"]);
        sets.follow(&desired(false, &[(1, None)]), 30);
        assert_eq!(shown(&sets), ["1 shop/a 20"], "it is gone already");
        sets.follow(&desired(false, &[(1, Some("a"))]), 40);
        assert!(shown(&sets).is_empty());
        sets.follow(&desired(true, &[(1, Some("a"))]), 50);
        assert_eq!(shown(&sets), ["2 shop/b 50"], "what a whole rendering does not have is gone");
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut sets = Sets::default();
        let count = u32::try_from(REMEMBERED).unwrap() + 3;
        for id in 1..=count {
            sets.follow(&desired(false, &[(id, Some("a"))]), 0);
            sets.follow(&desired(false, &[(id, None)]), u64::from(id));
        }
        assert_eq!(shown(&sets).len(), REMEMBERED);
        assert_eq!(shown(&sets)[0], "4 shop/a 4");
    }
}
