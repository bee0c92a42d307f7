//! Connection tracking.
//!
//! One map pair per family with one entry type: half-open and closing flows in an LRU hash (`CT_NEW_*`), flows
//! that are established in a plain hash that is never evicted (`CT_EST_*`), so a flood of new flows cannot hurt
//! live ones. A key is the same for both directions of a flow: its two ends in ascending order.
//!
//! An untranslated flow has one entry. A translated one has two *halves*: one under the tuple that the client
//! uses, one under the tuple that the backend sees; the tuple that a half writes is the key of its partner.
use crate::{
    arith::hash,
    net::{AddrV4, AddrV6, Be16},
};

abi! {
    /// Key of `CT_NEW_V4` and `CT_EST_V4`.
    pub struct CtKeyV4 = 16 {
        pub low_addr: AddrV4,
        pub high_addr: AddrV4,
        pub low_port: Be16,
        pub high_port: Be16,
        pub proto: u8,
        /// See [`zone`].
        pub zone: u8,
        pub reserved: [u8; 2],
    }
}

abi! {
    /// Key of `CT_NEW_V6` and `CT_EST_V6`.
    pub struct CtKeyV6 = 40 {
        pub low_addr: AddrV6,
        pub high_addr: AddrV6,
        pub low_port: Be16,
        pub high_port: Be16,
        pub proto: u8,
        /// See [`zone`].
        pub zone: u8,
        pub reserved: [u8; 2],
    }
}

impl CtKeyV4 {
    /// See [`CtState::tag`].
    #[must_use]
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        hash::tag(&[
            pair(self.low_addr.0, self.high_addr.0),
            ports(self.low_port, self.high_port) | (self.proto as u64) << 32 | (self.zone as u64) << 40,
        ])
    }
}

impl CtKeyV6 {
    /// See [`CtState::tag`].
    #[must_use]
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (low, high) = (self.low_addr.0, self.high_addr.0);
        hash::tag(&[
            pair(low[0], low[1]),
            pair(low[2], low[3]),
            pair(high[0], high[1]),
            pair(high[2], high[3]),
            ports(self.low_port, self.high_port) | (self.proto as u64) << 32 | (self.zone as u64) << 40,
        ])
    }
}

#[inline(always)]
const fn pair(one: u32, other: u32) -> u64 {
    one as u64 | (other as u64) << 32
}

#[inline(always)]
const fn ports(low: Be16, high: Be16) -> u64 {
    low.raw() as u64 | (high.raw() as u64) << 16
}

/// Values of `zone` in a key: translations that may meet the same two ends side by side.
pub mod zone {
    /// Policy and services of pods.
    pub const POD: u8 = 0;
    /// The client's half of a flow whose two ends are those of a backend's half of another one: a client asks a service
    /// and one of its backends by its own address from one port. The backend sees another port in the later flow.
    pub const DIRECT: u8 = 1;
}

abi! {
    /// What an entry knows besides its translation. Each state byte has one writer at a time, so no
    /// read-modify-write can lose an event.
    pub struct CtState = 40 {
        /// A hash of the entry's key. The kernel reuses elements of these maps at once, so a program that holds one
        /// may find another flow in it: it copies the entry, then looks whether the tag, which is written first, is
        /// still that of the flow that it asked for.
        pub tag: u32,
        /// The service that was translated; 0: none.
        pub service_id: u32,
        /// Jiffies of the last packet that matched this entry.
        pub last_seen: u64,
        /// Policy epoch of the last judgement. It shares a word with `denied`, so that both change at once.
        pub epoch: u32,
        /// The direction whose policy denied the flow at the last judgement (a `policy::Direction`); 0: allowed. A
        /// denied flow is remembered, so that nothing that its ends send can pass for another flow.
        pub denied: u8,
        /// 1 when who opened the flow is not known: it is allowed only while both ends may have opened it.
        pub mid_stream: u8,
        /// See [`half`].
        pub half: u8,
        /// 1 when the original source is the high end of the key.
        pub origin_high: u8,
        /// Rule that allowed the flow out of its source; 0: not judged. When egress is denied: the policy set that did.
        pub egress_rule: u32,
        /// Rule that allowed the flow into its destination; 0: not judged. When ingress is denied: the policy set that
        /// did.
        pub ingress_rule: u32,
        /// 1 when a process of this host opened the flow: never judged by policy.
        pub from_host: u8,
        /// 1 once a packet in reply direction was seen.
        pub replied: u8,
        /// 1 once the original source sent FIN.
        pub fin_original: u8,
        /// 1 once the original destination sent FIN.
        pub fin_reply: u8,
        /// 1 after both FINs: the next SYN opens a new flow.
        pub closed: u8,
        /// 1 after RST, until a segment shows that the flow lives on: the RST may have been out of window.
        pub reset: u8,
        /// 1 when the agent found that the backend is gone, and had a program say so: a SYN chooses a new one.
        pub backend_gone: u8,
        /// The [`zone`] of the client's half; both halves know it.
        pub client_zone: u8,
    }
}

/// Values of [`CtState::half`].
pub mod half {
    /// The flow is not translated: this is its only entry.
    pub const PLAIN: u8 = 0;
    /// Matched by what the client sends and what it receives: client and frontend.
    pub const CLIENT: u8 = 1;
    /// Matched by what the backend receives and what it sends.
    pub const BACKEND: u8 = 2;
}

abi! {
    /// Value of `CT_NEW_V4` and `CT_EST_V4`.
    pub struct CtEntryV4 = 56 {
        pub state: CtState,
        /// The tuple written to a packet that matches this half; all zero when [`half::PLAIN`].
        pub nat_source: AddrV4,
        pub nat_destination: AddrV4,
        pub nat_source_port: Be16,
        pub nat_destination_port: Be16,
        pub reserved: u32,
    }
}

abi! {
    /// Value of `CT_NEW_V6` and `CT_EST_V6`.
    pub struct CtEntryV6 = 80 {
        pub state: CtState,
        /// The tuple written to a packet that matches this half; all zero when [`half::PLAIN`].
        pub nat_source: AddrV6,
        pub nat_destination: AddrV6,
        pub nat_source_port: Be16,
        pub nat_destination_port: Be16,
        pub reserved: u32,
    }
}

abi! {
    /// Value of `CT_SHARES`: the established entries that count for a pod, by the index of its host interface; for index 0
    /// those of all. A pod may have as many as are still free for the others, so that no number of pods fills the map.
    pub struct CtShare = 16 {
        pub established_v4: u32,
        pub established_v6: u32,
        /// How often a flow of the pod was to become established and could not, for its share or for lack of memory.
        pub refused: u32,
        /// How often half of a translated flow of the pod was evicted while its client went on sending.
        pub evicted: u32,
    }
}

impl CtShare {
    /// The key of all pods together: no interface has this index.
    pub const ALL: u32 = 0;
    /// The share of a pod that has no flows.
    pub const NONE: Self = Self { established_v4: 0, established_v6: 0, refused: 0, evicted: 0 };
}
