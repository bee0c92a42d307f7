//! Frontend to backend.
use aya_ebpf::helpers::bpf_get_prandom_u32;
use dataplane_common::{
    arith::{hash, search},
    net::Be16,
    route::{kind, slot},
    service::{FrontendValue, flag},
};

use crate::tables::{Routes, Services};

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
pub(crate) fn choose<F: Services>(addr: &F::Addr, port: Be16, proto: u8) -> Choice<F::Addr> {
    match F::frontend(addr, port, proto) {
        // The random number costs 21 ns: it is drawn only for a frontend.
        Some(frontend) => choose_of::<F>(&frontend),
        None => Choice::None,
    }
}

/// As [`choose`], of a frontend that was found.
#[inline(always)]
pub(crate) fn choose_of<F: Services>(frontend: &FrontendValue) -> Choice<F::Addr> {
    // SAFETY: the helper takes no argument.
    choose_with::<F>(frontend, || unsafe { bpf_get_prandom_u32() })
}

/// Chooses the backend that belongs to `seed`: the same one as long as the set of backends is the same.
#[inline(always)]
pub(crate) fn choose_by<F: Services>(frontend: &FrontendValue, seed: u64) -> Choice<F::Addr> {
    choose_with::<F>(frontend, || (hash::mix(seed) >> 32) as u32)
}

/// Whether an address is a service's, whatever the port. For those who found no frontend: an address that is none costs
/// them a comparison.
#[inline(always)]
pub(crate) fn has_address<F: Routes>(addr: &F::Addr) -> bool {
    F::is_in(slot::SERVICES, addr) && F::route(addr).is_some_and(|route| route.kind == kind::SERVICE)
}

/// Whether a backend is still one of a frontend's, if only for the flows that it has.
#[inline(always)]
pub(crate) fn contains<F: Services>(frontend: &FrontendValue, addr: &F::Addr, port: Be16) -> bool {
    let FrontendValue { backends_start, backends_count, kept_count, .. } = *frontend;
    let parts = [(backends_start, backends_count), (frontend.kept_start(), kept_count)];
    parts.into_iter().any(|(start, count)| is_among::<F>(start, count, addr, port))
}

#[inline(always)]
fn is_among<F: Services>(start: u32, count: u16, addr: &F::Addr, port: Be16) -> bool {
    // An array has every slot; a missing one ends the search at its place.
    let is_below = |slot| match F::backend(slot) {
        Some((at, at_port)) if at == *addr => at_port.raw() < port.raw(),
        Some((at, _)) => F::is_below(&at, addr),
        None => false,
    };
    match search::lower_bound(start, count, is_below) {
        Some(slot) => F::backend(slot) == Some((*addr, port)),
        None => false,
    }
}

#[inline(always)]
fn choose_with<F: Services>(frontend: &FrontendValue, random: impl FnOnce() -> u32) -> Choice<F::Addr> {
    if frontend.backends_count == 0 {
        return if frontend.flags & flag::DROP_WHEN_EMPTY != 0 { Choice::Drop } else { Choice::Reject };
    }
    let slot = frontend.backends_start + hash::pick(random(), u32::from(frontend.backends_count));
    match F::backend(slot) {
        Some((addr, port)) => Choice::Backend { addr, port, service_id: frontend.service_id },
        None => Choice::Reject,
    }
}
