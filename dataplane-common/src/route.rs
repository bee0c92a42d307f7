//! Routes to the pods of other nodes.

abi! {
    /// Value of `ROUTES_V4` and `ROUTES_V6`; the key is a pod CIDR. What follows `kind` has the layout of
    /// `struct bpf_redir_neigh`.
    pub struct RouteValue = 28 {
        /// Uplink to send on.
        pub ifindex: u32,
        /// See [`kind`].
        pub kind: u32,
        /// Address family of the next hop, as the kernel numbers it; 0 without one.
        pub family: u32,
        /// In network byte order; an IPv4 address is the first four bytes.
        pub next_hop: [u8; 16],
    }
}

/// How packets on a route leave the node: values of [`RouteValue::kind`].
pub mod kind {
    /// To the node of the pods, which is on the uplink's link.
    pub const DIRECT: u32 = 0;
    /// To a router on the uplink's link, which knows the way.
    pub const GATEWAY: u32 = 1;
    /// As the host's stack routes them, in both directions. 2 is kept for overlays.
    pub const STACK: u32 = 3;
}

/// The kernel's numbers of address families.
pub mod family {
    pub const INET: u32 = 2;
    pub const INET6: u32 = 10;
}
