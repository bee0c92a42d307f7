//! Sockets translated by the cgroup programs.
use crate::net::{AddrV4, AddrV6, Be16};

/// Values of `NETNS`; the key is the kernel's cookie of the namespace, as `SO_NETNS_COOKIE` shows it.
pub mod netns {
    /// A pod of this node.
    pub const POD: u32 = 1;
}

/// What the address of a key is, and that of its value.
pub mod entry {
    /// A backend that the socket talks to, and the frontend that the application asked for.
    pub const BACKEND: u8 = 0;
    /// A frontend that a UDP socket asked for, and the backend that it keeps to.
    pub const PIN: u8 = 1;
}

abi! {
    /// Key of `SOCKETS_V4`: a socket, and what [`entry`] says.
    pub struct SocketKeyV4 = 16 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub addr: AddrV4,
        pub port: Be16,
        pub proto: u8,
        /// See [`entry`].
        pub kind: u8,
        pub reserved: [u8; 0],
    }
}

abi! {
    /// Key of `SOCKETS_V6`: a socket, and what [`entry`] says.
    pub struct SocketKeyV6 = 32 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub addr: AddrV6,
        pub port: Be16,
        pub proto: u8,
        /// See [`entry`].
        pub kind: u8,
        pub reserved: [u8; 4],
    }
}

abi! {
    /// Value of `SOCKETS_V4`: the other end of what the key names.
    pub struct SocketValueV4 = 8 {
        pub addr: AddrV4,
        pub port: Be16,
        pub reserved: u16,
    }
}

abi! {
    /// Value of `SOCKETS_V6`: the other end of what the key names.
    pub struct SocketValueV6 = 20 {
        pub addr: AddrV6,
        pub port: Be16,
        pub reserved: u16,
    }
}
