//! Every map: its name, layout and limits. The programs declare the same maps; the loader and every reader check
//! a pinned map against this table before they use it.
use core::mem::size_of;

use crate::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtShare},
    endpoint::EndpointValue,
    fragment::{EarlyFragment, EarlyKey, EarlyRing, FragmentKeyV4, FragmentKeyV6, FragmentValue},
    net::{AddrV4, AddrV6},
    policy::{DeniedFlowKey, DeniedFlowValue, PolicyKey, PolicyValue},
    route::{Prefix, Rejections, RouteValue},
    service::{BackendV4, BackendV6, FrontendKeyV4, FrontendKeyV6, FrontendValue},
    socket::{Pin, SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6, UdpPins},
    verdict::{COUNTERS_PER_HOOK, Hook},
};

/// Kernel map types in use (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    /// One value for each socket that uses it, gone with the socket.
    SkStorage = 24,
}

/// `BPF_F_NO_PREALLOC`: memory is taken per entry, so an empty map costs next to nothing.
pub const NO_PREALLOC: u32 = 1;

/// Bytes of the prefix length in front of a trie key.
const PREFIX: usize = size_of::<u32>();

/// The layout of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    pub name: &'static str,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

macro_rules! maps {
    ($($(#[doc = $doc:literal])+ $id:ident: $kind:ident<$key:expr, $value:ty>[$max:expr] $(| $flags:expr)?;)+) => {
        /// Names a map.
        #[expect(non_camel_case_types, reason = "the variants are the names of the maps")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum MapId { $($(#[doc = $doc])+ $id),+ }

        impl MapId {
            /// Every map.
            pub const ALL: &'static [Self] = &[$(Self::$id),+];

            /// What the map holds, who writes it and who reads it.
            #[must_use]
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$id => concat!($($doc),+)),+ }
            }

            /// The key and value types, as the table spells them.
            #[must_use]
            pub const fn types(self) -> (&'static str, &'static str) {
                match self { $(Self::$id => (stringify!($key), stringify!($value))),+ }
            }

            /// The layout of the map.
            #[must_use]
            #[expect(clippy::cast_possible_truncation, reason = "sizes of small types")]
            pub const fn spec(self) -> MapSpec {
                match self {
                    $(Self::$id => MapSpec {
                        name: stringify!($id),
                        kind: MapKind::$kind,
                        key_size: $key as u32,
                        value_size: size_of::<$value>() as u32,
                        max_entries: $max,
                        flags: 0 $(| $flags)?,
                    }),+
                }
            }
        }
    };
}

/// Flows per family that may be half-open or closing.
pub const CT_NEW_MAX: u32 = 65_536;
/// Established flows per family.
pub const CT_EST_MAX: u32 = 524_288;
/// Pods with established flows, and their sum: interfaces that are gone are forgotten a while later.
pub const CT_SHARES_MAX: u32 = 2 * ENDPOINTS_MAX;
/// Service frontends per family.
pub const FRONTENDS_MAX: u32 = 131_072;
/// Backend slots per family.
pub const BACKENDS_MAX: u32 = 524_288;
/// Local pods per family.
pub const ENDPOINTS_MAX: u32 = 4_096;
/// Pods of the cluster, per family, that some selector in use matches.
pub const CLASSES_MAX: u32 = 262_144;
/// Prefixes of `ipBlock`s in use, per family.
pub const CIDRS_MAX: u32 = 131_072;
/// Compiled rules.
pub const POLICIES_MAX: u32 = 524_288;
/// Pod CIDRs and addresses of services, per family.
pub const ROUTES_MAX: u32 = 147_456;
/// Datagrams in fragments at a time, per family.
pub const FRAGMENTS_MAX: u32 = 16_384;
/// Fragments that wait for the first one of their datagram.
pub const EARLY_FRAGMENTS_MAX: u32 = 2_048;
/// Rings of such fragments: one for each interface and hook that had any.
pub const EARLY_RINGS_MAX: u32 = 8_192;
/// TCP sockets that use a service, per family.
pub const SOCKETS_MAX: u32 = 65_536;
/// UDP sockets of the host that are connected to services, and those of the last seconds.
pub const UDP_PEERS_MAX: u32 = 131_072;
/// Network namespaces of pods: more than there are pods, so that it is never full.
pub const NETNS_MAX: u32 = 16_384;
/// Flows that policy denied lately.
pub const DENIED_FLOWS_MAX: u32 = 4_096;
/// Slots of `COUNTERS`.
pub const COUNTERS_MAX: u32 = Hook::COUNT * COUNTERS_PER_HOOK;

