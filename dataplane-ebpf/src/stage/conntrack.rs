//! Finds, refreshes and opens flows. The design stands in `dataplane_common::conntrack`.
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_jiffies64},
};
use dataplane_common::{
    conntrack::{CtState, half},
    net::{Be16, proto},
    verdict::DropReason,
};

use crate::{
    family::Family,
    flow::{Allowed, Scratch, Tuple},
    maps::POLICY_EPOCH,
    packet::{Packet, tcp},
};

/// A flow that a packet belongs to.
pub(crate) struct Hit<F: Family> {
    key: F::CtKey,
    entry: *mut F::CtEntry,
    is_established: bool,
    /// The packet travels from the original source to the original destination.
    pub(crate) is_original: bool,
}

/// What to open.
pub(crate) struct Opening {
    service_id: u32,
    allowed: Allowed,
    from_host: bool,
}

impl Opening {
    #[inline(always)]
    pub(crate) fn new(service_id: u32, allowed: Allowed, from_host: bool) -> Self {
        Self { service_id, allowed, from_host }
    }
}

/// The key of a tuple, and whether its source is the high end.
#[inline(always)]
fn key<F: Family>(tuple: &Tuple<F::Addr>) -> (F::CtKey, bool) {
    let source_is_high = if tuple.source == tuple.destination {
        tuple.destination_port.raw() < tuple.source_port.raw()
    } else {
        F::is_below(&tuple.destination, &tuple.source)
    };
    let key = if source_is_high {
        F::ct_key(&tuple.destination, &tuple.source, tuple.destination_port, tuple.source_port, tuple.proto)
    } else {
        F::ct_key(&tuple.source, &tuple.destination, tuple.source_port, tuple.destination_port, tuple.proto)
    };
    (key, source_is_high)
}

/// Reads the state of an entry.
#[inline(always)]
fn state<F: Family>(entry: *mut F::CtEntry) -> CtState {
    // SAFETY: `entry` comes from a look-up of this program run, and entries are freed after it (RCU). Another CPU
    // may write a field meanwhile: each is a plain word or byte that is only ever set.
    unsafe { *F::ct_state(entry) }
}

/// Writes one field of the state of an entry.
macro_rules! set {
    ($family:ty, $entry:expr, $field:ident, $value:expr) => {
        // SAFETY: as for `state`: a single aligned store into an entry that outlives the program run.
        unsafe { (*<$family>::ct_state($entry)).$field = $value }
    };
}

impl<F: Family> Hit<F> {
    /// The state of the flow.
    #[inline(always)]
    pub(crate) fn state(&self) -> CtState {
        state::<F>(self.entry)
    }

    /// Notes the tuple to write to the packet; false when the flow is not translated.
    ///
    /// The half that a client sends on translates what the client sends, the other half what the backend sends. A
    /// packet in the wrong direction belongs to an untranslated flow between the same ends: it cannot be told from
    /// the translated one when its answer comes, so it does not get through.
    #[inline(always)]
    pub(crate) fn translate(&self, scratch: &mut Scratch<F::Addr>) -> Result<bool, DropReason> {
        let is_original = match self.state().half {
            half::PLAIN => return Ok(false),
            half::CLIENT => true,
            _ => false,
        };
        if self.is_original != is_original {
            return Err(DropReason::NatPortsExhausted);
        }
        scratch.translation = F::ct_nat(self.entry, scratch.packet.tuple.proto);
        Ok(true)
    }

    /// Notes that the flow was judged again.
    #[inline(always)]
    pub(crate) fn set_judged(&self, allowed: Allowed) {
        set!(F, self.entry, egress_rule, allowed.egress_rule);
        set!(F, self.entry, ingress_rule, allowed.ingress_rule);
        set!(F, self.entry, epoch, policy_epoch());
    }

    /// Forgets a flow that policy no longer allows, or that has ended. The partner of a translated flow expires by
    /// itself: it is judged by the same rules when a packet finds it, and a new flow takes its place.
    #[inline(always)]
    pub(crate) fn cut(&self) {
        F::ct_remove_established(&self.key);
        F::ct_remove_new(&self.key);
    }

