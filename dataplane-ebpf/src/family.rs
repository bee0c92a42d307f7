//! The two address families behind one trait, so that every stage is written once.
use aya_ebpf::{bindings::BPF_ANY, btf_maps::lpm_trie::Key};
use dataplane_common::{
    config,
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtState},
    endpoint::EndpointValue,
    fragment::{FragmentKeyV4, FragmentKeyV6, FragmentValue},
    net::{AddrV4, AddrV6, Be16, proto},
    route::RouteValue,
    service::{FrontendKeyV4, FrontendKeyV6, FrontendValue, scope},
    socket::{SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6},
};

use crate::{
    flow::{Scratch, Tuple},
    maps,
};

/// IPv4.
pub(crate) struct V4;
/// IPv6.
pub(crate) struct V6;

/// An address family: its types and its maps.
pub(crate) trait Family: Sized {
    type Addr: Copy + PartialEq + 'static;
    type CtKey: Copy;
    type CtEntry: Copy;
    type FragmentKey;
    type SocketKey;

    const IS_V6: bool;
    /// The kernel's number.
    const NUMBER: u8 = if Self::IS_V6 { 10 } else { 2 };
    /// What a flow that is not translated writes to its packets.
    const NO_TUPLE: Tuple<Self::Addr>;
    const ICMP: u8;
    /// What a pod sees as the source when it reaches itself through a service.
    const HAIRPIN: Self::Addr;

    /// Whether nothing to this address leaves a link. In IPv4, clouds and clusters have services at such addresses.
    fn is_link_local(addr: &Self::Addr) -> bool;
    /// Whether an address is in a prefix of `PREFIXES`.
    #[inline(always)]
    fn is_in(slot: u32, addr: &Self::Addr) -> bool {
        let prefix = maps::PREFIXES.get(slot + u32::from(Self::IS_V6));
        prefix.is_some_and(|prefix| prefix.holds(Self::words(addr)))
    }
    /// As the kernel's structures hold it: an IPv4 address is the first word.
    fn words(addr: &Self::Addr) -> [u32; 4];
    /// Whether an address can be that of one host: it is answered, others are not (RFC 1122 §3.2.2).
    fn is_unicast(addr: &Self::Addr) -> bool;
    /// IPv4-mapped where needed.
    fn mapped(addr: &Self::Addr) -> [u8; 16];
    /// The same, as an address of the maps.
    fn to_v6(addr: &Self::Addr) -> AddrV6;
    /// Undoes [`Self::to_v6`].
    fn from_v6(addr: &AddrV6) -> Self::Addr;
    /// Sum of the address's words, for checksums.
    fn sum(addr: &Self::Addr) -> u64;
    /// The order of the maps: both directions of a flow see the same, and the backends of a frontend lie in it.
    fn is_below(a: &Self::Addr, b: &Self::Addr) -> bool;

    /// Working memory of this CPU; programs do not preempt each other on one CPU.
    fn scratch() -> Option<*mut Scratch<Self::Addr>>;
    fn endpoint(addr: &Self::Addr) -> Option<*mut EndpointValue>;
    fn frontend(addr: &Self::Addr, port: Be16, proto: u8) -> Option<FrontendValue>;
    fn backend(slot: u32) -> Option<(Self::Addr, Be16)>;
    fn pod_class(addr: &Self::Addr) -> Option<u32>;
    fn cidr_class(addr: &Self::Addr) -> Option<u32>;
    /// The way to a pod of another node.
    fn route(addr: &Self::Addr) -> Option<&'static RouteValue>;

