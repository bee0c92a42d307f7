//! Service frontends and backends.
use crate::net::{AddrV4, AddrV6, Be16};

abi! {
    /// Key of `FRONTENDS_V4`.
    pub struct FrontendKeyV4 = 8 {
        pub addr: AddrV4,
        pub port: Be16,
        pub proto: u8,
        /// See [`scope`].
        pub scope: u8,
    }
}

abi! {
    /// Key of `FRONTENDS_V6`.
    pub struct FrontendKeyV6 = 20 {
        pub addr: AddrV6,
        pub port: Be16,
        pub proto: u8,
        /// See [`scope`].
        pub scope: u8,
    }
}

/// Who uses a frontend.
pub mod scope {
    /// Clients inside the cluster: pods and host processes.
    pub const CLUSTER: u8 = 0;
}

abi! {
    /// Value of `FRONTENDS_V4` and `FRONTENDS_V6`: a contiguous range of `BACKENDS_*` slots. Its first part holds the backends
    /// to choose from; behind them are those that get no new flow and still serve the flows that they have: they
    /// terminate, or a traffic policy prefers others. A changed set of backends is written to a fresh range, then this
    /// value flips to it in one update. The backends of each part are in ascending order ([`BackendV4`], [`BackendV6`]),
    /// so that one of them is found by bisection.
    pub struct FrontendValue = 16 {
        pub service_id: u32,
        pub backends_start: u32,
        /// How many there are to choose from.
        pub backends_count: u16,
        /// How many more keep their flows. 0 if the protocol is TCP: a connection goes on whether its backend is here or not.
        pub kept_count: u16,
        /// See [`flag`].
        pub flags: u16,
        pub reserved: u16,
    }
}

impl FrontendValue {
    /// The slot of the first backend that only keeps its flows.
    #[must_use]
    #[inline(always)]
    pub const fn kept_start(&self) -> u32 {
        self.backends_start + self.backends_count as u32
    }

    /// How many slots the range has.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.backends_count as u32 + self.kept_count as u32
    }
}

/// Bits of [`FrontendValue::flags`].
pub mod flag {
    /// Without a usable backend the packet is dropped, not rejected: backends exist, but not on this node
    /// (`internalTrafficPolicy: Local`).
    pub const DROP_WHEN_EMPTY: u16 = 1;
}

abi! {
    /// Value of `BACKENDS_V4`; the key is a slot number. Ordered by address, then port, each as its raw word.
    pub struct BackendV4 = 8 {
        pub addr: AddrV4,
        pub port: Be16,
        pub reserved: u16,
    }
}

abi! {
    /// Value of `BACKENDS_V6`; the key is a slot number. Ordered by address, then port, each as its raw words.
    pub struct BackendV6 = 20 {
        pub addr: AddrV6,
        pub port: Be16,
        pub reserved: u16,
    }
}
