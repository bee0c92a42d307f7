//! Answers a packet that nobody will: the client of a service without backends, of a port that it does not have, or of a
//! pod that is gone fails at once instead of waiting.
use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_ns, programs::TcContext};
use dataplane_common::{
    endpoint::EndpointValue,
    net::{MacAddr, proto},
    route::Rejections,
    verdict::DropReason,
};

use crate::{
    maps,
    packet::{self, Packet, Parse},
};

/// Turns the packet into its rejection, addressed to the pod that sent it.
#[inline(always)]
pub(crate) fn answer<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &EndpointValue,
) -> Result<(), DropReason> {
    answer_from::<F>(ctx, packet, source.pod_mac, source.host_mac)
}

/// The same, addressed to the machine that sent the frame.
#[inline(always)]
pub(crate) fn answer_back<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<(), DropReason> {
    answer_from::<F>(ctx, packet, packet.source_mac, packet::destination_mac(ctx)?)
}

#[inline(never)]
fn answer_from<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    to: MacAddr,
    from: MacAddr,
) -> Result<(), DropReason> {
    if packet.tuple.proto != proto::TCP && may_send_error(packet::ifindex(ctx)) == 0 {
        return Err(DropReason::RejectionLimit);
    }
    packet::reject::<F>(ctx, packet)?;
    packet::set_macs(ctx, to, from)
}

/// Whether an interface may be sent one more ICMP error, and counts it: 1 or 0. Each has a limit of its own, so that no pod
/// takes them from another. A global function: the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "the seconds since boot")]
extern "C" fn may_send_error(ifindex: u32) -> u32 {
    // SAFETY: the helper takes no argument. bpf_ktime_get_coarse_ns, which takes less time, came with v5.11.
    let second = (unsafe { bpf_ktime_get_ns() } >> Rejections::SECOND_BITS) as u32;
    if let Some(rejections) = maps::REJECTIONS.get_ptr_mut(ifindex) {
        // SAFETY: two CPUs that meet here count one for two, which a limit can bear.
        let rejections = unsafe { &mut *rejections };
        if rejections.second == second {
            rejections.count += 1;
            return u32::from(rejections.count <= Rejections::LIMIT);
        }
        *rejections = Rejections { second, count: 1 };
        return 1;
    }
    // Without room in the map nobody is told.
    u32::from(maps::REJECTIONS.insert(ifindex, Rejections { second, count: 1 }, BPF_ANY.into()).is_ok())
}
