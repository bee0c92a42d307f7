//! What can be read of the maps at any time, by whoever looks from outside. Never a whole map of flows: what a look costs
//! does not grow with them.
use std::sync::Arc;

use bpf_maps::Error;
use dataplane_common::{conntrack::CtShare, maps::MapId};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    Dataplane,
    hook::{PodHook, UplinkHook},
    maps::Maps,
};

/// The open maps, to be read.
#[derive(Clone, Debug)]
pub(crate) struct Readings(pub(super) Arc<Maps>);

impl Readings {
    /// The counters of all CPUs together, by slot.
    pub(crate) fn counters(&self) -> Result<Vec<u64>, Error> {
        let slots = self.0.get(MapId::COUNTERS).dump()?;
        let mut counters = vec![0; slots.len()];
        for (key, cpus) in slots {
            let slot = key.try_into().map_or(usize::MAX, |slot| u32::from_ne_bytes(slot) as usize);
            if let Some(counter) = counters.get_mut(slot) {
                *counter = sum(&cpus);
            }
        }
        Ok(counters)
    }

    /// Established flows, as the programs count them: IPv4, IPv6.
    pub(crate) fn established(&self) -> Result<[u32; 2], Error> {
        let value = self.0.get(MapId::CT_SHARES).lookup(CtShare::ALL.as_bytes())?;
        // Without an entry nobody has had any.
        let share = value.and_then(|value| CtShare::read_from_bytes(&value).ok()).unwrap_or(CtShare::NONE);
        Ok([share.established_v4, share.established_v6])
    }

    /// How many entries a map has room for.
    pub(crate) fn capacity(&self, map: MapId) -> u32 {
        self.0.get(map).info().max_entries
    }
}

impl Dataplane {
    /// What others may read of the maps.
    pub(crate) fn readings(&self) -> Readings {
        Readings(Arc::clone(&self.maps))
    }

    /// How many places for programs there are, with so many endpoints.
    pub(crate) fn hook_count(&self, endpoints: usize) -> usize {
        let (pods, uplinks) = (endpoints * PodHook::ALL.len(), self.uplinks.len() * UplinkHook::ALL.len());
        pods + uplinks + self.options.cgroup_hooks().len()
    }
}

/// The sum of one slot's values, one for each CPU.
fn sum(cpus: &[u8]) -> u64 {
    cpus.as_chunks::<8>().0.iter().map(|cpu| u64::from_ne_bytes(*cpu)).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_sum_of_its_cpus() {
        let cpus: Vec<u8> = [3_u64, 0, 39].iter().flat_map(|count| count.to_ne_bytes()).collect();
        assert_eq!(sum(&cpus), 42);
        assert_eq!(sum(&[]), 0);
    }
}