    fn ct_key(
        low: &Self::Addr,
        high: &Self::Addr,
        low_port: Be16,
        high_port: Be16,
        proto: u8,
        zone: u8,
    ) -> Self::CtKey;
    fn ct_tag(key: &Self::CtKey) -> u32;
    fn ct_entry(state: &CtState, nat: &Tuple<Self::Addr>) -> Self::CtEntry;
    fn ct_state(entry: *mut Self::CtEntry) -> *mut CtState;
    /// The tuple that a half of a translated flow writes.
    fn ct_nat(entry: *const Self::CtEntry, proto: u8) -> Tuple<Self::Addr>;
    fn ct_established(key: &Self::CtKey) -> Option<*mut Self::CtEntry>;
    fn ct_new(key: &Self::CtKey) -> Option<*mut Self::CtEntry>;
    fn ct_insert_established(key: &Self::CtKey, entry: &Self::CtEntry) -> Result<(), i32>;
    fn ct_insert_new(key: &Self::CtKey, entry: &Self::CtEntry, flags: u64) -> Result<(), i32>;
    fn ct_remove_established(key: &Self::CtKey);
    fn ct_remove_new(key: &Self::CtKey);

    fn fragment_key(tuple: &Tuple<Self::Addr>, id: u32) -> Self::FragmentKey;
    fn fragment(key: &Self::FragmentKey) -> Option<FragmentValue>;
    fn remember_fragment(key: &Self::FragmentKey, ports: FragmentValue);

    fn socket_key(cookie: u64, backend: &Self::Addr, port: Be16) -> Self::SocketKey;
    /// The frontend that a TCP socket asked for.
    fn socket(key: &Self::SocketKey) -> Option<(Self::Addr, Be16)>;
    fn remember_socket(key: &Self::SocketKey, addr: &Self::Addr, port: Be16);
    fn forget_socket(key: &Self::SocketKey);
}

