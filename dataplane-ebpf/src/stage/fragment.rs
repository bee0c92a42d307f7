//! Fragments in order: what comes before the first fragment of its datagram is held, and sent through the same hook
//! again behind it. There it is judged as if it came only now.
use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    programs::TcContext,
};
use dataplane_common::{
    fragment::{CLAIMED, EarlyFragment, EarlyKey, EarlyRing, HELD_NS, PLACES},
    verdict::{DropReason, Hook},
};

use crate::{
    flow::Scratch,
    global::global,
    maps::{EARLY_FRAGMENTS, EARLY_RINGS, EARLY_SCRATCH},
    packet::{self, Fragment, Packet},
    tables::Fragments,
};

/// What is to become of a fragment.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// It is its turn.
    Go,
    /// It is held, or a copy of it goes again, before what waited for it.
    Held,
    Dropped(DropReason),
}

impl Order {
    /// As the global function returns it: 0, a number that no reason has, or that of a reason.
    #[inline(always)]
    fn code(self) -> u32 {
        match self {
            Self::Go => 0,
            Self::Held => HELD,
            Self::Dropped(reason) => reason as u32,
        }
    }

    #[inline(always)]
    fn of_code(code: u32) -> Self {
        match code {
            0 => Self::Go,
            HELD => Self::Held,
            _ => Self::Dropped(DropReason::numbered(code).unwrap_or(DropReason::FragmentWithoutFirst)),
        }
    }
}

const HELD: u32 = 256;

/// Remembers a first fragment and sends what waited for it; holds a later one that came before it, if `holds`. `hook`
/// and `ifindex`, the pod's interface, choose the ring in which it waits; what the host itself sends has one of its own.
#[inline(always)]
pub(crate) fn put_in_order<F: Fragments>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    hook: Hook,
    ifindex: u32,
    is_from_host: bool,
    holds: bool,
) -> Order {
    let side = hook as u32 | u32::from(is_from_host) << 8;
    Order::of_code(ordered::<F>(ctx, scratch, ifindex, side, u32::from(holds)))
}

global! {
    /// See [`order`].
    fn ordered([ctx] ifindex, side, holds) -> u32 = order, ordered_v4, ordered_v6
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "two bytes")]
fn order<F: Fragments>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    ifindex: u32,
    side: u32,
    holds: u32,
) -> u32 {
    let ring = EarlyKey { ifindex, side: side as u16, place: 0 };
    let packet = &scratch.packet;
    match packet.fragment {
        Fragment::First => {
            packet::fragment::remember_first::<F>(packet);
            release::<F>(ctx, packet, ring)
        }
        Fragment::Orphan if holds != 0 => hold::<F>(ctx, packet, ring),
        Fragment::Orphan | Fragment::Later | Fragment::Whole => Order::Go,
    }
    .code()
}

#[inline(always)]
fn scratch() -> Option<&'static mut EarlyFragment> {
    // SAFETY: per-CPU memory. A run that is nested in another one (on egress) is about the same datagram, and the first
    // fragment of it has come: it holds nothing, and writes here what stands here already.
    EARLY_SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value, it does not fit the stack")]
fn hold<F: Fragments>(ctx: &TcContext, packet: &Packet<F::Addr>, ring: EarlyKey) -> Order {
    let Some(fragment) = scratch() else { return Order::Dropped(DropReason::FragmentWithoutFirst) };
    let now = packet::fragment::now();
    fragment.held_at = now;
    fragment.datagram = packet::fragment::datagram::<F>(packet);
    if !packet::fragment::save(ctx, fragment) {
        return Order::Dropped(DropReason::FragmentTooLong);
    }
    let key = EarlyKey { place: next_place(ring, now), ..ring };
    // What still stands there has waited in vain.
    let is_in_place_of_another = EARLY_FRAGMENTS.get_ptr(key).is_some();
    if EARLY_FRAGMENTS.insert(key, &*fragment, u64::from(BPF_ANY)).is_err() {
        return Order::Dropped(DropReason::FragmentWithoutFirst);
    }
    if packet::fragment::first::<F>(packet).is_some() {
        // It came to another CPU meanwhile, which then saw nothing to release.
        let _gone = EARLY_FRAGMENTS.remove(key);
        let _sent = packet::fragment::send_again(ctx, is_egress(ring));
    }
    if is_in_place_of_another {
        // One is held and one is lost: the loss is what is counted.
        return Order::Dropped(DropReason::FragmentWithoutFirst);
    }
    Order::Held
}

