//! Socket-level load balancing: a socket that asks for a frontend is pointed at a backend once, and no packet of it
//! needs translation. The verdicts are those of `stage::service`, which is the reference.
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_getsockopt, bpf_set_retval},
    programs::SockAddrContext,
};
use dataplane_common::{
    net::{AddrV4, AddrV6, Be16, proto},
    service::FrontendValue,
    verdict::{Hook, Outcome},
};

use crate::{
    config,
    family::{Family, V4, V6},
    maps::{HOST_PATHS, NETNS},
    observe,
    pins::{self, End},
    stage::service::{self, Choice},
    tables::{Routes, Services, Sockets},
};

/// Return values of the hooks.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

const ENOMEM: i32 = 12;
const ECONNREFUSED: i32 = 111;

/// How the hooks of a socket show an address of a family.
pub(crate) trait View {
    type Family: Services + Routes + Sockets;

    fn read(ctx: &SockAddrContext) -> Addr<Self>;
    fn write(ctx: &SockAddrContext, addr: &Addr<Self>);
    /// What the socket is connected to.
    fn peer(ctx: &SockAddrContext) -> (Addr<Self>, Be16);
}

type Addr<V> = <<V as View>::Family as Family>::Addr;

impl View for V4 {
    type Family = Self;

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

    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> (AddrV4, Be16) {
        // SAFETY: the context holds a socket, and the verifier checks the access to it.
        unsafe { (AddrV4((*socket(ctx)).dst_ip4), Be16::from_raw((*socket(ctx)).dst_port)) }
    }
}

impl View for V6 {
    type Family = Self;

    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> AddrV6 {
        AddrV6([word_v6(ctx, 0), word_v6(ctx, 1), word_v6(ctx, 2), word_v6(ctx, 3)])
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: &AddrV6) {
        let [a, b, c, d] = addr.0;
        set_word_v6(ctx, 0, a);
        set_word_v6(ctx, 1, b);
        set_word_v6(ctx, 2, c);
        set_word_v6(ctx, 3, d);
    }

    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> (AddrV6, Be16) {
        // SAFETY: as for IPv4; single words only, with constant indexes below 4.
        let word =
            |index| unsafe { (&raw const (*socket(ctx)).dst_ip6).cast::<u32>().add(index).read_volatile() };
        // SAFETY: as for IPv4.
        let port = Be16::from_raw(unsafe { (*socket(ctx)).dst_port });
        (AddrV6([word(0), word(1), word(2), word(3)]), port)
    }
}

/// IPv4 as an IPv6 socket shows it, `::ffff:a.b.c.d`: the packets are IPv4, so the maps of IPv4 say what they are.
pub(crate) struct Mapped;

impl View for Mapped {
    type Family = V4;

    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> AddrV4 {
        AddrV4(word_v6(ctx, 3))
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: &AddrV4) {
        // The prefix stays.
        set_word_v6(ctx, 3, addr.0);
    }

    #[inline(always)]
    fn peer(ctx: &SockAddrContext) -> (AddrV4, Be16) {
        V4::peer(ctx)
    }
}

/// Whether the address in a hook of an IPv6 socket is an IPv4 one.
#[inline(always)]
pub(crate) fn is_mapped(ctx: &SockAddrContext) -> bool {
    word_v6(ctx, 0) == 0 && word_v6(ctx, 1) == 0 && word_v6(ctx, 2) == 0xffff_u32.to_be()
}

/// One word of the address. The verifier accepts single words of the context only: no array copy.
#[inline(always)]
fn word_v6(ctx: &SockAddrContext, index: usize) -> u32 {
    // SAFETY: reads a field of the context; `index` is a constant below 4.
    unsafe { (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>().add(index).read_volatile() }
}

#[inline(always)]
fn set_word_v6(ctx: &SockAddrContext, index: usize, word: u32) {
    // SAFETY: writes a field of the context; `index` is a constant below 4.
    unsafe { (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>().add(index).write_volatile(word) }
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

/// TCP or UDP. The kernel's numbers have more than eight bits: MPTCP, 262, is not TCP. Its connections come here as
/// sockets of their own, which are TCP.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    const TCP: u32 = proto::TCP as u32;
    const UDP: u32 = proto::UDP as u32;
    // SAFETY: reads a field of the context.
    match unsafe { (*ctx.sock_addr).protocol } {
        TCP => Some(proto::TCP),
        UDP => Some(proto::UDP),
        _ => None,
    }
}

/// Whose a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Host,
    Pod,
    /// A network namespace that is neither the host's nor that of a pod: its addresses are its own.
    Stranger,
}

/// Needs `bpf_get_netns_cookie`: v5.7, f318903c0bf4.
#[inline(always)]
fn owner(ctx: &SockAddrContext) -> Owner {
    // SAFETY: the helper reads the socket behind the context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if netns == config::host_netns() {
        return Owner::Host;
    }
    // SAFETY: only whether there is an entry is looked at.
    if unsafe { NETNS.get(netns) }.is_some() { Owner::Pod } else { Owner::Stranger }
}

