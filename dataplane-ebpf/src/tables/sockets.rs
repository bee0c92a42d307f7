//! Frontends that TCP sockets asked for.
use aya_ebpf::bindings::BPF_ANY;
use dataplane_common::{
    net::{AddrV4, AddrV6, Be16},
    socket::{SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6},
};

use crate::{
    family::{Family, V4, V6},
    maps::{SOCKETS_V4, SOCKETS_V6},
};

pub(crate) trait Sockets: Family {
    type SocketKey;

    fn socket_key(cookie: u64, backend: &Self::Addr, port: Be16) -> Self::SocketKey;
    /// The frontend that a TCP socket asked for.
    fn socket(key: &Self::SocketKey) -> Option<(Self::Addr, Be16)>;
    fn remember_socket(key: &Self::SocketKey, addr: &Self::Addr, port: Be16);
    fn forget_socket(key: &Self::SocketKey);
}

macro_rules! sockets {
    ($family:ty, $addr:ty, $key:ident, $value:ident, $sockets:ident) => {
        impl Sockets for $family {
            type SocketKey = $key;

            #[inline(always)]
            fn socket_key(cookie: u64, backend: &$addr, port: Be16) -> $key {
                $key { cookie, backend: *backend, port, reserved: Default::default() }
            }

            #[inline(always)]
            fn socket(key: &$key) -> Option<($addr, Be16)> {
                // SAFETY: copied out at once.
                unsafe { $sockets.get(key) }.map(|frontend| (frontend.addr, frontend.port))
            }

            #[inline(always)]
            fn remember_socket(key: &$key, addr: &$addr, port: Be16) {
                let value = $value { addr: *addr, port, reserved: 0 };
                // An LRU map makes room; if it cannot, the application sees the backend's address.
                let _full = $sockets.insert(key, value, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn forget_socket(key: &$key) {
                // Most sockets have none: gone is what is wanted.
                let _gone = $sockets.remove(key);
            }
        }
    };
}

sockets!(V4, AddrV4, SocketKeyV4, SocketValueV4, SOCKETS_V4);
sockets!(V6, AddrV6, SocketKeyV6, SocketValueV6, SOCKETS_V6);
