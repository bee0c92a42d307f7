//! Every map, and nothing else, as `dataplane_common::maps` says: who writes and reads each, and how large it is. Only the
//! working memories are private to the programs.
use aya_ebpf::{
    bindings::bpf_spin_lock,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtShare},
    endpoint::EndpointValue,
    for_each_map,
    fragment::{EarlyFragment, EarlyKey, EarlyRing, FragmentKeyV4, FragmentKeyV6, FragmentValue},
    maps::{MapId, MapName},
    net::{AddrV4, AddrV6},
    policy::{DeniedFlowKey, DeniedFlowValue, PolicyKey, PolicyValue},
    route::{HostPath, Prefix, Rejections, RouteValue},
    service::{BackendV4, BackendV6, FrontendKeyV4, FrontendKeyV6, FrontendValue},
    socket::{self, PINS, Pin, SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6},
};

use crate::flow::Scratch;

/// [`socket::UdpPins`], with the lock by the name that the verifier looks for.
#[repr(C)]
pub(crate) struct UdpPins {
    pub(crate) lock: bpf_spin_lock,
    pub(crate) next: u32,
    pub(crate) pins: [Pin; PINS],
}

const _: () = assert!(size_of::<UdpPins>() == size_of::<socket::UdpPins>());

const fn max_entries(map: MapId) -> usize {
    map.spec().max_entries as usize
}

const fn flags(map: MapId) -> usize {
    map.spec().flags as usize
}

/// The type of a map of a kind in the kernel.
macro_rules! map_type {
    (Array $id:ident $key:ty, $value:ty) => { Array<$value, { max_entries(MapId::$id) }> };
    (PerCpuArray $id:ident $key:ty, $value:ty) => { PerCpuArray<$value, { max_entries(MapId::$id) }> };
    (Hash $id:ident $key:ty, $value:ty) => { HashMap<$key, $value, { max_entries(MapId::$id) }, { flags(MapId::$id) }> };
    (LruHash $id:ident $key:ty, $value:ty) => {
        LruHashMap<$key, $value, { max_entries(MapId::$id) }, { flags(MapId::$id) }>
    };
    (LpmTrie $id:ident $key:ty, $value:ty) => { LpmTrie<$key, $value, { max_entries(MapId::$id) }> };
    (SkStorage $id:ident $key:ty, $value:ty) => { SkStorage<$value> };
}

macro_rules! statics {
    ($($group:ident { $(
        $(#[doc = $doc:literal])+
        $table:ident $version:literal: $($column:ident)+, [$max:expr, $flags:expr]
        { $($id:ident: $kind:ident<$key:ty, $value:ty>,)+ }
    )+ })+) => {
        $($($(
            #[btf_map]
            pub(crate) static $id: map_type!($kind $id $key, $value) = <map_type!($kind $id $key, $value)>::new();
        )+)+)+
    };
}

for_each_map!(statics);

#[btf_map]
pub(crate) static EARLY_SCRATCH: PerCpuArray<EarlyFragment, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH_V4: PerCpuArray<Scratch<AddrV4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH_V6: PerCpuArray<Scratch<AddrV6>, 1> = PerCpuArray::new();
