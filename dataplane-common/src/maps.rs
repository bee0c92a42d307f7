//! Every map: its name, layout and limits. The programs declare the same maps; the loader and every reader check
//! a pinned map against this table before they use it.
use core::mem::size_of;

use crate::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtShare},
    endpoint::EndpointValue,
    fragment::{EarlyFragment, EarlyKey, EarlyRing, FragmentKeyV4, FragmentKeyV6, FragmentValue},
    net::{AddrV4, AddrV6},
    policy::{DeniedFlowKey, DeniedFlowValue, PolicyKey, PolicyValue},
    route::{HostPath, Prefix, Rejections, RouteValue},
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

/// All memory is taken when the map is created.
pub const PREALLOC: u32 = 0;
/// `BPF_F_NO_PREALLOC`: memory is taken per entry, so an empty map costs next to nothing.
pub const NO_PREALLOC: u32 = 1;

/// The layout of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    pub name: &'static str,
    /// Raised with every change of the layout, or of what its numbers mean.
    pub version: u32,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// When a rendered map is written, among the writes of one plan. Deletes come in the reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Where packets may go.
    Ways,
    /// What nothing refers to yet.
    Rules,
    /// From here on flows may be judged differently.
    Flips,
}

/// What becomes of what a map holds when its layout changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It is written at load.
    Constant,
    /// It is carried over: flows and sockets depend on it.
    Carried,
    /// It is forgotten: what it holds is of the last seconds, or for people.
    Forgotten,
}

/// Key of `META`: the name of a pin, filled up with zeros.
pub type MapName = [u8; 32];

