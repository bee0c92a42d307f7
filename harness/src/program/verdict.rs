//! What a test run means: return value and counters to a verdict.
use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use aya::maps::MapData;
use dataplane_common::verdict::{DropReason, Hook, Outcome, drop_slot, outcome_slot};

/// What a program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's stack.
    Pass,
    /// The same, as if it came in by an uplink with this MAC address.
    PassInward([u8; 6]),
    /// Into the local pod with this MAC address.
    Deliver([u8; 6]),
    /// To another node.
    Forward,
    /// Answered with a rejection.
    Reject,
    /// Answered as the gateway.
    Answer,
    /// Ends here, and nothing is wrong.
    Heard,
    /// A fragment that is held until its first one has come, or that goes again with those that were.
    Held,
    Drop(DropReason),
}

/// tc return values.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// What passes a packet: programs of others on an uplink see what is not ours.
const fn passed(hook: Hook) -> u32 {
    match hook {
        Hook::FromNetdev | Hook::ToNetdev => TC_ACT_UNSPEC,
        Hook::FromPod | Hook::ToPod | Hook::Connect | Hook::Sendmsg => TC_ACT_OK,
    }
}

/// What a run counted.
pub(super) enum Counted {
    /// As it is where a hook looks at no more than where a packet comes from.
    Nothing,
    Outcome(Outcome),
    Drop(DropReason),
}

/// `struct __sk_buff` with `ingress_ifindex` and `ifindex` set: the fields that a test run may set and these programs
/// read.
pub(super) fn context(ifindex: u32, ingress_ifindex: u32) -> Vec<u8> {
    const SIZE: usize = 192;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    let mut context = vec![0; SIZE];
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ingress_ifindex.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// The one slot that went up by one.
pub(super) fn counted(
    hook: Hook,
    before: &BTreeMap<u32, u64>,
    after: &BTreeMap<u32, u64>,
) -> Result<Counted> {
    let changed: Vec<u32> = after
        .iter()
        .filter(|(slot, count)| before.get(slot).copied().unwrap_or_default() != **count)
        .map(|(slot, _)| *slot)
        .collect();
    if changed.is_empty() && hook == Hook::ToNetdev {
        return Ok(Counted::Nothing);
    }
    let [slot] = changed[..] else {
        bail!("one packet changed the counters {changed:?}");
    };
    let outcome = Outcome::ALL.into_iter().find(|outcome| outcome_slot(hook, *outcome) == slot);
    let drop = DropReason::ALL.iter().find(|reason| drop_slot(hook, **reason) == slot);
    match (outcome, drop) {
        (Some(outcome), _) => Ok(Counted::Outcome(outcome)),
        (None, Some(reason)) => Ok(Counted::Drop(*reason)),
        (None, None) => Err(anyhow!("counter {slot} has no meaning")),
    }
}

/// Holds return value and counter against each other: a packet is counted as what happens to it.
pub(super) fn verdict(hook: Hook, retval: u32, counted: Counted, frame: &[u8]) -> Result<Verdict> {
    match (retval, counted) {
        (TC_ACT_UNSPEC, Counted::Nothing) => Ok(Verdict::Pass),
        (retval, Counted::Outcome(Outcome::Passed)) if retval == passed(hook) => Ok(Verdict::Pass),
        (TC_ACT_REDIRECT, Counted::Outcome(Outcome::Passed)) => {
            Ok(Verdict::PassInward(*frame.first_chunk().ok_or_else(|| anyhow!("no Ethernet header left"))?))
        }
        (TC_ACT_REDIRECT, Counted::Outcome(Outcome::Delivered)) => {
            Ok(Verdict::Deliver(*frame.first_chunk().ok_or_else(|| anyhow!("no Ethernet header left"))?))
        }
        (TC_ACT_REDIRECT, Counted::Outcome(Outcome::Forwarded)) => Ok(Verdict::Forward),
        (TC_ACT_REDIRECT, Counted::Outcome(Outcome::Rejected)) => Ok(Verdict::Reject),
        (TC_ACT_REDIRECT, Counted::Outcome(Outcome::Answered)) => Ok(Verdict::Answer),
        (TC_ACT_SHOT, Counted::Outcome(Outcome::Answered)) => Ok(Verdict::Heard),
        (TC_ACT_SHOT, Counted::Outcome(Outcome::Held)) => Ok(Verdict::Held),
        (TC_ACT_SHOT, Counted::Drop(reason)) => Ok(Verdict::Drop(reason)),
        (retval, Counted::Nothing) => bail!("returned {retval}, counted as nothing"),
        (retval, Counted::Outcome(outcome)) => bail!("returned {retval}, counted as {}", outcome.name()),
        (retval, Counted::Drop(reason)) => bail!("returned {retval}, counted as {}", reason.name()),
    }
}

/// The descriptor behind a map of the loader.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the loader knows more types of maps than the programs use"
)]
pub(super) fn map_data(map: &aya::maps::Map) -> Result<&MapData> {
    use aya::maps::Map;
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::SkStorage(data) => Ok(data),
        _ => bail!("a map of a type that is not used"),
    }
}
