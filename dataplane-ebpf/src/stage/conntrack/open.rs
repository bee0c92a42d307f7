//! Opens flows.
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_get_prandom_u32,
};
use dataplane_common::{
    conntrack::{CtState, half},
    net::Be16,
    verdict::DropReason,
};

use super::{direct, key, now, remove, zone};
use crate::{
    flow::{Allowed, Scratch},
    global::global,
    tables::Flows,
};

/// What to open.
pub(crate) struct Opening {
    pub(crate) service_id: u32,
    pub(crate) allowed: Allowed,
    /// A process of this host opens it.
    pub(crate) is_from_host: bool,
    /// Who opened it is not known.
    pub(crate) is_mid_stream: bool,
    /// See [`CtState::client_zone`].
    pub(crate) client_zone: u8,
}

impl Opening {
    /// Writes what every entry of the flow knows to the scratch memory.
    #[inline(always)]
    pub(super) fn prepare<A>(&self, scratch: &mut Scratch<A>) {
        scratch.state = CtState {
            tag: 0,
            service_id: self.service_id,
            last_seen: now(),
            epoch: scratch.epoch,
            denied: 0,
            mid_stream: u8::from(self.is_mid_stream),
            half: half::PLAIN,
            origin_high: 0,
            egress_rule: self.allowed.egress_rule,
            ingress_rule: self.allowed.ingress_rule,
            from_host: u8::from(self.is_from_host),
            replied: 0,
            fin_original: 0,
            fin_reply: 0,
            closed: 0,
            reset: 0,
            backend_gone: 0,
            client_zone: self.client_zone,
        };
    }
}

/// Opens a flow that is not translated, by a packet of it that was judged at `scratch.epoch`.
#[inline(always)]
pub(crate) fn open<F: Flows>(scratch: &mut Scratch<F::Addr>, opening: &Opening) {
    opening.prepare(scratch);
    put_half::<F>(scratch, half::PLAIN);
}

/// How many source ports are tried for a translated flow whose reply would collide with another one.
pub(super) const PORT_TRIES: u32 = 8;

/// Opens a translated flow: from the tuple of the packet, which the client sent, to `scratch.translation`, which the
/// backend is to see and which gets another source port where the reply would collide.
#[inline(always)]
pub(crate) fn open_translated<F: Flows>(
    scratch: &mut Scratch<F::Addr>,
    opening: &Opening,
) -> Result<(), DropReason> {
    opening.prepare(scratch);
    if put_both::<F>(scratch) != 0 { Ok(()) } else { Err(DropReason::NatPortsExhausted) }
}

global! {
    /// See [`put_halves`].
    fn put_both() -> u32 = put_halves, put_halves_v4, put_halves_v6
}

/// Creates both halves of a translated flow, if a port is found for it. 0 for false.
#[inline(always)]
fn put_halves<F: Flows>(scratch: &mut Scratch<F::Addr>) -> u32 {
    for _ in 0..PORT_TRIES {
        if put_half::<F>(scratch, half::BACKEND) {
            put_half::<F>(scratch, half::CLIENT);
            return 1;
        }
        scratch.translation.source_port = random_port();
    }
    0
}

/// Opens a flow whose two ends are those of a translated one: its backend sees another port. netfilter does the same.
#[inline(always)]
pub(crate) fn open_beside<F: Flows>(
    scratch: &mut Scratch<F::Addr>,
    opening: &Opening,
) -> Result<(), DropReason> {
    scratch.translation = scratch.packet.tuple;
    scratch.translation.source_port = random_port();
    open_translated::<F>(scratch, opening)?;
    direct::note();
    Ok(())
}

global! {
    /// See [`insert`].
    fn insert_half(half) -> u32 = insert, insert_half_v4, insert_half_v6
}

/// Creates the backend's half of a flow whose other half was found: it was evicted. False when another live flow has its
/// key.
#[inline(always)]
pub(super) fn restore<F: Flows>(scratch: &mut Scratch<F::Addr>) -> bool {
    put_half::<F>(scratch, half::BACKEND)
}

/// Creates one half of the flow that `scratch.state` describes. False when another live flow has its key.
#[inline(always)]
pub(super) fn put_half<F: Flows>(scratch: &mut Scratch<F::Addr>, half: u8) -> bool {
    insert_half::<F>(scratch, u32::from(half)) != 0
}

/// See [`put_half`]; 0 for false.
#[inline(always)]
fn insert<F: Flows>(scratch: &mut Scratch<F::Addr>, half: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a value of `half`")]
    let half = half as u8;
    let is_backends = half == half::BACKEND;
    let zone = zone(half, &scratch.state);
    let (key, origin_high) =
        key::<F>(if is_backends { &scratch.translation } else { &scratch.packet.tuple }, zone);
    if is_backends {
        scratch.judged = scratch.packet.tuple.reversed();
    } else if half == half::CLIENT {
        scratch.judged = scratch.translation;
    } else {
        scratch.judged = F::NO_TUPLE;
    }
    scratch.state.tag = F::ct_tag(&key);
    scratch.state.half = half;
    scratch.state.origin_high = u8::from(origin_high);
    let memory = (&raw mut scratch.entry).cast::<F::CtEntry>();
    // SAFETY: the memory has room for an entry of either family, aligned as an entry is, and nobody else uses it.
    let entry = unsafe {
        memory.write(F::ct_entry(&scratch.state, &scratch.judged));
        &*memory
    };
    if !is_backends {
        // Whoever calls knows of no established flow with this key. The only errors are those of a map whose entries
        // are all in use at this instant: the flow is then tracked from its next packet on.
        let _retried_by_next_packet = F::ct_insert_new(&key, entry, u64::from(BPF_ANY));
        return 1;
    }
    let reply = &scratch.judged;
    // Most keys are free, which the insertion itself tells.
    let old = match F::ct_established(&key) {
        Some(old) => old,
        None if F::ct_insert_new(&key, entry, u64::from(BPF_NOEXIST)).is_ok() => return 1,
        None => match F::ct_new(&key) {
            Some(old) => old,
            // Another CPU took the key and gave it back.
            None => return 0,
        },
    };
    // SAFETY: `old` comes from a look-up of this program run; what another flow made of it meanwhile costs a port.
    let (old_half, has_ended) = unsafe {
        let old = F::ct_state(old);
        ((*old).half, (*old).closed | (*old).reset != 0)
    };
    let is_ours = old_half == half::BACKEND && F::ct_nat(old, reply.proto) == *reply;
    if !is_ours && !has_ended {
        return 0;
    }
    remove::<F>(&key);
    // Another CPU may have taken the key since: then it is a collision as well.
    u32::from(F::ct_insert_new(&key, entry, u64::from(BPF_NOEXIST)).is_ok())
}

/// A port outside of the well-known range.
#[inline(always)]
fn random_port() -> Be16 {
    // SAFETY: the helper takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    Be16::new((random & 0x7fff) as u16 | 0x8000)
}
