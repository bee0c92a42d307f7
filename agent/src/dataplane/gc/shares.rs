//! The shares of pods in the maps of established flows: counted by the programs, and counted once more here, because
//! entries also expire and because two CPUs may count at the same instant.
use std::{collections::HashMap, net::IpAddr};

use agent_core::entry;
use bpf_maps::Error;
use dataplane_common::{conntrack::CtShare, maps::MapId};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::flow::{Family, Flow};
use crate::dataplane::maps::Maps;

const ALL: u32 = CtShare::ALL;

/// One sweep's count.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Host interface of each local pod, once something needs it: a node where nothing is tracked reads no endpoints.
    interfaces: Option<HashMap<IpAddr, u32>>,
    before: HashMap<u32, CtShare>,
    counted: HashMap<u32, Counted>,
}

/// Entries of one pod that a sweep met, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    kept: [u32; 2],
    deleted: [u32; 2],
}

/// A pod that wanted more established flows than it may have, or lost what it had among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) flows: u32,
    /// Halves of translated flows that were evicted while their clients went on sending.
    pub(super) evicted: u32,
    pub(super) established: u32,
}

impl Refused {
    pub(super) fn sentence(&self) -> String {
        let who = match &self.addresses[..] {
            [] => "the node's pods together".to_owned(),
            addresses => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("the pod with {}", addresses.join(" and "))
            }
        };
        let refused = (self.flows > 0).then(|| {
            format!(
                "has {} established flows, its share while others need room; {} packets found no room for one more: \
                 such flows go on, and may be forgotten when more come",
                self.established, self.flows
            )
        });
        let evicted = (self.evicted > 0).then(|| {
            format!(
                "lost half of a flow {} times while its client went on sending, because more new flows come than there \
                 is room for; each was brought back by its client's next packet",
                self.evicted
            )
        });
        let what: Vec<String> = refused.into_iter().chain(evicted).collect();
        format!("{who} {}", what.join(", and it "))
    }
}

impl Shares {
    /// What is there when a sweep begins.
    pub(super) fn begin(maps: &Maps) -> Result<Self, Error> {
        Ok(Self { interfaces: None, before: read(maps)?, counted: HashMap::new() })
    }

    /// Notes an entry of a map of established flows, which stays or is deleted.
    pub(super) fn note(
        &mut self,
        maps: &Maps,
        family: Family,
        flow: &Flow,
        is_deleted: bool,
    ) -> Result<(), Error> {
        let interfaces = interfaces(&mut self.interfaces, maps)?;
        let payer = flow.ends().iter().find_map(|end| interfaces.get(end)).copied().unwrap_or(ALL);
        // The other half of a flow that is deleted goes with it, without being met.
        let entries = if is_deleted && flow.is_translated() { 2 } else { 1 };
        for index in if payer == ALL { vec![ALL] } else { vec![ALL, payer] } {
            let counted = self.counted.entry(index).or_default();
            let of = if is_deleted { &mut counted.deleted } else { &mut counted.kept };
            of[family as usize] += entries;
        }
        Ok(())
    }

    /// Writes what the sweep found, and tells who was refused flows since it began.
    pub(super) fn finish(&mut self, maps: &Maps) -> Result<Vec<Refused>, Error> {
        let map = maps.get(MapId::CT_SHARES);
        let mut refused = Vec::new();
        for (index, now) in read(maps)? {
            let before = self.before.get(&index).copied().unwrap_or(CtShare::NONE);
            let counted = self.counted.get(&index).copied().unwrap_or_default();
            // Whoever has nothing needs no entry: the programs make it again.
            if now == CtShare::NONE && before == now && counted == Counted::default() {
                if index != ALL {
                    map.delete(index.as_bytes())?;
                }
                continue;
            }
            let interfaces = interfaces(&mut self.interfaces, maps)?;
            let addresses: Vec<_> =
                interfaces.iter().filter(|(_, at)| **at == index).map(|(addr, _)| *addr).collect();
            if index != ALL && addresses.is_empty() {
                map.delete(index.as_bytes())?;
                continue;
            }
            let right = corrected(&before, &now, counted);
            if right != now {
                map.update(index.as_bytes(), right.as_bytes())?;
            }
            let flows = now.refused.saturating_sub(before.refused);
            let evicted = now.evicted.saturating_sub(before.evicted);
            if flows > 0 || evicted > 0 {
                let established = now.established_v4.saturating_add(now.established_v6);
                refused.push(Refused { addresses, flows, evicted, established });
            }
        }
        Ok(refused)
    }
}

