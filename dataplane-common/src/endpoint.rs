//! Endpoints: the pod interfaces of this node.
use crate::net::MacAddr;

abi! {
    /// Value of `ENDPOINTS_V4` and `ENDPOINTS_V6`; the key is the pod's address of that family.
    pub struct EndpointValue = 28 {
        /// Host side of the pod's veth pair.
        pub ifindex: u32,
        /// Policy set that judges what enters the pod; 0: not isolated for ingress.
        pub ingress_set: u32,
        /// Policy set that judges what leaves the pod; 0: not isolated for egress.
        pub egress_set: u32,
        pub pod_mac: MacAddr,
        pub host_mac: MacAddr,
        /// 1 when the pod ever had a translated flow. Set by the programs; the agent writes 1 whenever it
        /// replaces an entry, because 0 promises that no flow of the pod has a conntrack entry to find.
        pub translated: u8,
        pub reserved: [u8; 3],
    }
}

impl EndpointValue {
    /// Stands for an address that is no local pod: isolated in no direction, never tracked.
    pub const ABSENT: Self = Self {
        ifindex: 0,
        ingress_set: 0,
        egress_set: 0,
        pod_mac: [0; 6],
        host_mac: [0; 6],
        translated: 0,
        reserved: [0; 3],
    };

    /// Whether this is a pod: no interface has the index 0.
    #[must_use]
    #[inline(always)]
    pub const fn is_present(&self) -> bool {
        self.ifindex != 0
    }

    /// Whether a policy isolates the pod in some direction.
    #[must_use]
    #[inline(always)]
    pub const fn is_isolated(&self) -> bool {
        self.ingress_set | self.egress_set != 0
    }

    /// Whether flows of this pod may have conntrack entries.
    #[must_use]
    #[inline(always)]
    pub const fn may_be_tracked(&self) -> bool {
        self.is_isolated() || self.translated != 0
    }
}
