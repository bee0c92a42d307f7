//! Local pods by address.
use dataplane_common::{
    endpoint::EndpointValue,
    net::{AddrV4, AddrV6},
};

use crate::{
    family::{Family, V4, V6},
    maps::{ENDPOINTS_V4, ENDPOINTS_V6},
};

pub(crate) trait Endpoints: Family {
    fn endpoint(addr: &Self::Addr) -> Option<*mut EndpointValue>;
}

macro_rules! endpoints {
    ($family:ty, $addr:ty, $endpoints:ident) => {
        impl Endpoints for $family {
            #[inline(always)]
            fn endpoint(addr: &$addr) -> Option<*mut EndpointValue> {
                $endpoints.get_ptr_mut(addr)
            }
        }
    };
}

endpoints!(V4, AddrV4, ENDPOINTS_V4);
endpoints!(V6, AddrV6, ENDPOINTS_V6);
