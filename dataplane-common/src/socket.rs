//! Sockets translated by the cgroup programs.
use crate::net::{AddrV4, AddrV6, Be16};

/// Values of `NETNS`; the key is the kernel's cookie of the namespace, as `SO_NETNS_COOKIE` shows it.
pub mod netns {
    /// A pod of this node.
    pub const POD: u32 = 1;
}

abi! {
    /// Key of `SOCKETS_V4`: a TCP socket and the backend it talks to.
    pub struct SocketKeyV4 = 16 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub backend: AddrV4,
        pub port: Be16,
        pub reserved: u16,
    }
}

abi! {
    /// Key of `SOCKETS_V6`: a TCP socket and the backend it talks to.
    pub struct SocketKeyV6 = 32 {
        /// The kernel's socket cookie; `SOCK_DIAG` shows the same number.
        pub cookie: u64,
        pub backend: AddrV6,
        pub port: Be16,
        pub reserved: [u8; 6],
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

/// How many services one UDP socket may use at a time.
pub const PINS: usize = 8;

abi! {
    /// A frontend that a UDP socket asked for, and the backend that it keeps to. IPv4 as mapped addresses. A pin whose
    /// port of the frontend is 0 is none. Value of `UDP_PEERS`, where it is what the socket is connected to.
    pub struct Pin = 40 {
        pub frontend: AddrV6,
        pub backend: AddrV6,
        pub frontend_port: Be16,
        pub backend_port: Be16,
        /// Not 0: the socket has asked for this backend since by its own address, or by another frontend, and sees
        /// answers from it as such.
        pub hidden: u32,
    }
}

abi! {
    /// Value of `UDP_PINS`, the storage of a UDP socket of the host.
    pub struct UdpPins = 328 {
        /// The kernel's `struct bpf_spin_lock`: threads that share a socket use its pins at once.
        pub lock: u32,
        /// The pin that was used last, modulo their number: the next new service takes the one behind it.
        pub next: u32,
        pub pins: [Pin; PINS],
    }
}

impl Pin {
    /// Whether it is one.
    #[must_use]
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.frontend_port.raw() != 0
    }

    /// Whether what comes from the backend is shown as from the frontend.
    #[must_use]
    #[inline(always)]
    pub const fn is_shown(&self) -> bool {
        self.is_used() && self.hidden == 0
    }
}
