//! Writes the translation of a flow into its packets.
use aya_ebpf::programs::TcContext;
use dataplane_common::{endpoint::EndpointValue, verdict::DropReason};

use crate::{
    flow::Scratch,
    packet::{self, Parse},
    tables::Endpoints,
};

/// Writes the translation to the packet, and to what is known of it.
#[inline(never)]
pub(crate) fn translate<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<(), DropReason> {
    packet::rewrite::<F>(ctx, &scratch.packet, &scratch.translation)?;
    scratch.packet.tuple = scratch.translation;
    Ok(())
}

/// Remembers that a pod has translated flows: from now on its packets look for conntrack entries.
#[inline(always)]
pub(crate) fn mark_translated<F: Endpoints>(addr: &F::Addr) {
    if let Some(endpoint) = F::endpoint(addr) {
        set_translated(endpoint);
    }
}

#[inline(always)]
fn set_translated(endpoint: *mut EndpointValue) {
    // SAFETY: the entry outlives the program run (RCU); a single byte is only ever set to 1.
    unsafe { (*endpoint).translated = 1 }
}
