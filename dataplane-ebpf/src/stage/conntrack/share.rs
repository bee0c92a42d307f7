//! The share of each pod in the map of established flows. When two CPUs count for one pod at the same instant, one of them
//! is lost: the agent counts the entries themselves once a sweep, and writes what it found.
use aya_ebpf::bindings::BPF_NOEXIST;
use dataplane_common::conntrack::{CtShare, half};

use super::change;
use crate::{config, family::Family, flow::Scratch, maps::CT_SHARES, tables::Endpoints};

const ALL: u32 = CtShare::ALL;

/// The interface of the pod that a flow counts for: its client, or its server where the client is elsewhere.
#[inline(always)]
pub(super) fn payer<F: Endpoints>(scratch: &Scratch<F::Addr>, changes: u32) -> u32 {
    let packet = &scratch.packet.tuple;
    let beyond = if scratch.state.half == half::PLAIN {
        &packet.destination
    } else {
        &scratch.translation.destination
    };
    let (client, server) =
        if changes & change::IS_ORIGINAL != 0 { (&packet.source, beyond) } else { (beyond, &packet.source) };
    match interface::<F>(client) {
        ALL => interface::<F>(server),
        client => client,
    }
}

#[inline(always)]
fn interface<F: Endpoints>(addr: &F::Addr) -> u32 {
    // SAFETY: the agent replaces entries, it never edits this field in place.
    F::endpoint(addr).map_or(ALL, |endpoint| unsafe { (*endpoint).ifindex })
}

/// Whether one more entry of a pod may become established: a pod may have as many as are free for the others.
#[inline(always)]
pub(super) fn has_room<F: Family>(payer: u32) -> bool {
    let free = config::established_max(F::IS_V6).saturating_sub(established::<F>(ALL));
    payer == ALL || established::<F>(payer) < free
}

/// Counts an entry that is established now.
#[inline(always)]
pub(super) fn add<F: Family>(payer: u32) {
    count::<F>(ALL, |count| count.saturating_add(1));
    if payer != ALL {
        count::<F>(payer, |count| count.saturating_add(1));
    }
}

/// Counts an entry that is no longer established.
#[inline(always)]
pub(super) fn remove<F: Family>(payer: u32) {
    count::<F>(ALL, |count| count.saturating_sub(1));
    if payer != ALL {
        count::<F>(payer, |count| count.saturating_sub(1));
    }
}

/// Counts an entry that was to become established and could not.
#[inline(always)]
pub(super) fn refuse(payer: u32) {
    if let Some(share) = share(payer) {
        // SAFETY: the entry outlives the program run (RCU).
        unsafe { (*share).refused = (*share).refused.saturating_add(1) };
    }
}

/// Counts a half that was evicted while its flow was in use.
#[inline(always)]
pub(super) fn note_eviction(payer: u32) {
    if let Some(share) = share(payer) {
        // SAFETY: as in `refuse`.
        unsafe { (*share).evicted = (*share).evicted.saturating_add(1) };
    }
}

#[inline(always)]
fn established<F: Family>(of: u32) -> u32 {
    let Some(share) = CT_SHARES.get_ptr_mut(of) else { return 0 };
    // SAFETY: as in `refuse`.
    unsafe { if F::IS_V6 { (*share).established_v6 } else { (*share).established_v4 } }
}

#[inline(always)]
fn count<F: Family>(of: u32, change: impl FnOnce(u32) -> u32) {
    let Some(share) = share(of) else { return };
    // SAFETY: as in `refuse`.
    unsafe {
        let field =
            if F::IS_V6 { &raw mut (*share).established_v6 } else { &raw mut (*share).established_v4 };
        *field = change(*field);
    }
}

#[inline(always)]
fn share(of: u32) -> Option<*mut CtShare> {
    if let Some(share) = CT_SHARES.get_ptr_mut(of) {
        return Some(share);
    }
    // Another CPU may have been first.
    let _there = CT_SHARES.insert(of, CtShare::NONE, u64::from(BPF_NOEXIST));
    CT_SHARES.get_ptr_mut(of)
}