/// Declares the parts of [`Family`] that differ only in the names of types and maps.
macro_rules! family_maps {
    (
        $addr:ident, $ct_key:ident, $ct_entry:ident, $fragment_key:ident, $socket_key:ident, $socket_value:ident,
        $frontend_key:ident; $scratch:ident, $endpoints:ident, $frontends:ident, $backends:ident, $classes:ident, $cidrs:ident,
        $cidr_bits:literal, $routes:ident, $ct_new:ident, $ct_est:ident, $fragments:ident, $sockets:ident
    ) => {
        type Addr = $addr;
        type CtKey = $ct_key;
        type CtEntry = $ct_entry;
        type FragmentKey = $fragment_key;
        type SocketKey = $socket_key;

        #[inline(always)]
        fn scratch() -> Option<*mut Scratch<$addr>> {
            maps::$scratch.get_ptr_mut(0)
        }

        #[inline(always)]
        fn endpoint(addr: &$addr) -> Option<*mut EndpointValue> {
            maps::$endpoints.get_ptr_mut(addr)
        }

        #[inline(always)]
        fn frontend(addr: &$addr, port: Be16, proto: u8) -> Option<FrontendValue> {
            let key = $frontend_key { addr: *addr, port, proto, scope: scope::CLUSTER };
            // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
            unsafe { maps::$frontends.get(&key) }.copied()
        }

        #[inline(always)]
        fn backend(slot: u32) -> Option<($addr, Be16)> {
            maps::$backends.get(slot).map(|backend| (backend.addr, backend.port))
        }

        #[inline(always)]
        fn pod_class(addr: &$addr) -> Option<u32> {
            // SAFETY: copied out at once.
            unsafe { maps::$classes.get(addr) }.copied()
        }

        #[inline(always)]
        fn cidr_class(addr: &$addr) -> Option<u32> {
            maps::$cidrs.get(&Key::new($cidr_bits, *addr)).copied()
        }

        #[inline(always)]
        fn route(addr: &$addr) -> Option<&'static RouteValue> {
            maps::$routes.get(&Key::new($cidr_bits, *addr))
        }

        #[inline(always)]
        fn ct_key(
            low: &$addr,
            high: &$addr,
            low_port: Be16,
            high_port: Be16,
            proto: u8,
            zone: u8,
        ) -> $ct_key {
            $ct_key { low_addr: *low, high_addr: *high, low_port, high_port, proto, zone, reserved: [0; 2] }
        }

        #[inline(always)]
        fn ct_tag(key: &$ct_key) -> u32 {
            key.tag()
        }

        #[inline(always)]
        fn ct_entry(state: &CtState, nat: &Tuple<$addr>) -> $ct_entry {
            $ct_entry {
                state: *state,
                nat_source: nat.source,
                nat_destination: nat.destination,
                nat_source_port: nat.source_port,
                nat_destination_port: nat.destination_port,
                reserved: 0,
            }
        }

        #[inline(always)]
        fn ct_state(entry: *mut $ct_entry) -> *mut CtState {
            entry.cast()
        }

        #[inline(always)]
        fn ct_nat(entry: *const $ct_entry, proto: u8) -> Tuple<$addr> {
            // SAFETY: `entry` comes from a look-up of this program run; entries are freed after it (RCU).
            unsafe {
                Tuple {
                    source: (*entry).nat_source,
                    destination: (*entry).nat_destination,
                    source_port: (*entry).nat_source_port,
                    destination_port: (*entry).nat_destination_port,
                    proto,
                }
            }
        }

        #[inline(always)]
        fn ct_established(key: &$ct_key) -> Option<*mut $ct_entry> {
            maps::$ct_est.get_ptr_mut(key)
        }

        #[inline(always)]
        fn ct_new(key: &$ct_key) -> Option<*mut $ct_entry> {
            maps::$ct_new.get_ptr_mut(key)
        }

        #[inline(always)]
        fn ct_insert_established(key: &$ct_key, entry: &$ct_entry) -> Result<(), i32> {
            maps::$ct_est.insert(key, entry, u64::from(BPF_ANY))
        }

        #[inline(always)]
        fn ct_insert_new(key: &$ct_key, entry: &$ct_entry, flags: u64) -> Result<(), i32> {
            maps::$ct_new.insert(key, entry, flags)
        }

        #[inline(always)]
        fn ct_remove_established(key: &$ct_key) {
            // Another CPU may have removed it: gone is what is wanted.
            let _gone = maps::$ct_est.remove(key);
        }

        #[inline(always)]
        fn ct_remove_new(key: &$ct_key) {
            // Another CPU may have removed it: gone is what is wanted.
            let _gone = maps::$ct_new.remove(key);
        }

        #[inline(always)]
        fn fragment(key: &$fragment_key) -> Option<FragmentValue> {
            // SAFETY: copied out at once.
            unsafe { maps::$fragments.get(key) }.copied()
        }

        #[inline(always)]
        fn remember_fragment(key: &$fragment_key, ports: FragmentValue) {
            // An LRU map makes room; if it cannot, the later fragments are dropped and counted.
            let _full = maps::$fragments.insert(key, ports, u64::from(BPF_ANY));
        }

        #[inline(always)]
        fn socket_key(cookie: u64, backend: &$addr, port: Be16) -> $socket_key {
            $socket_key { cookie, backend: *backend, port, reserved: Default::default() }
        }

        #[inline(always)]
        fn socket(key: &$socket_key) -> Option<($addr, Be16)> {
            // SAFETY: copied out at once.
            unsafe { maps::$sockets.get(key) }.map(|frontend| (frontend.addr, frontend.port))
        }

        #[inline(always)]
        fn remember_socket(key: &$socket_key, addr: &$addr, port: Be16) {
            let value = $socket_value { addr: *addr, port, reserved: 0 };
            // An LRU map makes room; if it cannot, the application sees the backend's address.
            let _full = maps::$sockets.insert(key, value, u64::from(BPF_ANY));
        }

        #[inline(always)]
        fn forget_socket(key: &$socket_key) {
            // Most sockets have none: gone is what is wanted.
            let _gone = maps::$sockets.remove(key);
        }
    };
}

impl Family for V4 {
    family_maps!(
        AddrV4, CtKeyV4, CtEntryV4, FragmentKeyV4, SocketKeyV4, SocketValueV4, FrontendKeyV4;
        SCRATCH_V4, ENDPOINTS_V4, FRONTENDS_V4, BACKENDS_V4, CLASSES_V4, CIDRS_V4, 32, ROUTES_V4, CT_NEW_V4, CT_EST_V4,
        FRAGMENTS_V4, SOCKETS_V4
    );