/// Hands every map to a macro: one row for a table, with the version of its layout, and with a map for each family where they
/// differ. The maps that the agent
/// renders come first, in the order in which one plan writes them: their row says in which [`Phase`], whose entries must
/// be there before (`needs`), and who refers to its entries (`used_by`). Those that programs write, or that are no part of a
/// plan, say how they are kept ([`Keeping`]).
///
/// What is named here must be in scope where the macro is called, as far as the macro that it calls uses it.
#[macro_export]
macro_rules! for_each_map {
    ($then:ident) => {
        $then! {
            rendered {
                /// Backend slots. Written by the agent, read by `stage::service` and the cgroup programs.
                Backends 2: Ways, [BACKENDS_MAX, PREALLOC] {
                    BACKENDS_V4: Array<u32, BackendV4>,
                    BACKENDS_V6: Array<u32, BackendV6>,
                }
                /// Service frontends. Written by the agent, read by `stage::service` and the cgroup programs.
                Frontends 2: Ways needs Backends, [FRONTENDS_MAX, NO_PREALLOC] {
                    FRONTENDS_V4: Hash<FrontendKeyV4, FrontendValue>,
                    FRONTENDS_V6: Hash<FrontendKeyV6, FrontendValue>,
                }
                /// Pod CIDRs, and the addresses of services. Written by the agent, read by `stage::forward`, `stage::uplink` and
                /// the cgroup programs.
                Routes 2: Ways, [ROUTES_MAX, NO_PREALLOC] {
                    ROUTES_V4: LpmTrie<AddrV4, RouteValue>,
                    ROUTES_V6: LpmTrie<AddrV6, RouteValue>,
                }
                /// Network namespaces of local pods, by cookie. Written by the agent, read by the cgroup programs.
                Netns 1: Ways, [NETNS_MAX, NO_PREALLOC] {
                    NETNS: Hash<u64, u32>,
                }
                /// Compiled rules. Written by the agent, read by `stage::policy`.
                Policies 1: Rules used_by Classes Cidrs Endpoints, [POLICIES_MAX, NO_PREALLOC] {
                    POLICIES: LpmTrie<PolicyKey, PolicyValue>,
                }
                /// Class of a pod by address. Written by the agent, read by `stage::policy`.
                Classes 1: Flips, [CLASSES_MAX, NO_PREALLOC] {
                    CLASSES_V4: Hash<AddrV4, u32>,
                    CLASSES_V6: Hash<AddrV6, u32>,
                }
                /// Class of an address by the `ipBlock`s that hold it. Written by the agent, read by `stage::policy`.
                Cidrs 1: Flips, [CIDRS_MAX, NO_PREALLOC] {
                    CIDRS_V4: LpmTrie<AddrV4, u32>,
                    CIDRS_V6: LpmTrie<AddrV6, u32>,
                }
                /// Local pods by address. Written by the agent (and `translated` by `stage::nat`), read by every hook.
                Endpoints 1: Flips, [ENDPOINTS_MAX, NO_PREALLOC] {
                    ENDPOINTS_V4: Hash<AddrV4, EndpointValue>,
                    ENDPOINTS_V6: Hash<AddrV6, EndpointValue>,
                }
            }
            others {
                /// The version of each map, by name, and of those that it took the place of. Written by the agent, read by every
                /// reader.
                Meta 2: Constant, [META_MAX, PREALLOC] {
                    META: Hash<MapName, u32>,
                }
                /// The policy epoch in slot 0. Written by the agent after a change that may revoke, read by `stage::policy`.
                Epoch 1: Carried, [1, PREALLOC] {
                    POLICY_EPOCH: Array<u32, u32>,
                }
                /// The pod CIDR of this node in slots 0 (IPv4) and 1 (IPv6), and what holds the addresses of all services in
                /// slots 2 and 3. Written by the agent, read by `stage::forward`, `from_netdev` and the cgroup programs.
                Prefixes 1: Carried, [4, PREALLOC] {
                    PREFIXES: Array<u32, Prefix>,
                }
                /// The way of what processes of the host send to services, in slots 0 (IPv4) and 1 (IPv6). Written by the agent, read by
                /// `stage::forward` and the cgroup programs.
                HostPaths 1: Carried, [2, PREALLOC] {
                    HOST_PATHS: Array<u32, HostPath>,
                }
                /// Half-open and closing flows. Written by `stage::conntrack`, pruned by the agent.
                NewFlows 2: Carried, [CT_NEW_MAX, PREALLOC] {
                    CT_NEW_V4: LruHash<CtKeyV4, CtEntryV4>,
                    CT_NEW_V6: LruHash<CtKeyV6, CtEntryV6>,
                }
                /// Established flows. Written by `stage::conntrack`, pruned by the agent.
                EstablishedFlows 2: Carried, [CT_EST_MAX, NO_PREALLOC] {
                    CT_EST_V4: Hash<CtKeyV4, CtEntryV4>,
                    CT_EST_V6: Hash<CtKeyV6, CtEntryV6>,
                }
                /// Established entries by pod. Written by `stage::conntrack`, counted once more by the agent.
                Shares 1: Carried, [CT_SHARES_MAX, NO_PREALLOC] {
                    CT_SHARES: Hash<u32, CtShare>,
                }
                /// Jiffies at which a packet of a flow in the zone `DIRECT` was last seen; 0: none was. Written and read by
                /// `conntrack`.
                DirectFlows 1: Carried, [1, PREALLOC] {
                    CT_DIRECT: Array<u32, u64>,
                }
                /// Jiffies at which a process of the host last used a flow to a service; 0: none did. Written and read by `conntrack`.
                HostFlows 1: Carried, [1, PREALLOC] {
                    CT_HOST: Array<u32, u64>,
                }
                /// Until when flows are carried over from maps of another layout, in nanoseconds of the kernel's monotonic clock. Written
                /// by the agent, read by `conntrack`.
                CarryingOver 1: Forgotten, [1, PREALLOC] {
                    CARRYING_OVER: Array<u32, u64>,
                }
                /// Ports of fragmented datagrams. Written and read by `packet`.
                Fragments 2: Carried, [FRAGMENTS_MAX, PREALLOC] {
                    FRAGMENTS_V4: LruHash<FragmentKeyV4, FragmentValue>,
                    FRAGMENTS_V6: LruHash<FragmentKeyV6, FragmentValue>,
                }
                /// Fragments that wait for the first one of their datagram. Written and read by `stage::fragment`.
                EarlyFragments 1: Forgotten, [EARLY_FRAGMENTS_MAX, PREALLOC] {
                    EARLY_FRAGMENTS: LruHash<EarlyKey, EarlyFragment>,
                }
                /// Where each interface's next such fragment goes. Written and read by `stage::fragment`.
                EarlyRings 1: Forgotten, [EARLY_RINGS_MAX, PREALLOC] {
                    EARLY_RINGS: LruHash<EarlyKey, EarlyRing>,
                }
                /// ICMP errors that were sent to an interface lately. Written and read by `stage::reject`.
                Rejections 1: Forgotten, [ENDPOINTS_MAX, PREALLOC] {
                    REJECTIONS: LruHash<u32, Rejections>,
                }
                /// Frontends that TCP sockets asked for. Written and read by the cgroup programs.
                TcpSockets 2: Carried, [SOCKETS_MAX, PREALLOC] {
                    SOCKETS_V4: LruHash<SocketKeyV4, SocketValueV4>,
                    SOCKETS_V6: LruHash<SocketKeyV6, SocketValueV6>,
                }
                /// Frontends that UDP sockets of the host asked for, and the backends they keep to. Written and read by the
                /// cgroup programs.
                UdpSockets 1: Carried, [0, NO_PREALLOC] {
                    UDP_PINS: SkStorage<u32, UdpPins>,
                }
                /// What the connected ones of them asked for, by socket cookie. Written by the cgroup programs, read and pruned
                /// by the agent.
                UdpPeers 1: Carried, [UDP_PEERS_MAX, NO_PREALLOC] {
                    UDP_PEERS: Hash<u64, Pin>,
                }
                /// Flows that policy denied. Written by `observe`, read by the CLI.
                DeniedFlows 1: Forgotten, [DENIED_FLOWS_MAX, PREALLOC] {
                    DENIED_FLOWS: LruHash<DeniedFlowKey, DeniedFlowValue>,
                }
                /// Packets per hook and outcome; see `verdict::counter_slot`. Written by `observe`, read by agent and CLI.
                Counters 1: Carried, [COUNTERS_MAX, PREALLOC] {
                    COUNTERS: PerCpuArray<u32, u64>,
                }
            }
        }
    };
}