/// Takes the next place of the ring, the oldest one's.
#[inline(always)]
fn next_place(ring: EarlyKey, now: u64) -> u16 {
    let Some(state) = EARLY_RINGS.get_ptr_mut(ring) else {
        let state = EarlyRing { held_at: now, next: 1, reserved: 0 };
        // If there is no room, nobody finds the fragment, which is then overwritten by the next one.
        let _full = EARLY_RINGS.insert(ring, state, u64::from(BPF_ANY));
        return 0;
    };
    // SAFETY: the entry is not removed while the program runs (RCU). Of two CPUs that write at once, one may overwrite
    // the fragment of the other: both are the same pod's.
    #[expect(clippy::cast_possible_truncation, reason = "below a small constant")]
    unsafe {
        let next = (*state).next;
        (*state).next = next.wrapping_add(1);
        (*state).held_at = now;
        (next % u32::from(PLACES)) as u16
    }
}

/// Sends the first fragment once more, and behind it those that waited.
#[inline(never)]
fn release<F: Fragments>(ctx: &TcContext, packet: &Packet<F::Addr>, ring: EarlyKey) -> Order {
    let now = packet::fragment::now();
    // SAFETY: copied out at once.
    let held_at = unsafe { EARLY_RINGS.get(ring) }.map_or(0, |ring| ring.held_at);
    if now.wrapping_sub(held_at) > HELD_NS {
        return Order::Go;
    }
    let Some(own) = scratch() else { return Order::Go };
    own.datagram = packet::fragment::datagram::<F>(packet);
    let mut claimed = 0;
    for place in 0..PLACES {
        claimed += claim(ring.ifindex, ring.side.into(), place.into(), now);
    }
    if claimed == 0 || !packet::fragment::send_again(ctx, is_egress(ring)) {
        return Order::Go;
    }
    for place in 0..PLACES {
        send_claimed(ctx.skb.skb, ring.ifindex, ring.side.into(), place.into());
    }
    Order::Held
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "two bytes each")]
const fn key_of(ifindex: u32, side: u32, place: u32) -> EarlyKey {
    EarlyKey { ifindex, side: side as u16, place: place as u16 }
}

/// Marks the fragment in a place, so that nobody else sends it: 1 if it waits for this CPU's datagram, else 0. A global
/// function: the verifier walks it once, not once a place with all that the places before may have left.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim(ifindex: u32, side: u32, place: u32, now: u64) -> u32 {
    let Some(own) = scratch() else { return 0 };
    let Some(held) = EARLY_FRAGMENTS.get_ptr_mut(key_of(ifindex, side, place)) else { return 0 };
    // SAFETY: the entry is not reused while the program runs but by a fragment for the same ring, which is judged like
    // any other when it is sent again.
    let held = unsafe { &mut *held };
    if !held.datagram.is(&own.datagram) || now.wrapping_sub(held.held_at) > HELD_NS {
        return 0;
    }
    held.held_at = CLAIMED;
    1
}

/// Sends the fragment in a place if it was claimed for this CPU's datagram: 1 if so, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_claimed(ctx: *mut __sk_buff, ifindex: u32, side: u32, place: u32) -> u32 {
    let ctx = TcContext::new(ctx);
    let key = key_of(ifindex, side, place);
    let Some(own) = scratch() else { return 0 };
    let Some(held) = EARLY_FRAGMENTS.get_ptr(key) else { return 0 };
    // SAFETY: see `claim`.
    let held = unsafe { &*held };
    if held.held_at != CLAIMED || !held.datagram.is(&own.datagram) {
        return 0;
    }
    if packet::fragment::become_saved(&ctx, held) {
        let _sent = packet::fragment::send_again(&ctx, is_egress(key));
    }
    let _gone = EARLY_FRAGMENTS.remove(key);
    1
}

#[inline(always)]
fn is_egress(ring: EarlyKey) -> bool {
    ring.side & 0xff == Hook::ToPod as u16
}
