//! Frontend to backend.
use aya_ebpf::helpers::bpf_get_prandom_u32;
use dataplane_common::{arith::hash, net::Be16, service::flag};

use crate::family::Family;

/// What a frontend says about new flows to it.
pub(crate) enum Choice<A> {
    /// Not a frontend.
    None,
    Backend {
        addr: A,
        port: Be16,
        service_id: u32,
    },
    /// No usable backend anywhere.
    Reject,
    /// Backends exist, but the traffic policy keeps to this node and none is here.
    Drop,
}

/// Chooses a backend at random: for TCP, and for packets.
#[inline(always)]
pub(crate) fn choose<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> Choice<F::Addr> {
    // The random number costs 21 ns: it is drawn only for a frontend.
    choose_with::<F>(addr, port, proto, || {
        // SAFETY: the helper takes no argument.
        unsafe { bpf_get_prandom_u32() }
    })
}

/// Chooses the backend that belongs to `seed`: the same one as long as the set of backends is the same.
#[inline(always)]
pub(crate) fn choose_by<F: Family>(addr: &F::Addr, port: Be16, proto: u8, seed: u64) -> Choice<F::Addr> {
    choose_with::<F>(addr, port, proto, || (hash::mix(seed) >> 32) as u32)
}

#[inline(always)]
fn choose_with<F: Family>(
    addr: &F::Addr,
    port: Be16,
    proto: u8,
    random: impl FnOnce() -> u32,
) -> Choice<F::Addr> {
    let Some(frontend) = F::frontend(addr, port, proto) else {
        return Choice::None;
    };
    if frontend.backends_count == 0 {
        return if frontend.flags & flag::DROP_WHEN_EMPTY != 0 { Choice::Drop } else { Choice::Reject };
    }
    let slot = frontend.backends_start + hash::pick(random(), u32::from(frontend.backends_count));
    match F::backend(slot) {
        Some((addr, port)) => Choice::Backend { addr, port, service_id: frontend.service_id },
        None => Choice::Reject,
    }
}