macro_rules! map_ids {
    (
        rendered { $(
            $(#[doc = $doc:literal])+
            $table:ident $version:literal: $phase:ident $(needs $need:ident)? $(used_by $($user:ident)+)?,
            [$max:expr, $flags:expr]
            { $($id:ident: $kind:ident<$key:ty, $value:ty>,)+ }
        )+ }
        others { $(
            $(#[doc = $other_doc:literal])+
            $other:ident $other_version:literal: $keeping:ident, [$other_max:expr, $other_flags:expr]
            { $($other_id:ident: $other_kind:ident<$other_key:ty, $other_value:ty>,)+ }
        )+ }
    ) => {
        map_ids! {
            $($($id = $version, $kind, $key, $value, $max, $flags;)+)+
            $($($other_id = $other_version, $other_kind, $other_key, $other_value, $other_max, $other_flags;)+)+
        }

        impl MapId {
            /// What the map holds, who writes it and who reads it.
            #[must_use]
            pub const fn purpose(self) -> &'static str {
                match self {
                    $($(Self::$id)|+ => concat!($($doc),+),)+
                    $($(Self::$other_id)|+ => concat!($($other_doc),+),)+
                }
            }

            /// What becomes of what the map holds when its layout changes; none when the agent renders it.
            #[must_use]
            pub const fn keeping(self) -> Option<Keeping> {
                match self {
                    $($(Self::$id)|+)|+ => None,
                    $($(Self::$other_id)|+ => Some(Keeping::$keeping),)+
                }
            }
        }
    };
    ($($id:ident = $version:literal, $kind:ident, $key:ty, $value:ty, $max:expr, $flags:expr;)+) => {
        /// Names a map.
        #[expect(non_camel_case_types, reason = "the variants are the names of the maps")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum MapId { $($id),+ }

        impl MapId {
            /// Every map.
            pub const ALL: &'static [Self] = &[$(Self::$id),+];

            /// The types of key and value, as the table spells them. A trie has the length of a prefix before its key.
            #[must_use]
            pub const fn types(self) -> (&'static str, &'static str) {
                match self { $(Self::$id => (stringify!($key), stringify!($value))),+ }
            }

            /// The layout of the map.
            #[must_use]
            pub const fn spec(self) -> MapSpec {
                match self {
                    $(Self::$id => {
                        MapSpec::new::<$key, $value>(stringify!($id), $version, MapKind::$kind, $max, $flags)
                    }),+
                }
            }
        }
    };
}

impl MapSpec {
    #[expect(clippy::cast_possible_truncation, reason = "sizes of small types")]
    const fn new<K, V>(
        name: &'static str,
        version: u32,
        kind: MapKind,
        max_entries: u32,
        flags: u32,
    ) -> Self {
        let prefix_len = if matches!(kind, MapKind::LpmTrie) { size_of::<u32>() } else { 0 };
        let (key_size, value_size) = ((prefix_len + size_of::<K>()) as u32, size_of::<V>() as u32);
        Self { name, version, kind, key_size, value_size, max_entries, flags }
    }
}

/// Maps, and what they take the place of.
pub const META_MAX: u32 = 256;
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

for_each_map!(map_ids);
