//! Counters, and the flows that policy denied.
use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_jiffies64};
use dataplane_common::{
    policy::{DeniedFlowKey, DeniedFlowValue, Direction},
    verdict::{DropReason, Hook, Outcome, drop_slot, outcome_slot},
};

use crate::{
    family::Family,
    flow::Scratch,
    maps::{COUNTERS, DENIED_FLOWS},
};

/// Counts a packet that was not dropped.
#[inline(always)]
pub(crate) fn count(hook: Hook, outcome: Outcome) {
    add_one(outcome_slot(hook, outcome));
}

/// Counts a dropped packet.
#[inline(always)]
pub(crate) fn count_drop(hook: Hook, reason: DropReason) {
    add_one(drop_slot(hook, reason));
}

#[inline(always)]
fn add_one(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the slot belongs to this CPU, and programs do not preempt each other on one CPU.
        unsafe { *counter += 1 };
    }
}

/// Remembers a flow that policy denied, for `millrace drops`. Only denied packets pay for it.
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value, the key would be copied once more")]
pub(crate) fn denied<F: Family>(scratch: &Scratch<F::Addr>, direction: Direction) {
    let tuple = &scratch.judged;
    let key = DeniedFlowKey {
        source: F::mapped(&tuple.source),
        destination: F::mapped(&tuple.destination),
        port: tuple.destination_port,
        proto: tuple.proto,
        direction: direction as u8,
        set: scratch.denied_by,
    };
    // SAFETY: the helper takes no argument.
    let now = unsafe { bpf_jiffies64() };
    if let Some(flow) = DENIED_FLOWS.get_ptr_mut(&key) {
        // SAFETY: the entry is not removed while the program runs (RCU); a lost count of two CPUs that write at
        // once is accepted for a hint.
        unsafe {
            (*flow).last_seen = now;
            (*flow).packets += 1;
        }
        return;
    }
    // A full map evicts the oldest flow, so this cannot fail in a way that matters.
    let _evicted =
        DENIED_FLOWS.insert(&key, DeniedFlowValue { last_seen: now, packets: 1 }, u64::from(BPF_ANY));
}
