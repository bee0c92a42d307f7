//! Finds, refreshes and remembers flows. The design stands in `dataplane_common::conntrack`.
pub(crate) mod carrying;
pub(crate) mod direct;
pub(crate) mod host;
mod open;
mod share;

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_jiffies64};
use dataplane_common::{
    conntrack::{CtState, half, zone},
    net::{Be16, proto},
};

use self::open::restore;
pub(crate) use self::open::{Opening, open, open_beside, open_translated};
use crate::{
    flow::{Scratch, Tuple},
    global::global,
    packet::{Packet, tcp},
    tables::{Endpoints, Flows},
};

/// A flow that a packet belongs to.
pub(crate) struct Hit<F: Flows> {
    entry: *mut F::CtEntry,
    is_established: bool,
    /// The packet travels from the original source to the original destination.
    pub(crate) is_original: bool,
}

/// The key of a tuple, and whether its source is the high end.
#[inline(always)]
fn key<F: Flows>(tuple: &Tuple<F::Addr>, zone: u8) -> (F::CtKey, bool) {
    let source_is_high = if tuple.source == tuple.destination {
        tuple.destination_port.raw() < tuple.source_port.raw()
    } else {
        F::is_below(&tuple.destination, &tuple.source)
    };
    let key = if source_is_high {
        F::ct_key(
            &tuple.destination,
            &tuple.source,
            tuple.destination_port,
            tuple.source_port,
            tuple.proto,
            zone,
        )
    } else {
        F::ct_key(
            &tuple.source,
            &tuple.destination,
            tuple.source_port,
            tuple.destination_port,
            tuple.proto,
            zone,
        )
    };
    (key, source_is_high)
}

/// The entry of a key, and whether it is in the map of established flows.
#[inline(always)]
fn entry<F: Flows>(key: &F::CtKey) -> Option<(*mut F::CtEntry, bool)> {
    match F::ct_established(key) {
        Some(entry) => Some((entry, true)),
        None => F::ct_new(key).map(|entry| (entry, false)),
    }
}

/// The tag of an entry, as it is now.
#[inline(always)]
fn tag<F: Flows>(entry: *mut F::CtEntry) -> u32 {
    // SAFETY: `entry` comes from a look-up of this program run. The kernel may give its element to another flow
    // meanwhile, but the memory stays that of an entry.
    unsafe { (&raw const (*F::ct_state(entry)).tag).read_volatile() }
}

/// Writes one field of the state of an entry.
macro_rules! set {
    ($family:ty, $entry:expr, $field:ident, $value:expr) => {
        // SAFETY: as for `tag`: a single aligned store into an entry.
        unsafe { (*<$family>::ct_state($entry)).$field = $value }
    };
}

impl<F: Flows> Hit<F> {
    /// Whether the packet belongs to another flow between the same ends: the half that a client sends on translates
    /// what the client sends, the other half what the backend sends.
    #[inline(always)]
    pub(crate) fn is_against(&self, state: &CtState) -> bool {
        match state.half {
            half::PLAIN => false,
            half::CLIENT => !self.is_original,
            _ => self.is_original,
        }
    }

    /// Notes that a packet came: a flow that is still in use does not expire, a denied one neither. Tells what this
    /// changes in the other half: while a translated flow may be evicted, no half of it must be the one that looks idle.
    #[inline(always)]
    pub(crate) fn touch(&self, state: &CtState) -> u32 {
        let now = now();
        if state.last_seen == now {
            return 0;
        }
        set!(F, self.entry, last_seen, now);
        if self.is_established || state.half != half::CLIENT { 0 } else { change::KEPT }
    }

    /// What the packet changes in its flow, by bits of [`change`]: it follows TCP's end, promotes and demotes.
    #[inline(always)]
    pub(crate) fn changes(&self, packet: &Packet<F::Addr>, state: &CtState) -> u32 {
        if packet.tuple.proto == proto::TCP {
            if packet.tcp_flags & tcp::RST != 0 {
                return change::RESET;
            }
            if packet.tcp_flags & tcp::FIN != 0 {
                let other_is_done = if self.is_original { state.fin_reply } else { state.fin_original } != 0;
                return if self.is_original { change::FIN_ORIGINAL } else { change::FIN_REPLY }
                    | if other_is_done { change::CLOSED } else { 0 };
            }
            if packet.is_syn() {
                return if self.is_original || state.replied != 0 { 0 } else { change::REPLIED };
            }
        }
        // A segment after a reset: the other end did not take it, so the flow lives.
        let revived = if state.reset != 0 { change::REVIVED } else { 0 };
        if self.is_original {
            // The third packet: an answered SYN alone, as in a SYN flood, must not become established.
            let is_promoted = state.replied != 0 && !self.is_established && state.closed == 0;
            return revived | if is_promoted { change::PROMOTED } else { 0 };
        }
        revived | if state.replied == 0 { change::REPLIED } else { 0 }
    }
}

