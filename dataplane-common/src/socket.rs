//! Sockets translated by the cgroup programs.
use crate::net::{AddrV4, AddrV6, Be16};

abi! {
    /// Key of `SOCKETS_V4`: a socket and the backend it talks to.
    pub struct SocketKeyV4 = 16 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub backend: AddrV4,
        pub port: Be16,
        pub proto: u8,
        pub reserved: u8,
    }
}

abi! {
    /// Key of `SOCKETS_V6`: a socket and the backend it talks to.
    pub struct SocketKeyV6 = 32 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub backend: AddrV6,
        pub port: Be16,
        pub proto: u8,
        pub reserved: [u8; 5],
    }
}

abi! {
    /// Value of `SOCKETS_V4`: the frontend that the application asked for.
    pub struct SocketValueV4 = 8 {
        pub addr: AddrV4,
        pub port: Be16,
        pub reserved: u16,
    }
}

abi! {
    /// Value of `SOCKETS_V6`: the frontend that the application asked for.
    pub struct SocketValueV6 = 20 {
        pub addr: AddrV6,
        pub port: Be16,
        pub reserved: u16,
    }
}