    const IS_V6: bool = false;
    const NO_TUPLE: Tuple<AddrV4> = Tuple::none(AddrV4(0));
    const ICMP: u8 = proto::ICMP;
    const HAIRPIN: AddrV4 = AddrV4::new(config::HAIRPIN_V4);

    #[inline(always)]
    fn words(addr: &AddrV4) -> [u32; 4] {
        [addr.0, 0, 0, 0]
    }

    #[inline(always)]
    fn is_unicast(addr: &AddrV4) -> bool {
        let [first, ..] = addr.octets();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn fragment_key(tuple: &Tuple<AddrV4>, id: u32) -> FragmentKeyV4 {
        let Tuple { source, destination, proto, .. } = *tuple;
        FragmentKeyV4 { source, destination, id, proto, reserved: [0; 3] }
    }

    #[inline(always)]
    fn is_link_local(_: &AddrV4) -> bool {
        false
    }

    #[inline(always)]
    fn mapped(addr: &AddrV4) -> [u8; 16] {
        let [a, b, c, d] = addr.octets();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    #[inline(always)]
    fn to_v6(addr: &AddrV4) -> AddrV6 {
        AddrV6::mapped(*addr)
    }

    #[inline(always)]
    fn from_v6(addr: &AddrV6) -> AddrV4 {
        let [.., last] = addr.0;
        AddrV4(last)
    }

    #[inline(always)]
    fn sum(addr: &AddrV4) -> u64 {
        u64::from(addr.0)
    }

    #[inline(always)]
    fn is_below(a: &AddrV4, b: &AddrV4) -> bool {
        a.is_below(*b)
    }
}

impl Family for V6 {
    family_maps!(
        AddrV6, CtKeyV6, CtEntryV6, FragmentKeyV6, SocketKeyV6, SocketValueV6, FrontendKeyV6;
        SCRATCH_V6, ENDPOINTS_V6, FRONTENDS_V6, BACKENDS_V6, CLASSES_V6, CIDRS_V6, 128, ROUTES_V6, CT_NEW_V6, CT_EST_V6,
        FRAGMENTS_V6, SOCKETS_V6
    );

    const IS_V6: bool = true;
    const NO_TUPLE: Tuple<AddrV6> = Tuple::none(AddrV6([0; 4]));
    const ICMP: u8 = proto::ICMPV6;
    const HAIRPIN: AddrV6 = AddrV6::new(config::HAIRPIN_V6);

    #[inline(always)]
    fn words(addr: &AddrV6) -> [u32; 4] {
        addr.0
    }

    #[inline(always)]
    fn is_unicast(addr: &AddrV6) -> bool {
        let [a, b, c, d] = addr.0;
        // Neither `::` nor `::1`, nor a group.
        (a | b | c | (d & !1u32.to_be())) != 0 && a & 0xff00_0000_u32.to_be() != 0xff00_0000_u32.to_be()
    }

    #[inline(always)]
    fn fragment_key(tuple: &Tuple<AddrV6>, id: u32) -> FragmentKeyV6 {
        FragmentKeyV6 { source: tuple.source, destination: tuple.destination, id }
    }

    #[inline(always)]
    fn is_link_local(addr: &AddrV6) -> bool {
        addr.is_link_local()
    }

    #[inline(always)]
    fn mapped(addr: &AddrV6) -> [u8; 16] {
        let [a, b, c, d] = addr.0;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    #[inline(always)]
    fn to_v6(addr: &AddrV6) -> AddrV6 {
        *addr
    }

    #[inline(always)]
    fn from_v6(addr: &AddrV6) -> AddrV6 {
        *addr
    }

    #[inline(always)]
    fn sum(addr: &AddrV6) -> u64 {
        let [a, b, c, d] = addr.0;
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }

    #[inline(always)]
    fn is_below(a: &AddrV6, b: &AddrV6) -> bool {
        a.is_below(*b)
    }
}