global! {
    /// See [`change_halves`].
    fn change_both(changes) -> u32 = change_halves, change_flow_v4, change_flow_v6
}

/// Makes the changes of `scratch.changes` in the flow of the packet, in both halves of it.
#[inline(always)]
pub(crate) fn change<F: Flows>(scratch: &mut Scratch<F::Addr>) {
    let is_half_gone = change_both::<F>(scratch, scratch.changes) != 0;
    if is_half_gone && scratch.changes & change::KEPT != 0 && !restore::<F>(scratch) {
        // Another flow has taken its place: this one has ended.
        change_both::<F>(scratch, change::FORGOTTEN);
    }
}

#[inline(always)]
fn change_halves<F: Flows + Endpoints>(scratch: &mut Scratch<F::Addr>, changes: u32) -> u32 {
    const COUNTED: u32 = change::PROMOTED | change::CLOSED | change::FORGOTTEN;
    scratch.payer = if changes & COUNTED == 0 { 0 } else { share::payer::<F>(scratch, changes) };
    if changes & !(change::KEPT | change::IS_ORIGINAL) != 0 {
        let zone = zone(scratch.state.half, &scratch.state);
        change_half::<F>(&scratch.packet.tuple, zone, None, scratch, changes);
    }
    if scratch.state.half == half::PLAIN {
        return 0;
    }
    let zone = zone(half::CLIENT + half::BACKEND - scratch.state.half, &scratch.state);
    // What its key holds is the other half only if it turns an answer to this packet back.
    let is_there =
        change_half::<F>(&scratch.translation, zone, Some(&scratch.packet.tuple), scratch, changes);
    if !is_there && changes & change::KEPT != 0 {
        share::note_eviction(share::payer::<F>(scratch, changes));
    }
    u32::from(!is_there)
}

#[inline(never)]
fn change_half<F: Flows>(
    tuple: &Tuple<F::Addr>,
    zone: u8,
    partner: Option<&Tuple<F::Addr>>,
    scratch: &Scratch<F::Addr>,
    changes: u32,
) -> bool {
    let (key, _) = key::<F>(tuple, zone);
    let Some((entry, is_established)) = entry::<F>(&key) else { return false };
    if partner.is_some_and(|partner| F::ct_nat(entry, tuple.proto) != partner.reversed())
        || tag::<F>(entry) != F::ct_tag(&key)
    {
        return false;
    }
    let established = if is_established { change::IS_ESTABLISHED } else { 0 };
    write::<F>(&key, entry, scratch, changes | established);
    true
}

/// What may change in a flow that exists.
pub(crate) mod change {
    /// The flow was judged: verdict, rules and epoch are those of the scratch memory.
    pub(crate) const JUDGED: u32 = 1;
    pub(crate) const REPLIED: u32 = 1 << 1;
    pub(crate) const FIN_ORIGINAL: u32 = 1 << 2;
    pub(crate) const FIN_REPLY: u32 = 1 << 3;
    /// Both ends have finished: the flow goes back to the map whose entries may be evicted.
    pub(crate) const CLOSED: u32 = 1 << 4;
    /// A reset was seen. The flow stays where it is: whether its receiver takes it is not known here.
    pub(crate) const RESET: u32 = 1 << 5;
    pub(crate) const REVIVED: u32 = 1 << 6;
    pub(crate) const PROMOTED: u32 = 1 << 7;
    /// A new flow opens in its place.
    pub(crate) const FORGOTTEN: u32 = 1 << 8;
    /// The client sends, and the flow may be evicted: the half of its backend is as fresh as its own.
    pub(crate) const KEPT: u32 = 1 << 9;
    /// No change: the packet travels from client to server.
    pub(crate) const IS_ORIGINAL: u32 = 1 << 10;
    /// No change: the half at hand is in the map of established flows.
    pub(super) const IS_ESTABLISHED: u32 = 1 << 11;
}

