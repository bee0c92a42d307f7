//! What the first fragment of a datagram says about the others.
use aya_ebpf::bindings::BPF_ANY;
use dataplane_common::{
    fragment::{FragmentKeyV4, FragmentKeyV6, FragmentValue},
    net::{AddrV4, AddrV6},
};

use crate::{
    family::{Family, V4, V6},
    flow::Tuple,
    maps::{FRAGMENTS_V4, FRAGMENTS_V6},
};

pub(crate) trait Fragments: Family {
    type FragmentKey;

    fn fragment_key(tuple: &Tuple<Self::Addr>, id: u32) -> Self::FragmentKey;
    fn fragment(key: &Self::FragmentKey) -> Option<FragmentValue>;
    fn remember_fragment(key: &Self::FragmentKey, ports: FragmentValue);
}

macro_rules! fragments {
    ($key:ident, $fragments:ident) => {
        type FragmentKey = $key;

        #[inline(always)]
        fn fragment(key: &$key) -> Option<FragmentValue> {
            // SAFETY: copied out at once.
            unsafe { $fragments.get(key) }.copied()
        }

        #[inline(always)]
        fn remember_fragment(key: &$key, ports: FragmentValue) {
            // An LRU map makes room; if it cannot, the later fragments are dropped and counted.
            let _full = $fragments.insert(key, ports, u64::from(BPF_ANY));
        }
    };
}

impl Fragments for V4 {
    fragments!(FragmentKeyV4, FRAGMENTS_V4);

    #[inline(always)]
    fn fragment_key(tuple: &Tuple<AddrV4>, id: u32) -> FragmentKeyV4 {
        let Tuple { source, destination, proto, .. } = *tuple;
        FragmentKeyV4 { source, destination, id, proto, reserved: [0; 3] }
    }
}

impl Fragments for V6 {
    fragments!(FragmentKeyV6, FRAGMENTS_V6);

    #[inline(always)]
    fn fragment_key(tuple: &Tuple<AddrV6>, id: u32) -> FragmentKeyV6 {
        FragmentKeyV6 { source: tuple.source, destination: tuple.destination, id }
    }
}