    /// Takes the packet into account: refreshes, follows TCP's end, promotes and demotes.
    #[inline(always)]
    pub(crate) fn advance(&self, packet: &Packet<F::Addr>) {
        let now = now();
        let state = self.state();
        if state.last_seen != now {
            set!(F, self.entry, last_seen, now);
        }
        if packet.tuple.proto == proto::TCP && packet.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            self.end(packet, &state);
            return;
        }
        if self.is_original {
            // The third packet: an answered SYN alone, as in a SYN flood, must not become established.
            if state.replied != 0 && !self.is_established && state.closed == 0 && !packet.is_syn() {
                self.promote(packet.tuple.proto);
            }
        } else if state.replied == 0 {
            self.set_replied(packet.tuple.proto);
        }
    }

    // The steps that happen once per flow are subprograms: their partner's key must not add to the stack of each
    // packet's path.

    #[inline(never)]
    fn promote(&self, proto: u8) {
        promote::<F>(&self.key, self.entry);
        self.for_partner(proto, promote::<F>);
    }

    #[inline(never)]
    fn set_replied(&self, proto: u8) {
        set!(F, self.entry, replied, 1);
        self.for_partner(proto, |_, partner| set!(F, partner, replied, 1));
    }

    /// Follows FIN and RST. A flow that has ended goes back to the map whose entries may be evicted.
    #[inline(never)]
    fn end(&self, packet: &Packet<F::Addr>, state: &CtState) {
        let is_fin = packet.tcp_flags & tcp::RST == 0;
        let other_is_done = if self.is_original { state.fin_reply } else { state.fin_original } != 0;
        let is_closed = !is_fin || other_is_done;
        let is_original = self.is_original;
        let mark = |entry: *mut F::CtEntry| {
            if is_original {
                set!(F, entry, fin_original, 1);
            } else {
                set!(F, entry, fin_reply, 1);
            }
            if is_closed {
                set!(F, entry, closed, 1);
            }
        };
        mark(self.entry);
        if is_closed && self.is_established {
            demote::<F>(&self.key, self.entry);
        }
        self.for_partner(packet.tuple.proto, |key, partner| {
            mark(partner);
            if is_closed {
                demote::<F>(key, partner);
            }
        });
    }

    /// Runs `act` on the other half of a translated flow.
    #[inline(always)]
    fn for_partner(&self, proto: u8, act: impl FnOnce(&F::CtKey, *mut F::CtEntry)) {
        if self.state().half == half::PLAIN {
            return;
        }
        let (key, _) = key::<F>(&F::ct_nat(self.entry, proto));
        if let Some(partner) = F::ct_established(&key).or_else(|| F::ct_new(&key)) {
            act(&key, partner);
        }
    }
}

/// Moves a flow to the map of established flows. When that is full the flow stays where it may be evicted.
#[inline(always)]
fn promote<F: Family>(key: &F::CtKey, entry: *mut F::CtEntry) {
    // SAFETY: as for `state`; the map copies the entry.
    if F::ct_insert_established(key, unsafe { &*entry }).is_ok() {
        F::ct_remove_new(key);
    }
}

/// Moves a flow that has ended to the map whose entries may be evicted.
#[inline(always)]
fn demote<F: Family>(key: &F::CtKey, entry: *mut F::CtEntry) {
    // SAFETY: as for `state`; the map copies the entry.
    if F::ct_insert_new(key, unsafe { &*entry }, u64::from(BPF_ANY)).is_ok() {
        F::ct_remove_established(key);
    }
}

/// Jiffies: 5 ns to read, where `bpf_ktime_get_ns` takes 38.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_jiffies64() }
}

/// The current policy epoch.
#[inline(always)]
pub(crate) fn policy_epoch() -> u32 {
    POLICY_EPOCH.get(0).copied().unwrap_or(0)
}

/// Finds the flow that an ICMP error is about. The error travels against the packet that it quotes.
#[inline(always)]
pub(crate) fn find_quoted<F: Family>(quoted: &Tuple<F::Addr>) -> Option<Hit<F>> {
    let hit = find::<F>(quoted)?;
    Some(Hit { is_original: !hit.is_original, ..hit })
}

/// Finds the flow of a packet.
#[inline(always)]
pub(crate) fn find<F: Family>(tuple: &Tuple<F::Addr>) -> Option<Hit<F>> {
    let (key, source_is_high) = key::<F>(tuple);
    let (entry, is_established) = match F::ct_established(&key) {
        Some(entry) => (entry, true),
        None => (F::ct_new(&key)?, false),
    };
    let is_original = (state::<F>(entry).origin_high != 0) == source_is_high;
    Some(Hit { key, entry, is_established, is_original })
}

