//! What becomes of packets to what is no pod of this node.
use crate::net::MacAddr;

abi! {
    /// Value of `ROUTES_V4` and `ROUTES_V6`; the key is a pod CIDR, or the address of a service. What follows `kind` has
    /// the layout of `struct bpf_redir_neigh`.
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

abi! {
    /// Value of `PREFIXES`.
    pub struct Prefix = 36 {
        /// In network byte order; an IPv4 prefix is in the first word.
        pub addr: [u32; 4],
        pub mask: [u32; 4],
        /// 0: it holds nothing.
        pub is_set: u32,
    }
}

abi! {
    /// Value of `HOST_PATHS`: how packets to services that processes of the host send leave it, and how the answers come.
    pub struct HostPath = 12 {
        /// The uplink; 0: packets to services leave by no interface that has the programs of uplinks.
        pub ifindex: u32,
        /// Its link-layer address.
        pub mac: MacAddr,
        /// 1: sockets that may need it are left to this path.
        pub takes_sockets: u16,
    }
}

impl HostPath {
    /// There is none.
    pub const NONE: Self = Self { ifindex: 0, mac: [0; 6], takes_sockets: 0 };
}

abi! {
    /// Value of `REJECTIONS`; the key is the interface whose packets are rejected.
    pub struct Rejections = 8 {
        /// Counted since boot; see [`Rejections::SECOND_BITS`].
        pub second: u32,
        /// ICMP errors in that second.
        pub count: u32,
    }
}

impl Rejections {
    /// ICMP errors that one interface is sent in a second.
    pub const LIMIT: u32 = 100;
    /// A second is 2^30 nanoseconds.
    pub const SECOND_BITS: u32 = 30;
}

/// Slots of `PREFIXES` for IPv4; the one behind each is that of IPv6.
pub mod slot {
    /// The pod CIDR of this node: an address there that is no pod's may be nobody's.
    pub const PODS: u32 = 0;
    /// What holds the address of every service, and others: a place to look, no more.
    pub const SERVICES: u32 = 2;
}

impl Prefix {
    /// Holds nothing.
    pub const NONE: Self = Self { addr: [0; 4], mask: [0; 4], is_set: 0 };

    /// The first `bits` bits of an address; an IPv4 address is the first four bytes.
    #[must_use]
    pub fn new(addr: [u8; 16], bits: u8) -> Self {
        let (mut addr, mut mask) = (addr, [0; 16]);
        let mut left = bits;
        for (byte, mask) in addr.iter_mut().zip(&mut mask) {
            let here = left.min(8);
            left -= here;
            *mask = !0xff_u8.checked_shr(here.into()).unwrap_or(0);
            *byte &= *mask;
        }
        Self { addr: words(addr), mask: words(mask), is_set: 1 }
    }

    /// Whether it holds an address; an IPv4 address is the first word.
    #[must_use]
    #[inline(always)]
    pub const fn holds(&self, addr: [u32; 4]) -> bool {
        let [a, b, c, d] = addr;
        self.is_set != 0
            && a & self.mask[0] == self.addr[0]
            && b & self.mask[1] == self.addr[1]
            && c & self.mask[2] == self.addr[2]
            && d & self.mask[3] == self.addr[3]
    }
}

const fn words(bytes: [u8; 16]) -> [u32; 4] {
    zerocopy::transmute!(bytes)
}

/// How packets on a route leave the node: values of [`RouteValue::kind`].
pub mod kind {
    /// To the node of the pods, which is on the uplink's link.
    pub const DIRECT: u32 = 0;
    /// To a router on the uplink's link, which knows the way.
    pub const GATEWAY: u32 = 1;
    /// As the host's stack routes them, in both directions. 2 is kept for overlays.
    pub const STACK: u32 = 3;
    /// The address of a service: what goes to none of its ports is refused.
    pub const SERVICE: u32 = 4;
}

/// The kernel's numbers of address families.
pub mod family {
    pub const INET: u32 = 2;
    pub const INET6: u32 = 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(octets: [u8; 4]) -> [u8; 16] {
        let mut addr = [0; 16];
        addr[..4].copy_from_slice(&octets);
        addr
    }

    #[test]
    fn a_prefix_holds_its_addresses_and_no_others() {
        for (bits, inside, outside) in [
            (24, [10, 1, 2, 255], [10, 1, 3, 0]),
            (25, [10, 1, 2, 127], [10, 1, 2, 128]),
            (32, [10, 1, 2, 0], [10, 1, 2, 1]),
            (8, [10, 255, 0, 0], [11, 1, 2, 0]),
        ] {
            let prefix = Prefix::new(padded([10, 1, 2, 0]), bits);
            assert!(prefix.holds(words(padded(inside))), "{bits}");
            assert!(!prefix.holds(words(padded(outside))), "{bits}");
        }
        let addr = [0xfd, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9];
        let (mut near, mut far) = (addr, addr);
        (near[15], far[7]) = (1, 8);
        let prefix = Prefix::new(addr, 64);
        assert_eq!([addr, near, far].map(|addr| prefix.holds(words(addr))), [true, true, false]);
        let prefix = Prefix::new(addr, 128);
        assert_eq!([addr, near, far].map(|addr| prefix.holds(words(addr))), [true, false, false]);
        assert!(Prefix::new(addr, 0).holds(words(padded([192, 0, 2, 1]))));
        assert!(!Prefix::NONE.holds([0; 4]));
    }
}