/// The socket of a hook, for the verifier to check what is read of it.
#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *const bpf_sock {
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// Whether the application has chosen the port that a TCP socket connects from.
#[inline(always)]
fn is_bound(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context holds a socket, and the verifier checks the access to it.
    unsafe { (*socket(ctx)).src_port != 0 }
}

/// Whether the sockets of a pod are left to the packet path.
#[inline(always)]
fn is_for_packets(ctx: &SockAddrContext, proto: u8) -> bool {
    // A connected UDP socket would stay with a backend that left: nothing outside of the pod can free it. A flow moves.
    // Two sockets with one port of their own and two services may meet at one backend: flows get another port.
    proto == proto::UDP || is_bound(ctx)
}

/// Whether a socket of the host is left to the packet path: it is bound to a port that it may share, so that two such
/// sockets may meet at one backend; and what it sends leaves by an uplink, where packets are translated.
#[inline(always)]
fn is_for_uplink<V: View>(ctx: &SockAddrContext) -> bool {
    is_bound(ctx)
        && !config::beside_kube_proxy()
        && HOST_PATHS.get(u32::from(V::Family::IS_V6)).is_some_and(|path| path.takes_sockets != 0)
        && (has_option(ctx, SO_REUSEADDR) || has_option(ctx, SO_REUSEPORT))
}

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;

/// Whether a socket has an option. Where a kernel does not say (older ones know few options), it counts as one that has.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the size of a number")]
fn has_option(ctx: &SockAddrContext, option: i32) -> bool {
    const LEN: i32 = size_of::<i32>() as i32;
    let mut value = 0;
    let into = (&raw mut value).cast();
    // SAFETY: the helper reads the socket behind the context and writes `value`.
    unsafe { bpf_getsockopt(ctx.as_ptr(), SOL_SOCKET, option, into, LEN) != 0 || value != 0 }
}

/// Whether a connected socket names the address that it is connected to: each `send` of an IPv6 one to an IPv4 address does.
#[inline(always)]
fn is_peer<V: View>(ctx: &SockAddrContext, addr: &Addr<V>, port: Be16) -> bool {
    is_connected(ctx) && V::peer(ctx) == (*addr, port)
}

