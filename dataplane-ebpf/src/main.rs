//! Hook entry points: each runs its pipeline and turns the verdict into the hook's return code.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::inline_always, reason = "a call that is not inlined costs a subprogram and its stack")]
#![expect(clippy::needless_pass_by_value, reason = "the hook macros hand the context over by value")]

mod config;
mod family;
mod flow;
mod global;
mod maps;
mod observe;
mod packet;
mod pins;
mod pipeline;
mod socket;
mod stage;
mod tables;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{
        bpf_jiffies64,
        generated::{bpf_redirect, bpf_redirect_peer},
    },
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use dataplane_common::{
    net::Be16,
    verdict::{DropReason, Hook, Outcome, Verdict},
};

use crate::{
    family::{V4, V6},
    socket::Mapped,
    stage::conntrack,
    tables::Flows,
};

/// tcx ingress of the host side of a pod's veth: what leaves the pod.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    tc_action(Hook::FromPod, pipeline::from_pod(&ctx))
}

/// tcx egress of the host side of a pod's veth: what reaches the pod through the host's stack.
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    tc_action(Hook::ToPod, pipeline::to_pod(&ctx))
}

/// tcx ingress of each uplink: what other machines send.
#[classifier]
fn from_netdev(ctx: TcContext) -> i32 {
    tc_action(Hook::FromNetdev, pipeline::from_netdev(&ctx))
}

/// tcx egress of each uplink: what leaves this host. Most of it comes from elsewhere, and pays for one load and one branch.
#[classifier]
fn to_netdev(ctx: TcContext) -> i32 {
    if pipeline::is_forwarded(&ctx) {
        return TC_ACT_UNSPEC;
    }
    tc_action(Hook::ToNetdev, pipeline::to_netdev(&ctx))
}

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connect::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    if socket::is_mapped(&ctx) { socket::connect::<Mapped>(&ctx) } else { socket::connect::<V6>(&ctx) }
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    if socket::is_mapped(&ctx) { socket::sendmsg::<Mapped>(&ctx) } else { socket::sendmsg::<V6>(&ctx) }
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::restore::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if socket::is_mapped(&ctx) { socket::restore::<Mapped>(&ctx) } else { socket::restore::<V6>(&ctx) }
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::restore::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    if socket::is_mapped(&ctx) { socket::restore::<Mapped>(&ctx) } else { socket::restore::<V6>(&ctx) }
}

/// Never attached: a test run of it tells user space the kernel's jiffies, the clock of conntrack entries.
#[classifier]
fn clock(ctx: TcContext) -> i32 {
    // SAFETY: the helper takes no argument.
    let now = unsafe { bpf_jiffies64() };
    match ctx.store(0, &now, 0) {
        Ok(()) => TC_ACT_OK,
        Err(_) => TC_ACT_SHOT,
    }
}

/// Never attached: the agent runs it on an IPv4 flow whose service has lost its backend.
#[classifier]
fn backend_gone_v4(ctx: TcContext) -> i32 {
    mark_backend_gone::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
fn backend_gone_v6(ctx: TcContext) -> i32 {
    mark_backend_gone::<V6>(&ctx)
}

/// The frame is no packet: it holds the key of a flow, and its backend as a slot of `BACKENDS_*` does.
#[inline(always)]
fn mark_backend_gone<F: Flows>(ctx: &TcContext) -> i32 {
    const fn end<T>(offset: usize) -> usize {
        offset + size_of::<T>()
    }
    let backend = end::<F::CtKey>(0);
    // One after the other: checked together, what was not loaded is read off the stack, which verifiers before v6.3
    // (6715df8d5d24) refuse.
    let Ok(key) = ctx.load::<F::CtKey>(0) else { return TC_ACT_SHOT };
    let Ok(addr) = ctx.load::<F::Addr>(backend) else { return TC_ACT_SHOT };
    let Ok(port) = ctx.load::<Be16>(end::<F::Addr>(backend)) else { return TC_ACT_SHOT };
    if conntrack::mark_backend_gone::<F>(&key, &addr, port) { TC_ACT_OK } else { TC_ACT_SHOT }
}

#[inline(always)]
fn tc_action(hook: Hook, verdict: Result<Verdict, DropReason>) -> i32 {
    match verdict {
        Ok(Verdict::Pass) => {
            observe::count(hook, Outcome::Passed);
            // An uplink may have programs of others, which see what is not ours.
            if matches!(hook, Hook::FromNetdev | Hook::ToNetdev) { TC_ACT_UNSPEC } else { TC_ACT_OK }
        }
        Ok(Verdict::PassInward { ifindex }) => {
            observe::count(hook, Outcome::Passed);
            redirect(ifindex, BPF_F_INGRESS.into())
        }
        Ok(Verdict::Deliver { ifindex }) => {
            observe::count(hook, Outcome::Delivered);
            // The kernel moves to the peer only what comes in.
            if matches!(hook, Hook::ToNetdev) { redirect(ifindex, 0) } else { redirect_peer(ifindex) }
        }
        Ok(Verdict::Reject { ifindex }) => {
            observe::count(hook, Outcome::Rejected);
            redirect_peer(ifindex)
        }
        Ok(Verdict::TurnBack { ifindex }) => {
            observe::count(hook, Outcome::Rejected);
            // What this host has sent comes back to it.
            redirect(ifindex, if matches!(hook, Hook::ToNetdev) { BPF_F_INGRESS.into() } else { 0 })
        }
        Ok(Verdict::Answer { ifindex }) => {
            observe::count(hook, Outcome::Answered);
            redirect_peer(ifindex)
        }
        Ok(Verdict::Heard) => {
            observe::count(hook, Outcome::Answered);
            TC_ACT_SHOT
        }
        Ok(Verdict::Held) => {
            observe::count(hook, Outcome::Held);
            TC_ACT_SHOT
        }
        Ok(Verdict::Forward { .. }) => {
            observe::count(hook, Outcome::Forwarded);
            TC_ACT_REDIRECT
        }
        Ok(Verdict::Drop(reason)) | Err(reason) => {
            observe::count_drop(hook, reason);
            TC_ACT_SHOT
        }
    }
}

/// Needs `bpf_redirect_peer`: v5.10, 9aa1206e8f48.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the helper returns a tc action")]
fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper only reads its scalar arguments.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the helper returns a tc action")]
fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: the helper only reads its scalar arguments.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Declares the object GPL-compatible, which the kernel asks of programs that use its GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