/// Whether the packet starts a new flow over what is left of an old one.
#[inline(always)]
pub(crate) fn is_reopened<F: Family>(hit: &Hit<F>, packet: &Packet<F::Addr>) -> bool {
    let state = hit.state();
    packet.is_syn() && (state.closed != 0 || state.backend_gone != 0)
}

/// Opens a flow that is not translated.
#[inline(never)]
pub(crate) fn open<F: Family>(tuple: &Tuple<F::Addr>, opening: &Opening) {
    let (key, origin_high) = key::<F>(tuple);
    insert::<F>(&key, &F::ct_entry(new_state(opening, origin_high, half::PLAIN), None));
}

/// How many source ports are tried for a translated flow whose reply would collide with another one.
const PORT_TRIES: u32 = 8;

/// Opens a translated flow: from the tuple of the packet, which the client sent, to `scratch.translation`, which the
/// backend shall see and which gets another source port where the reply would collide.
#[inline(always)]
pub(crate) fn open_translated<F: Family>(
    scratch: &mut Scratch<F::Addr>,
    opening: &Opening,
) -> Result<(), DropReason> {
    for _ in 0..PORT_TRIES {
        if insert_backend_half::<F>(scratch, opening) {
            insert_client_half::<F>(scratch, opening);
            return Ok(());
        }
        scratch.translation.source_port = random_port();
    }
    Err(DropReason::NatPortsExhausted)
}

/// Creates the half that the client's packets match.
#[inline(never)]
fn insert_client_half<F: Family>(scratch: &Scratch<F::Addr>, opening: &Opening) {
    let (key, origin_high) = key::<F>(&scratch.packet.tuple);
    insert::<F>(
        &key,
        &F::ct_entry(new_state(opening, origin_high, half::CLIENT), Some(&scratch.translation)),
    );
}

/// Creates the half that the backend's packets match. False when another live flow has its key.
#[inline(never)]
fn insert_backend_half<F: Family>(scratch: &mut Scratch<F::Addr>, opening: &Opening) -> bool {
    let (key, origin_high) = key::<F>(&scratch.translation);
    scratch.judged = scratch.packet.tuple.reversed();
    let reply = &scratch.judged;
    let entry = F::ct_entry(new_state(opening, origin_high, half::BACKEND), Some(reply));
    // Most keys are free, which the insertion itself tells.
    let insert = || F::ct_insert_new(&key, &entry, u64::from(BPF_NOEXIST)).is_ok();
    let old = match F::ct_established(&key) {
        Some(old) => old,
        None if insert() => return true,
        None => match F::ct_new(&key) {
            Some(old) => old,
            // Another CPU took the key and gave it back.
            None => return false,
        },
    };
    let old_state = state::<F>(old);
    let is_ours = old_state.half == half::BACKEND && F::ct_nat(old, reply.proto) == *reply;
    if !is_ours && old_state.closed == 0 {
        return false;
    }
    F::ct_remove_established(&key);
    F::ct_remove_new(&key);
    // Another CPU may have taken the key since: then it is a collision as well.
    insert()
}

/// Inserts a fresh entry; whoever calls knows of no established flow with its key. The only errors are those of a map
/// whose entries are all in use at this instant: the flow is then tracked from its next packet on.
#[inline(always)]
fn insert<F: Family>(key: &F::CtKey, entry: &F::CtEntry) {
    let _retried_by_next_packet = F::ct_insert_new(key, entry, u64::from(BPF_ANY));
}

#[inline(always)]
fn new_state(opening: &Opening, origin_high: bool, half: u8) -> CtState {
    CtState {
        last_seen: now(),
        epoch: policy_epoch(),
        service_id: opening.service_id,
        egress_rule: opening.allowed.egress_rule,
        ingress_rule: opening.allowed.ingress_rule,
        half,
        origin_high: u8::from(origin_high),
        replied: 0,
        fin_original: 0,
        fin_reply: 0,
        closed: 0,
        from_host: u8::from(opening.from_host),
        backend_gone: 0,
    }
}

/// A port outside of the well-known range.
#[inline(always)]
fn random_port() -> Be16 {
    // SAFETY: the helper takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    Be16::new((random & 0x7fff) as u16 | 0x8000)
}