/// Writes changes to one half.
#[inline(never)]
fn write<F: Flows>(key: &F::CtKey, entry: *mut F::CtEntry, scratch: &Scratch<F::Addr>, changes: u32) {
    if changes & change::JUDGED != 0 {
        set!(F, entry, egress_rule, scratch.state.egress_rule);
        set!(F, entry, ingress_rule, scratch.state.ingress_rule);
        set_verdict::<F>(entry, scratch);
    }
    if changes & change::REPLIED != 0 {
        set!(F, entry, replied, 1);
    }
    if changes & change::FIN_ORIGINAL != 0 {
        set!(F, entry, fin_original, 1);
    }
    if changes & change::FIN_REPLY != 0 {
        set!(F, entry, fin_reply, 1);
    }
    if changes & (change::RESET | change::REVIVED) != 0 {
        set!(F, entry, reset, u8::from(changes & change::RESET != 0));
    }
    if changes & change::KEPT != 0 {
        set!(F, entry, last_seen, now());
    }
    let is_established = changes & change::IS_ESTABLISHED != 0;
    if changes & change::CLOSED != 0 {
        set!(F, entry, closed, 1);
        // SAFETY: as for `tag`; the map copies the entry.
        if is_established && F::ct_insert_new(key, unsafe { &*entry }, u64::from(BPF_ANY)).is_ok() {
            F::ct_remove_established(key);
            share::remove::<F>(scratch.payer);
        }
    }
    if changes & change::PROMOTED != 0 && !is_established {
        // A flow that finds no room stays where it may be evicted.
        // SAFETY: as for `tag`; the map copies the entry.
        if share::has_room::<F>(scratch.payer) && F::ct_insert_established(key, unsafe { &*entry }).is_ok() {
            F::ct_remove_new(key);
            share::add::<F>(scratch.payer);
        } else {
            share::refuse(scratch.payer);
        }
    }
    if changes & change::FORGOTTEN != 0 {
        remove::<F>(key);
        if is_established {
            share::remove::<F>(scratch.payer);
        }
    }
}

/// Writes the epoch of a judgement and what came of it, in one store: another CPU that judges the flow at this moment
/// must not leave its verdict under this epoch.
#[inline(always)]
fn set_verdict<F: Flows>(entry: *mut F::CtEntry, scratch: &Scratch<F::Addr>) {
    let state = F::ct_state(entry);
    let [a, b, c, d] = scratch.epoch.to_ne_bytes();
    // SAFETY: as for `tag`; the layout of the state puts these fields into one aligned word, of which the others never
    // change.
    unsafe {
        let word = u64::from_ne_bytes([
            a,
            b,
            c,
            d,
            scratch.state.denied,
            (*state).mid_stream,
            (*state).half,
            (*state).origin_high,
        ]);
        state.byte_add(offset_of!(CtState, epoch)).cast::<u64>().write_volatile(word);
    }
}

#[inline(always)]
fn remove<F: Flows>(key: &F::CtKey) {
    F::ct_remove_established(key);
    F::ct_remove_new(key);
}

/// Marks the client's half of a flow whose service has lost its backend, so that a SYN chooses another. False when the flow
/// has ended or has another backend meanwhile.
#[inline(always)]
pub(crate) fn mark_backend_gone<F: Flows>(key: &F::CtKey, addr: &F::Addr, port: Be16) -> bool {
    let Some((entry, _)) = entry::<F>(key) else { return false };
    let backend = F::ct_nat(entry, 0);
    // SAFETY: as for `tag`.
    let half = unsafe { (*F::ct_state(entry)).half };
    let is_wanted = half == half::CLIENT && backend.destination == *addr && backend.destination_port == port;
    if !is_wanted || tag::<F>(entry) != F::ct_tag(key) {
        return false;
    }
    set!(F, entry, backend_gone, 1);
    true
}

/// Jiffies: 5 ns to read, where `bpf_ktime_get_ns` takes 38.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_jiffies64() }
}

/// Finds the flow of a packet in a zone, and copies what is known of it: its state, and the tuple that a half writes.
#[inline(always)]
pub(crate) fn find<F: Flows>(
    tuple: &Tuple<F::Addr>,
    zone: u32,
    state: &mut CtState,
    translation: &mut Tuple<F::Addr>,
) -> Option<Hit<F>> {
    #[expect(clippy::cast_possible_truncation, reason = "a value of `zone`")]
    let (key, source_is_high) = key::<F>(tuple, zone as u8);
    let (entry, is_established) = entry::<F>(&key)?;
    // SAFETY: as for `tag`; what is copied of another flow is not used.
    *state = unsafe { F::ct_state(entry).read() };
    if state.half != half::PLAIN {
        *translation = F::ct_nat(entry, tuple.proto);
    }
    if tag::<F>(entry) != F::ct_tag(&key) {
        return None;
    }
    let is_original = (state.origin_high != 0) == source_is_high;
    Some(Hit { entry, is_established, is_original })
}

/// The zone of one half of a flow. Without a branch, for the verifier would walk both of its ends to the last.
#[inline(always)]
const fn zone(half: u8, state: &CtState) -> u8 {
    const { assert!(half::CLIENT == 1 && half::BACKEND == 2 && zone::POD == 0) };
    (half & half::CLIENT) * state.client_zone
}

/// Whether the packet starts a new flow over what is left of an old one.
#[inline(always)]
pub(crate) fn is_reopened<A: Copy>(state: &CtState, packet: &Packet<A>) -> bool {
    packet.is_syn() && state.closed | state.reset | state.denied | state.mid_stream | state.backend_gone != 0
}
