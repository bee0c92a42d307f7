//! Load-time constants of the eBPF programs. The verifier removes the branches that a constant rules out.

use crate::maps::CT_EST_MAX;

abi! {
    /// Set by the agent before the programs are loaded.
    pub struct Config = 24 {
        /// Cookie of the network namespace of this host.
        pub host_netns: u64,
        /// `ingress_ifindex` of a packet that a process of this host sent. 0 in the kernel since the field
        /// exists; only the program tests set another value, because a test run always carries 0.
        pub host_ingress_ifindex: u32,
        /// See [`flag`].
        pub flags: u32,
        /// Established flows that the maps hold: IPv4, IPv6.
        pub established_max: [u32; 2],
    }
}

impl Config {
    /// What the programs run with unless the agent says otherwise.
    pub const DEFAULT: Self = Self {
        host_netns: 0,
        host_ingress_ifindex: 0,
        flags: flag::CUT_ESTABLISHED,
        established_max: [CT_EST_MAX; 2],
    };
}

/// Source address of hairpin traffic, IPv4: link-local, so it never leaves a node (RFC 3927).
pub const HAIRPIN_V4: [u8; 4] = [169, 254, 42, 1];
/// Source address of hairpin traffic, IPv6: from the discard-only prefix (RFC 6666), so it is never routed.
pub const HAIRPIN_V6: [u8; 16] = [0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0x01];

/// Next hop of the pods' IPv4 default routes. On no link: pods know it by a static neighbour, and `from_pod` answers
/// for it.
pub const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];
/// Next hop of the pods' IPv6 default routes, as [`GATEWAY_V4`].
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Bits of [`Config::flags`].
pub mod flag {
    /// An established flow that a policy change forbids is cut; without it only new flows are judged.
    pub const CUT_ESTABLISHED: u32 = 1;
    /// kube-proxy translates on this node, too: a connection that it may have begun is left to it, and what the
    /// programs do not translate both ways goes through the host's stack, which must see whole connections.
    pub const BESIDE_KUBE_PROXY: u32 = 2;
    /// New flows are left to kube-proxy as well, unless a policy needs to know the backend.
    pub const LEAVE_NEW: u32 = 4;
    /// The kernel has no `bpf_set_retval` (before v5.18): a socket call that is refused fails with `EPERM`, whatever the reason.
    pub const NO_SET_RETVAL: u32 = 8;
}
