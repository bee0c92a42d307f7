//! The flows that processes of this host have to services.
use core::mem::size_of;

use aya_ebpf::{
    bindings::bpf_sock_tuple,
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    },
    programs::TcContext,
};
use dataplane_common::{
    conntrack::half,
    net::{Be16, proto},
    verdict::DropReason,
};

use super::{
    now,
    open::{Opening, PORT_TRIES, put_half},
};
use crate::{family::Family, flow::Scratch, global::global, maps::CT_HOST, tables::Flows};

/// Five days, for which an established connection may be silent, in jiffies of the fastest clock that kernels are built
/// with: 1,000 a second.
const REMEMBERED: u64 = 5 * 24 * 60 * 60 * 1_000;

/// Ports below are for privileged processes, which servers may ask for.
const PRIVILEGED: u16 = 1024;

/// Whether there may be one.
#[inline(always)]
pub(crate) fn is_in_use() -> bool {
    let last = CT_HOST.get(0).copied().unwrap_or(0);
    last != 0 && now().wrapping_sub(last) < REMEMBERED
}

/// Notes that there is one.
#[inline(always)]
pub(crate) fn note() {
    if let Some(last) = CT_HOST.get_ptr_mut(0) {
        // SAFETY: an element of an array: it stays, and a single aligned store writes it.
        unsafe { *last = now() };
    }
}

/// Opens a translated flow of a process of this host, as [`super::open_translated`] does: the port that its backend sees
/// must not be that of a connection which one of the host's sockets has with that backend.
#[inline(always)]
pub(crate) fn open_by_host<F: Flows>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    opening: &Opening,
) -> Result<(), DropReason> {
    opening.prepare(scratch);
    if put_by_host::<F>(ctx, scratch) != 0 { Ok(()) } else { Err(DropReason::NatPortsExhausted) }
}

global! {
    /// See [`put_halves`].
    fn put_by_host([ctx]) -> u32 = put_halves, put_by_host_v4, put_by_host_v6
}

/// Creates both halves of the flow, if a port is found for it. 0 for false.
#[inline(always)]
fn put_halves<F: Flows>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> u32 {
    let wanted = scratch.translation.source_port;
    let has_choice = matches!(scratch.translation.proto, proto::TCP | proto::UDP);
    for attempt in 0..PORT_TRIES {
        if has_choice {
            scratch.translation.source_port = candidate(wanted, attempt);
            if socket_in_the_way::<F>(ctx, scratch) != 0 {
                continue;
            }
        }
        if put_half::<F>(scratch, half::BACKEND) {
            put_half::<F>(scratch, half::CLIENT);
            return 1;
        }
    }
    0
}

/// A port to try. A privileged one is kept, if it can be. Any other is not even where nothing has it yet: a socket that
/// shares it may connect to the backend itself. The first tries are above the ports that kernels give to sockets by
/// themselves.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "any of its bits will do")]
fn candidate(wanted: Be16, attempt: u32) -> Be16 {
    // SAFETY: the helper takes no argument.
    let random = unsafe { bpf_get_prandom_u32() } as u16;
    if wanted.get() < PRIVILEGED {
        return if attempt == 0 { wanted } else { Be16::new(random & 0x1ff | 0x200) };
    }
    Be16::new(if attempt < PORT_TRIES / 2 { random | 0xf000 } else { random | 0x8000 })
}

global! {
    /// See [`has_socket`].
    fn socket_in_the_way([ctx]) -> u32 = has_socket, host_socket_v4, host_socket_v6
}

/// Whether a socket of the host takes what the backend of `scratch.translation` answers: 1 or 0.
///
/// Needs `bpf_skc_lookup_tcp`: v5.2.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of a small structure")]
fn has_socket<F: Family>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> u32 {
    /// `BPF_F_CURRENT_NETNS`.
    const HERE: u64 = u64::MAX;
    let len = (2 * size_of::<F::Addr>() + 2 * size_of::<Be16>()) as u32;
    let mut answer = scratch.translation.reversed();
    // A tuple begins as `struct bpf_sock_tuple` of its family does.
    let tuple = (&raw mut answer).cast::<bpf_sock_tuple>();
    let skb = ctx.skb.skb.cast();
    // SAFETY: the helpers read `len` bytes of the tuple; what they return is given back.
    unsafe {
        // With those of connections that have ended, whose peer may remember them for a while.
        let socket = if answer.proto == proto::TCP {
            bpf_skc_lookup_tcp(skb, tuple, len, HERE, 0)
        } else {
            bpf_sk_lookup_udp(skb, tuple, len, HERE, 0)
        };
        if socket.is_null() {
            return 0;
        }
        bpf_sk_release(socket.cast());
    }
    1
}
