//! What peers are to policy.
use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::net::{AddrV4, AddrV6};

use crate::{
    family::{Family, V4, V6},
    maps::{CIDRS_V4, CIDRS_V6, CLASSES_V4, CLASSES_V6},
};

pub(crate) trait Policies: Family {
    fn pod_class(addr: &Self::Addr) -> Option<u32>;
    fn cidr_class(addr: &Self::Addr) -> Option<u32>;
}

macro_rules! policies {
    ($family:ty, $addr:ty, $classes:ident, $cidrs:ident) => {
        impl Policies for $family {
            #[inline(always)]
            fn pod_class(addr: &$addr) -> Option<u32> {
                // SAFETY: copied out at once.
                unsafe { $classes.get(addr) }.copied()
            }

            #[inline(always)]
            fn cidr_class(addr: &$addr) -> Option<u32> {
                $cidrs.get(&Key::new(<$family>::BITS, *addr)).copied()
            }
        }
    };
}

policies!(V4, AddrV4, CLASSES_V4, CIDRS_V4);
policies!(V6, AddrV6, CLASSES_V6, CIDRS_V6);