fn interfaces<'a>(
    known: &'a mut Option<HashMap<IpAddr, u32>>,
    maps: &Maps,
) -> Result<&'a HashMap<IpAddr, u32>, Error> {
    if known.is_none() {
        let mut interfaces = HashMap::new();
        for map in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
            interfaces.extend(maps.get(map).dump()?.iter().filter_map(|(key, value)| {
                Some((entry::addr_from_bytes(key)?, entry::endpoint_value(value)?.ifindex))
            }));
        }
        *known = Some(interfaces);
    }
    Ok(known.get_or_insert_default())
}

/// The right numbers at the end of a sweep. Where the programs counted nothing meanwhile, they are what the sweep met;
/// otherwise it may have missed what came behind it, and only what it deleted itself is taken off.
fn corrected(before: &CtShare, now: &CtShare, counted: Counted) -> CtShare {
    let right = |before: u32, now: u32, family: usize| {
        if before == now { counted.kept[family] } else { now.saturating_sub(counted.deleted[family]) }
    };
    CtShare {
        established_v4: right(before.established_v4, now.established_v4, 0),
        established_v6: right(before.established_v6, now.established_v6, 1),
        refused: now.refused,
        evicted: now.evicted,
    }
}

fn read(maps: &Maps) -> Result<HashMap<u32, CtShare>, Error> {
    let entries = maps.get(MapId::CT_SHARES).dump()?;
    Ok(entries
        .iter()
        .filter_map(|(key, value)| {
            Some((entry::number_from_bytes(key)?, CtShare::read_from_bytes(value).ok()?))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(established_v4: u32) -> CtShare {
        CtShare { established_v4, ..CtShare::NONE }
    }

    #[test]
    fn a_quiet_pod_has_what_the_sweep_met() {
        let counted = Counted { kept: [7, 3], deleted: [2, 0] };
        let right = corrected(&share(9), &share(9), counted);
        assert_eq!((right.established_v4, right.established_v6), (7, 3));
    }

    #[test]
    fn a_busy_pod_loses_only_what_the_sweep_deleted() {
        let counted = Counted { kept: [7, 0], deleted: [2, 0] };
        assert_eq!(corrected(&share(9), &share(100), counted).established_v4, 98);
        assert_eq!(corrected(&share(9), &share(1), counted).established_v4, 0);
    }

    #[test]
    fn refusals_and_evictions_are_never_taken_back() {
        let now = CtShare { refused: 5, evicted: 6, ..share(1) };
        let right = corrected(&share(1), &now, Counted::default());
        assert_eq!((right.refused, right.evicted), (5, 6));
    }

    #[test]
    fn a_pod_is_told_what_it_lost() {
        let lost = |flows, evicted| {
            Refused { addresses: vec![[10, 1, 0, 2].into()], flows, evicted, established: 7 }.sentence()
        };
        assert!(lost(3, 0).starts_with("the pod with 10.1.0.2 has 7 established flows"), "{}", lost(3, 0));
        assert!(lost(0, 2).contains("10.1.0.2 lost half of a flow 2 times"), "{}", lost(0, 2));
        assert!(lost(3, 2).contains("3 packets") && lost(3, 2).contains("2 times"), "{}", lost(3, 2));
    }
}
