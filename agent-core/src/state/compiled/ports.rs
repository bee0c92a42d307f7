//! Ports: ranges as prefixes, names as the numbers a pod gives them.
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    entry::PortPrefix,
    model::{Protocol, workload::Pod},
};

/// A named port: which numbers it stands for differs from pod to pod.
pub(crate) type PortName = (String, Protocol);

/// What names stand for in a pod. One name may have several numbers: names are unique only within a container.
pub(crate) type ResolvedPorts = BTreeMap<PortName, BTreeSet<u16>>;

/// The numbers of those names that a pod has.
pub(crate) fn resolve(pod: &Pod, is_used: impl Fn(&PortName) -> bool) -> ResolvedPorts {
    let mut resolved = ResolvedPorts::new();
    for port in pod.ports.iter().filter(|port| !port.name.is_empty()) {
        let name = (port.name.clone(), port.protocol);
        if is_used(&name) {
            resolved.entry(name).or_default().insert(port.port);
        }
    }
    resolved
}

/// The prefixes that cover the ports from `first` to `last` exactly; none when the range is empty.
pub(crate) fn prefixes(protocol: Protocol, first: u16, last: u16) -> impl Iterator<Item = PortPrefix> {
    let mut next = u32::from(first);
    let end = u32::from(last) + 1;
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        // The largest aligned block that starts here and does not pass the end.
        let aligned = next.trailing_zeros().min(16);
        let fitting = (end - next).ilog2();
        let host_bits = aligned.min(fitting);
        let prefix = PortPrefix::ports(protocol.number(), u16::try_from(next).ok()?, 16 - host_bits);
        next += 1 << host_bits;
        Some(prefix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_common::policy::PolicyKey;

    fn covered(first: u16, last: u16) -> Vec<u16> {
        let mut covered: Vec<u16> = prefixes(Protocol::Tcp, first, last)
            .flat_map(|prefix| {
                let host_bits = PolicyKey::FULL_BITS - prefix.prefix_len;
                let size = u16::try_from((1_u32 << host_bits) - 1).unwrap();
                prefix.port..=prefix.port | size
            })
            .collect();
        covered.sort_unstable();
        covered
    }

    #[test]
    fn a_range_is_covered_exactly_and_without_overlap() {
        for (first, last) in
            [(80, 80), (53, 80), (1, 65535), (0, 65535), (1, 2), (65535, 65535), (1000, 1999)]
        {
            assert_eq!(covered(first, last), (first..=last).collect::<Vec<_>>(), "{first}-{last}");
        }
    }

    #[test]
    fn a_reversed_range_is_empty() {
        assert_eq!(prefixes(Protocol::Tcp, 80, 53).count(), 0);
    }

    #[test]
    fn the_widest_ranges_need_few_prefixes() {
        assert_eq!(prefixes(Protocol::Tcp, 0, 65535).count(), 1);
        assert!(prefixes(Protocol::Tcp, 1, 65534).count() <= 30);
    }
}