/// Whether a UDP socket is connected.
#[inline(always)]
fn is_connected(ctx: &SockAddrContext) -> bool {
    /// `TCP_ESTABLISHED`, which UDP sockets use, too.
    const ESTABLISHED: u32 = 1;
    // SAFETY: the context holds a socket, and the verifier checks the access to it.
    unsafe { (*socket(ctx)).state == ESTABLISHED }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper reads the socket behind the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// `connect`: TCP at random, UDP by socket.
#[inline(always)]
pub(crate) fn connect<V: View>(ctx: &SockAddrContext) -> i32 {
    translate::<V>(ctx, Hook::Connect)
}

/// `sendto` and `sendmsg` with an address: one socket keeps to one backend as long as the set has it.
#[inline(always)]
pub(crate) fn sendmsg<V: View>(ctx: &SockAddrContext) -> i32 {
    translate::<V>(ctx, Hook::Sendmsg)
}

#[inline(always)]
fn translate<V: View>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(proto) = protocol(ctx) else { return ALLOW };
    let (addr, port) = (V::read(ctx), port(ctx));
    let Some(frontend) = V::Family::frontend(&addr, port, proto) else {
        // A backend that the socket now asks for by its own address answers under it. A connected socket keeps what it
        // is connected to: each `send` of an IPv6 one to an IPv4 address comes here as if it named that address.
        if hook == Hook::Sendmsg && is_connected(ctx) {
            return ALLOW;
        }
        if proto == proto::TCP {
            V::Family::forget_socket(&V::Family::socket_key(cookie(ctx), &addr, port));
        } else {
            pins::hide(ctx, end::<V::Family>(&addr, port));
            if hook == Hook::Connect {
                pins::disconnected(cookie(ctx));
            }
        }
        let is_refused = !config::beside_kube_proxy()
            && service::has_address::<V::Family>(&addr)
            && owner(ctx) != Owner::Stranger;
        return if is_refused { refuse(hook) } else { ALLOW };
    };
    match owner(ctx) {
        Owner::Host if hook == Hook::Sendmsg && is_peer::<V>(ctx, &addr, port) => return ALLOW,
        Owner::Host if hook == Hook::Connect && is_for_uplink::<V>(ctx) => {
            if proto == proto::UDP {
                pins::disconnected(cookie(ctx));
            }
            return ALLOW;
        }
        Owner::Host => {}
        Owner::Pod if !is_for_packets(ctx, proto) => {}
        Owner::Pod | Owner::Stranger => return ALLOW,
    }
    let kept = if proto == proto::UDP { kept::<V::Family>(ctx, &frontend, &addr, port) } else { None };
    let choice = match kept {
        Some((addr, port, _)) => Choice::Backend { addr, port, service_id: frontend.service_id },
        None if proto == proto::TCP => service::choose_of::<V::Family>(&frontend),
        None => service::choose_by::<V::Family>(&frontend, cookie(ctx)),
    };
    match choice {
        // Left to the packet path: it drops, as the traffic policy asks.
        Choice::None | Choice::Drop => ALLOW,
        Choice::Reject => refuse(hook),
        Choice::Backend { addr: backend, port: backend_port, .. } => {
            if proto == proto::TCP {
                let key = V::Family::socket_key(cookie(ctx), &backend, backend_port);
                V::Family::remember_socket(&key, &addr, port);
            } else {
                let frontend = end::<V::Family>(&addr, port);
                let backend = end::<V::Family>(&backend, backend_port);
                let is_shown = kept.is_some_and(|(.., hidden)| hidden == 0);
                if !is_shown && !pins::keep(ctx, frontend, backend) {
                    // It would see the backend's address, and move with every change.
                    return fail(ENOMEM);
                }
                if hook == Hook::Connect {
                    pins::connected(cookie(ctx), frontend, backend);
                }
            }
            V::write(ctx, &backend);
            set_port(ctx, backend_port);
            observe::count(hook, Outcome::Translated);
            ALLOW
        }
    }
}

#[inline(always)]
fn refuse(hook: Hook) -> i32 {
    observe::count(hook, Outcome::Rejected);
    fail(ECONNREFUSED)
}

/// Has the call of the application fail.
#[inline(always)]
fn fail(error: i32) -> i32 {
    // Needs bpf_set_retval: v5.18, b44123b4a3dc.
    if config::has_set_retval() {
        // SAFETY: the helper takes a scalar.
        unsafe { bpf_set_retval(-error) };
    }
    REFUSE
}

#[inline(always)]
fn end<F: Family>(addr: &F::Addr, port: Be16) -> End {
    End { addr: F::to_v6(addr), port }
}

/// The backend that a UDP socket has at a frontend, while it is one, and whether its answers are hidden.
#[inline(always)]
fn kept<F: Services>(
    ctx: &SockAddrContext,
    frontend: &FrontendValue,
    addr: &F::Addr,
    port: Be16,
) -> Option<(F::Addr, Be16, u32)> {
    let (backend, hidden) = pins::backend(ctx, end::<F>(addr, port))?;
    let (addr, port) = (F::from_v6(&backend.addr), backend.port);
    service::contains::<F>(frontend, &addr, port).then_some((addr, port, hidden))
}

/// `recvmsg` and `getpeername`: the application sees the frontend that it asked for.
#[inline(always)]
pub(crate) fn restore<V: View>(ctx: &SockAddrContext) -> i32 {
    let Some(proto) = protocol(ctx) else { return ALLOW };
    let (addr, port) = (V::read(ctx), port(ctx));
    let frontend = if proto == proto::TCP {
        V::Family::socket(&V::Family::socket_key(cookie(ctx), &addr, port))
    } else {
        let frontend = pins::frontend(ctx, end::<V::Family>(&addr, port));
        frontend.map(|frontend| (V::Family::from_v6(&frontend.addr), frontend.port))
    };
    if let Some((addr, port)) = frontend {
        V::write(ctx, &addr);
        set_port(ctx, port);
    }
    ALLOW
}
