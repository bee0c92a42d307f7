//! Answers a packet to a service without backends, so that its client fails at once instead of waiting.
use aya_ebpf::programs::TcContext;
use dataplane_common::{endpoint::EndpointValue, verdict::DropReason};

use crate::packet::{self, Packet, Parse};

/// Turns the packet into its rejection, addressed to the pod that sent it.
#[inline(never)]
pub(crate) fn answer<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &EndpointValue,
) -> Result<(), DropReason> {
    packet::reject::<F>(ctx, packet)?;
    packet::set_macs(ctx, source.pod_mac, source.host_mac)
}
