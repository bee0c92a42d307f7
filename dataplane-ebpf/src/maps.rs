//! Every map, and nothing else. Who writes and reads each, and how large it is, stands in
//! `dataplane_common::maps`; only the working memories are private to the programs.
use aya_ebpf::{
    bindings::bpf_spin_lock,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtShare},
    endpoint::EndpointValue,
    fragment::{EarlyFragment, EarlyKey, EarlyRing, FragmentKeyV4, FragmentKeyV6, FragmentValue},
    maps as limits,
    net::{AddrV4, AddrV6},
    policy::{DeniedFlowKey, DeniedFlowValue, PolicyKey, PolicyValue},
    route::{Prefix, Rejections, RouteValue},
    service::{BackendV4, BackendV6, FrontendKeyV4, FrontendKeyV6, FrontendValue},
    socket::{PINS, Pin, SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6, UdpPins},
};

use crate::flow::Scratch;

/// [`UdpPins`], with the lock by the name that the verifier looks for.
#[repr(C)]
pub(crate) struct SocketPins {
    pub(crate) lock: bpf_spin_lock,
    pub(crate) next: u32,
    pub(crate) pins: [Pin; PINS],
}

const _: () = assert!(size_of::<SocketPins>() == size_of::<UdpPins>());

const NO_PREALLOC: usize = limits::NO_PREALLOC as usize;

#[btf_map]
pub(crate) static META: Array<u32, 1> = Array::new();
#[btf_map]
pub(crate) static POLICY_EPOCH: Array<u32, 1> = Array::new();
#[btf_map]
pub(crate) static PREFIXES: Array<Prefix, 4> = Array::new();
#[btf_map]
pub(crate) static ENDPOINTS_V4: HashMap<
    AddrV4,
    EndpointValue,
    { limits::ENDPOINTS_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINTS_V6: HashMap<
    AddrV6,
    EndpointValue,
    { limits::ENDPOINTS_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static FRONTENDS_V4: HashMap<
    FrontendKeyV4,
    FrontendValue,
    { limits::FRONTENDS_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static FRONTENDS_V6: HashMap<
    FrontendKeyV6,
    FrontendValue,
    { limits::FRONTENDS_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static BACKENDS_V4: Array<BackendV4, { limits::BACKENDS_MAX as usize }> = Array::new();
#[btf_map]
pub(crate) static BACKENDS_V6: Array<BackendV6, { limits::BACKENDS_MAX as usize }> = Array::new();
#[btf_map]
pub(crate) static CLASSES_V4: HashMap<AddrV4, u32, { limits::CLASSES_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static CLASSES_V6: HashMap<AddrV6, u32, { limits::CLASSES_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static CIDRS_V4: LpmTrie<AddrV4, u32, { limits::CIDRS_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static CIDRS_V6: LpmTrie<AddrV6, u32, { limits::CIDRS_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static POLICIES: LpmTrie<PolicyKey, PolicyValue, { limits::POLICIES_MAX as usize }> =
    LpmTrie::new();
#[btf_map]
pub(crate) static ROUTES_V4: LpmTrie<AddrV4, RouteValue, { limits::ROUTES_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static ROUTES_V6: LpmTrie<AddrV6, RouteValue, { limits::ROUTES_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static CT_NEW_V4: LruHashMap<CtKeyV4, CtEntryV4, { limits::CT_NEW_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static CT_NEW_V6: LruHashMap<CtKeyV6, CtEntryV6, { limits::CT_NEW_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static CT_EST_V4: HashMap<CtKeyV4, CtEntryV4, { limits::CT_EST_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static CT_EST_V6: HashMap<CtKeyV6, CtEntryV6, { limits::CT_EST_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static CT_SHARES: HashMap<u32, CtShare, { limits::CT_SHARES_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static CT_DIRECT: Array<u64, 1> = Array::new();
#[btf_map]
pub(crate) static REJECTIONS: LruHashMap<u32, Rejections, { limits::ENDPOINTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS_V4: LruHashMap<FragmentKeyV4, FragmentValue, { limits::FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS_V6: LruHashMap<FragmentKeyV6, FragmentValue, { limits::FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static EARLY_FRAGMENTS: LruHashMap<
    EarlyKey,
    EarlyFragment,
    { limits::EARLY_FRAGMENTS_MAX as usize },
> = LruHashMap::new();
#[btf_map]
pub(crate) static EARLY_RINGS: LruHashMap<EarlyKey, EarlyRing, { limits::EARLY_RINGS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static EARLY_SCRATCH: PerCpuArray<EarlyFragment, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static NETNS: HashMap<u64, u32, { limits::NETNS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static SOCKETS_V4: LruHashMap<SocketKeyV4, SocketValueV4, { limits::SOCKETS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS_V6: LruHashMap<SocketKeyV6, SocketValueV6, { limits::SOCKETS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static UDP_PINS: SkStorage<SocketPins> = SkStorage::new();
#[btf_map]
pub(crate) static UDP_PEERS: HashMap<u64, Pin, { limits::UDP_PEERS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static DENIED_FLOWS: LruHashMap<
    DeniedFlowKey,
    DeniedFlowValue,
    { limits::DENIED_FLOWS_MAX as usize },
> = LruHashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { limits::COUNTERS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH_V4: PerCpuArray<Scratch<AddrV4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH_V6: PerCpuArray<Scratch<AddrV6>, 1> = PerCpuArray::new();
