//! Service frontends and their backends.
use dataplane_common::{
    net::{AddrV4, AddrV6, Be16},
    service::{FrontendKeyV4, FrontendKeyV6, FrontendValue, scope},
};

use crate::{
    family::{Family, V4, V6},
    maps::{BACKENDS_V4, BACKENDS_V6, FRONTENDS_V4, FRONTENDS_V6},
};

pub(crate) trait Services: Family {
    fn frontend(addr: &Self::Addr, port: Be16, proto: u8) -> Option<FrontendValue>;
    fn backend(slot: u32) -> Option<(Self::Addr, Be16)>;
}

macro_rules! services {
    ($family:ty, $addr:ty, $key:ident, $frontends:ident, $backends:ident) => {
        impl Services for $family {
            #[inline(always)]
            fn frontend(addr: &$addr, port: Be16, proto: u8) -> Option<FrontendValue> {
                let key = $key { addr: *addr, port, proto, scope: scope::CLUSTER };
                // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
                unsafe { $frontends.get(&key) }.copied()
            }

            #[inline(always)]
            fn backend(slot: u32) -> Option<($addr, Be16)> {
                $backends.get(slot).map(|backend| (backend.addr, backend.port))
            }
        }
    };
}

services!(V4, AddrV4, FrontendKeyV4, FRONTENDS_V4, BACKENDS_V4);
services!(V6, AddrV6, FrontendKeyV6, FRONTENDS_V6, BACKENDS_V6);
