//! The ways to pods of other nodes, and which addresses are whose.
use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::{
    net::{AddrV4, AddrV6},
    route::RouteValue,
};

use crate::{
    family::{Family, V4, V6},
    maps::{PREFIXES, ROUTES_V4, ROUTES_V6},
};

pub(crate) trait Routes: Family {
    /// The way to a pod of another node.
    fn route(addr: &Self::Addr) -> Option<&'static RouteValue>;

    /// Whether an address is in a prefix of `PREFIXES`.
    #[inline(always)]
    fn is_in(slot: u32, addr: &Self::Addr) -> bool {
        let prefix = PREFIXES.get(slot + u32::from(Self::IS_V6));
        prefix.is_some_and(|prefix| prefix.holds(Self::words(addr)))
    }
}

macro_rules! routes {
    ($family:ty, $addr:ty, $routes:ident) => {
        impl Routes for $family {
            #[inline(always)]
            fn route(addr: &$addr) -> Option<&'static RouteValue> {
                $routes.get(&Key::new(<$family>::BITS, *addr))
            }
        }
    };
}

routes!(V4, AddrV4, ROUTES_V4);
routes!(V6, AddrV6, ROUTES_V6);
