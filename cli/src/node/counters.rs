//! What was counted and what was denied.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{
    maps::MapId,
    policy::{DeniedFlowKey, DeniedFlowValue, Direction},
    verdict::{COUNTERS_PER_HOOK, DropReason, Hook, OUTCOMES},
};

use super::{Node, Proto, unmapped};

/// Packets that a hook dropped for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drops {
    pub(crate) hook: Hook,
    pub(crate) reason: Reason,
    pub(crate) packets: u64,
}

/// A drop reason of this version, or a number that only a newer one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Known(DropReason),
    Unknown(u32),
}

/// A flow that policy denied lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
    pub(crate) proto: Proto,
    pub(crate) direction: Direction,
    pub(crate) set: u32,
    pub(crate) last_seen: u64,
    pub(crate) packets: u64,
}

/// What was dropped, most first.
pub(crate) fn drops(node: &Node) -> Result<Vec<Drops>> {
    let slots = node.map(MapId::COUNTERS)?.dump_per_cpu()?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let slot = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
    let sums = slots.iter().map(|(key, cpus)| (slot(key), cpus.iter().map(|cpu| number(cpu)).sum::<u64>()));
    let mut drops: Vec<Drops> = sums.filter_map(|(slot, packets)| decode(slot, packets)).collect();
    drops.sort_by_key(|drops| std::cmp::Reverse(drops.packets));
    Ok(drops)
}

fn decode(slot: u32, packets: u64) -> Option<Drops> {
    let hook = Hook::ALL.into_iter().find(|&hook| hook as u32 == slot / COUNTERS_PER_HOOK)?;
    let number = (slot % COUNTERS_PER_HOOK).checked_sub(OUTCOMES)?;
    let known = DropReason::ALL.iter().find(|&&reason| reason as u32 == number);
    let reason = known.map_or(Reason::Unknown(number), |&reason| Reason::Known(reason));
    (packets > 0).then_some(Drops { hook, reason, packets })
}

/// The flows that policy denied, latest first.
pub(crate) fn denied(node: &Node) -> Result<Vec<Denied>> {
    let entries = node.entries::<DeniedFlowKey, DeniedFlowValue>(MapId::DENIED_FLOWS)?;
    let decode = |(key, value): (DeniedFlowKey, DeniedFlowValue)| Denied {
        source: unmapped(key.source),
        destination: unmapped(key.destination),
        port: key.port.get(),
        proto: Proto(key.proto),
        direction: if key.direction == Direction::Egress as u8 {
            Direction::Egress
        } else {
            Direction::Ingress
        },
        set: key.set,
        last_seen: value.last_seen,
        packets: value.packets,
    };
    let mut denied: Vec<Denied> = entries.into_iter().map(decode).collect();
    denied.sort_by_key(|flow| (std::cmp::Reverse(flow.last_seen), flow.source, flow.destination, flow.port));
    Ok(denied)
}

#[cfg(test)]
mod tests {
    use dataplane_common::verdict::{Outcome, drop_slot, outcome_slot};

    use super::*;

    #[test]
    fn each_slot_is_read_as_it_is_written() {
        for hook in Hook::ALL {
            for &reason in DropReason::ALL {
                let expected = Drops { hook, reason: Reason::Known(reason), packets: 3 };
                assert_eq!(decode(drop_slot(hook, reason), 3), Some(expected));
            }
            for outcome in Outcome::ALL {
                assert_eq!(decode(outcome_slot(hook, outcome), 3), None);
            }
        }
    }

    #[test]
    fn a_reason_of_a_newer_version_keeps_its_number() {
        let drops = decode(OUTCOMES + 50, 1).unwrap();
        assert_eq!((drops.hook, drops.reason), (Hook::FromPod, Reason::Unknown(50)));
    }

    #[test]
    fn what_did_not_happen_is_not_shown() {
        assert_eq!(decode(drop_slot(Hook::ToPod, DropReason::Truncated), 0), None);
    }
}
