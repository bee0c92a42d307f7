//! Load-time constants.
use aya_ebpf::Global;
use dataplane_common::config::{Config, flag};

/// Overridden by the agent before it loads the programs.
#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::DEFAULT);

/// Cookie of the network namespace of this host.
#[inline(always)]
pub(crate) fn host_netns() -> u64 {
    CONFIG.load().host_netns
}

/// `ingress_ifindex` of packets that a process of this host sent.
#[inline(always)]
pub(crate) fn host_ingress_ifindex() -> u32 {
    CONFIG.load().host_ingress_ifindex
}

/// Established flows of a family that its map holds.
#[inline(always)]
pub(crate) fn established_max(is_v6: bool) -> u32 {
    let [v4, v6] = CONFIG.load().established_max;
    if is_v6 { v6 } else { v4 }
}

/// Whether an established flow that a policy change forbids is cut.
#[inline(always)]
pub(crate) fn cut_established() -> bool {
    CONFIG.load().flags & flag::CUT_ESTABLISHED != 0
}

/// Whether kube-proxy translates on this node, too.
#[inline(always)]
pub(crate) fn beside_kube_proxy() -> bool {
    CONFIG.load().flags & flag::BESIDE_KUBE_PROXY != 0
}

/// Whether a socket call can fail with an error that a program chooses.
#[inline(always)]
pub(crate) fn has_set_retval() -> bool {
    CONFIG.load().flags & flag::NO_SET_RETVAL == 0
}

/// Whether new flows to services are left to kube-proxy.
#[inline(always)]
pub(crate) fn leaves_new() -> bool {
    CONFIG.load().flags & flag::LEAVE_NEW != 0
}