maps! {
    /// ABI version in slot 0. Written by the agent when it creates the maps, read by every reader.
    META: Array<4, u32>[1];
    /// The policy epoch in slot 0. Written by the agent after a change that may revoke, read by `stage::policy`.
    POLICY_EPOCH: Array<4, u32>[1];
    /// The pod CIDR of this node in slots 0 (IPv4) and 1 (IPv6), and what holds the addresses of all services in slots 2
    /// and 3. Written by the agent, read by `stage::forward`, `from_netdev` and the cgroup programs.
    PREFIXES: Array<4, Prefix>[4];
    /// Local pods by address. Written by the agent (and `translated` by `stage::nat`), read by every hook.
    ENDPOINTS_V4: Hash<size_of::<AddrV4>(), EndpointValue>[ENDPOINTS_MAX] | NO_PREALLOC;
    /// Local pods by address. Written by the agent (and `translated` by `stage::nat`), read by every hook.
    ENDPOINTS_V6: Hash<size_of::<AddrV6>(), EndpointValue>[ENDPOINTS_MAX] | NO_PREALLOC;
    /// Service frontends. Written by the agent, read by `stage::service` and the cgroup programs.
    FRONTENDS_V4: Hash<size_of::<FrontendKeyV4>(), FrontendValue>[FRONTENDS_MAX] | NO_PREALLOC;
    /// Service frontends. Written by the agent, read by `stage::service` and the cgroup programs.
    FRONTENDS_V6: Hash<size_of::<FrontendKeyV6>(), FrontendValue>[FRONTENDS_MAX] | NO_PREALLOC;
    /// Backend slots. Written by the agent, read by `stage::service` and the cgroup programs.
    BACKENDS_V4: Array<4, BackendV4>[BACKENDS_MAX];
    /// Backend slots. Written by the agent, read by `stage::service` and the cgroup programs.
    BACKENDS_V6: Array<4, BackendV6>[BACKENDS_MAX];
    /// Class of a pod by address. Written by the agent, read by `stage::policy`.
    CLASSES_V4: Hash<size_of::<AddrV4>(), u32>[CLASSES_MAX] | NO_PREALLOC;
    /// Class of a pod by address. Written by the agent, read by `stage::policy`.
    CLASSES_V6: Hash<size_of::<AddrV6>(), u32>[CLASSES_MAX] | NO_PREALLOC;
    /// Class of an address by the `ipBlock`s that hold it. Written by the agent, read by `stage::policy`.
    CIDRS_V4: LpmTrie<PREFIX + size_of::<AddrV4>(), u32>[CIDRS_MAX] | NO_PREALLOC;
    /// Class of an address by the `ipBlock`s that hold it. Written by the agent, read by `stage::policy`.
    CIDRS_V6: LpmTrie<PREFIX + size_of::<AddrV6>(), u32>[CIDRS_MAX] | NO_PREALLOC;
    /// Compiled rules. Written by the agent, read by `stage::policy`.
    POLICIES: LpmTrie<PREFIX + size_of::<PolicyKey>(), PolicyValue>[POLICIES_MAX] | NO_PREALLOC;
    /// Pod CIDRs, and the addresses of services. Written by the agent, read by `stage::forward`, `stage::uplink` and the
    /// cgroup programs.
    ROUTES_V4: LpmTrie<PREFIX + size_of::<AddrV4>(), RouteValue>[ROUTES_MAX] | NO_PREALLOC;
    /// Pod CIDRs, and the addresses of services. Written by the agent, read by `stage::forward`, `stage::uplink` and the
    /// cgroup programs.
    ROUTES_V6: LpmTrie<PREFIX + size_of::<AddrV6>(), RouteValue>[ROUTES_MAX] | NO_PREALLOC;
    /// Half-open and closing flows. Written by `stage::conntrack`, pruned by the agent.
    CT_NEW_V4: LruHash<size_of::<CtKeyV4>(), CtEntryV4>[CT_NEW_MAX];
    /// Half-open and closing flows. Written by `stage::conntrack`, pruned by the agent.
    CT_NEW_V6: LruHash<size_of::<CtKeyV6>(), CtEntryV6>[CT_NEW_MAX];
    /// Established flows. Written by `stage::conntrack`, pruned by the agent.
    CT_EST_V4: Hash<size_of::<CtKeyV4>(), CtEntryV4>[CT_EST_MAX] | NO_PREALLOC;
    /// Established flows. Written by `stage::conntrack`, pruned by the agent.
    CT_EST_V6: Hash<size_of::<CtKeyV6>(), CtEntryV6>[CT_EST_MAX] | NO_PREALLOC;
    /// Established entries by pod. Written by `stage::conntrack`, counted once more by the agent.
    CT_SHARES: Hash<4, CtShare>[CT_SHARES_MAX] | NO_PREALLOC;
    /// Fragments that wait for the first one of their datagram. Written and read by `stage::fragment`.
    EARLY_FRAGMENTS: LruHash<size_of::<EarlyKey>(), EarlyFragment>[EARLY_FRAGMENTS_MAX];
    /// Where each interface's next such fragment goes. Written and read by `stage::fragment`.
    EARLY_RINGS: LruHash<size_of::<EarlyKey>(), EarlyRing>[EARLY_RINGS_MAX];
    /// Jiffies at which a packet of a flow in the zone `DIRECT` was last seen; 0: none was. Written and read by `conntrack`.
    CT_DIRECT: Array<4, u64>[1];
    /// ICMP errors that were sent to an interface lately. Written and read by `stage::reject`.
    REJECTIONS: LruHash<4, Rejections>[ENDPOINTS_MAX];
    /// Ports of fragmented datagrams. Written and read by `packet`.
    FRAGMENTS_V4: LruHash<size_of::<FragmentKeyV4>(), FragmentValue>[FRAGMENTS_MAX];
    /// Ports of fragmented datagrams. Written and read by `packet`.
    FRAGMENTS_V6: LruHash<size_of::<FragmentKeyV6>(), FragmentValue>[FRAGMENTS_MAX];
    /// Network namespaces of local pods, by cookie. Written by the agent, read by the cgroup programs.
    NETNS: Hash<size_of::<u64>(), u32>[NETNS_MAX] | NO_PREALLOC;
    /// Frontends that TCP sockets asked for. Written and read by the cgroup programs.
    SOCKETS_V4: LruHash<size_of::<SocketKeyV4>(), SocketValueV4>[SOCKETS_MAX];
    /// Frontends that TCP sockets asked for. Written and read by the cgroup programs.
    SOCKETS_V6: LruHash<size_of::<SocketKeyV6>(), SocketValueV6>[SOCKETS_MAX];
    /// Frontends that UDP sockets of the host asked for, and the backends they keep to. Written and read by the cgroup
    /// programs.
    UDP_PINS: SkStorage<4, UdpPins>[0] | NO_PREALLOC;
    /// What the connected ones of them asked for, by socket cookie. Written by the cgroup programs, read and pruned by the
    /// agent.
    UDP_PEERS: Hash<size_of::<u64>(), Pin>[UDP_PEERS_MAX] | NO_PREALLOC;
    /// Flows that policy denied. Written by `observe`, read by the CLI.
    DENIED_FLOWS: LruHash<size_of::<DeniedFlowKey>(), DeniedFlowValue>[DENIED_FLOWS_MAX];
    /// Packets per hook and outcome; see `verdict::counter_slot`. Written by `observe`, read by agent and CLI.
    COUNTERS: PerCpuArray<4, u64>[COUNTERS_MAX];
}
