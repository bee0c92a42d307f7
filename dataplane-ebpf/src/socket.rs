//! Socket-level load balancing: a socket that asks for a frontend is pointed at a backend once, and no packet of it
//! needs translation. The verdicts are those of `stage::service`, which is the reference.
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use dataplane_common::{
    net::{AddrV4, AddrV6, Be16, proto},
    verdict::{Hook, Outcome},
};

use crate::{
    family::{Family, V4, V6},
    observe,
    stage::service::{self, Choice},
};

/// Return values of the hooks.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;

/// A family's address in the context of the hooks.
pub(crate) trait SocketAddr: Family {
    fn read(ctx: &SockAddrContext) -> Self::Addr;
    fn write(ctx: &SockAddrContext, addr: &Self::Addr);
}

impl SocketAddr for V4 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> AddrV4 {
        // SAFETY: reads a field of the context.
        AddrV4(unsafe { (*ctx.sock_addr).user_ip4 })
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: &AddrV4) {
        // SAFETY: writes a field of the context.
        unsafe { (*ctx.sock_addr).user_ip4 = addr.0 }
    }
}

impl SocketAddr for V6 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> AddrV6 {
        // The verifier accepts single words of the context only: no array copy.
        // SAFETY: reads fields of the context.
        unsafe {
            let words = &raw const (*ctx.sock_addr).user_ip6;
            let word = |index: usize| words.cast::<u32>().add(index).read_volatile();
            AddrV6([word(0), word(1), word(2), word(3)])
        }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: &AddrV6) {
        // SAFETY: writes fields of the context, each a word of its own.
        unsafe {
            let words = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
            let [a, b, c, d] = addr.0;
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
            words.add(3).write_volatile(d);
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the port is the low half")]
fn port(ctx: &SockAddrContext) -> Be16 {
    // SAFETY: reads a field of the context, of which the low half is the port in network byte order.
    Be16::from_raw(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: Be16) {
    // SAFETY: writes a field of the context.
    unsafe { (*ctx.sock_addr).user_port = u32::from(port.raw()) }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "protocol numbers have eight bits")]
fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: reads a field of the context; protocol numbers have eight bits.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper reads the socket behind the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// `connect`: TCP at random, UDP by socket.
#[inline(always)]
pub(crate) fn connect<F: SocketAddr>(ctx: &SockAddrContext) -> i32 {
    translate::<F>(ctx, Hook::Connect)
}

/// `sendto` and `sendmsg` with an address: one socket keeps to one backend as long as the set stays the same.
#[inline(always)]
pub(crate) fn sendmsg<F: SocketAddr>(ctx: &SockAddrContext) -> i32 {
    translate::<F>(ctx, Hook::Sendmsg)
}

#[inline(always)]
fn translate<F: SocketAddr>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let (addr, frontend_port, proto) = (F::read(ctx), port(ctx), protocol(ctx));
    let choice = match proto {
        proto::TCP => service::choose::<F>(&addr, frontend_port, proto),
        proto::UDP => service::choose_by::<F>(&addr, frontend_port, proto, cookie(ctx)),
        _ => return ALLOW,
    };
    match choice {
        // Left to the packet path: it drops, as the traffic policy asks.
        Choice::None | Choice::Drop => ALLOW,
        Choice::Reject => {
            observe::count(hook, Outcome::Rejected);
            // SAFETY: the helper takes a scalar. Needs bpf_set_retval: v5.18, b44123b4a3dc.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            REFUSE
        }
        Choice::Backend { addr: backend, port: backend_port, .. } => {
            let key = F::socket_key(cookie(ctx), &backend, backend_port, proto);
            F::remember_socket(&key, &addr, frontend_port);
            F::write(ctx, &backend);
            set_port(ctx, backend_port);
            observe::count(hook, Outcome::Translated);
            ALLOW
        }
    }
}

/// `recvmsg` and `getpeername`: the application sees the frontend that it asked for.
#[inline(always)]
pub(crate) fn restore<F: SocketAddr>(ctx: &SockAddrContext) -> i32 {
    let key = F::socket_key(cookie(ctx), &F::read(ctx), port(ctx), protocol(ctx));
    if let Some((addr, port)) = F::socket(&key) {
        F::write(ctx, &addr);
        set_port(ctx, port);
    }
    ALLOW
}
