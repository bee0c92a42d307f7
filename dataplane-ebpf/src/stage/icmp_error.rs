//! ICMP errors belong to the flow of the packet that they quote (RFC 5508 §4).
use aya_ebpf::programs::TcContext;
use dataplane_common::verdict::DropReason;

use crate::{
    flow::Scratch,
    packet::{self, Embedded, Parse},
};

/// Translates an error about a packet that the other side of the translation sent.
#[inline(never)]
pub(crate) fn translate<F: Parse>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    embedded: &Embedded<F::Addr>,
) -> Result<(), DropReason> {
    let translation = &scratch.translation;
    scratch.judged = scratch.packet.tuple;
    // A router on the way keeps its name; the end of the flow gets the one that the other side knows.
    if scratch.judged.source == embedded.tuple.destination {
        scratch.judged.source = translation.source;
    }
    scratch.judged.destination = translation.destination;
    packet::rewrite_embedded::<F>(ctx, &scratch.packet, embedded, &scratch.judged, &translation.reversed())?;
    scratch.packet.tuple = scratch.judged;
    Ok(())
}
