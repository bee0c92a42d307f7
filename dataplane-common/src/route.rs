//! Routes to the pods of other nodes.
use crate::net::{AddrV4, AddrV6};

abi! {
    /// Value of `ROUTES_V4`; the key is a remote pod CIDR.
    pub struct RouteValueV4 = 8 {
        /// Uplink to send on.
        pub ifindex: u32,
        /// Address of the remote node.
        pub next_hop: AddrV4,
    }
}

abi! {
    /// Value of `ROUTES_V6`; the key is a remote pod CIDR.
    pub struct RouteValueV6 = 20 {
        /// Uplink to send on.
        pub ifindex: u32,
        /// Address of the remote node.
        pub next_hop: AddrV6,
    }
}
