//! Host sockets whose backend is gone.
use std::{collections::HashSet, net::SocketAddr};

use bpf_maps::{Cursor, Error};
use dataplane_common::{
    net::proto,
    socket::{SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6, entry},
};
use zerocopy::FromBytes as _;

use super::{
    backends::Backends,
    flow::{self, Family},
};
use crate::dataplane::maps::Maps;

/// Entries per system call.
const CHUNK: usize = 4096;

/// A socket of this host that talks to a backend which its service has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StrandedSocket {
    /// The kernel's socket cookie.
    pub(super) cookie: u64,
    pub(super) backend: SocketAddr,
}

/// An entry of `SOCKETS_*` that names a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    cookie: u64,
    proto: u8,
    frontend: SocketAddr,
    backend: SocketAddr,
}

impl Socket {
    fn parse(family: Family, key: &[u8], value: &[u8]) -> Option<Self> {
        let (cookie, proto, backend, frontend) = match family {
            Family::V4 => {
                let key = SocketKeyV4::read_from_bytes(key).ok().filter(|key| key.kind == entry::BACKEND)?;
                let value = SocketValueV4::read_from_bytes(value).ok()?;
                (key.cookie, key.proto, flow::v4(key.addr, key.port), flow::v4(value.addr, value.port))
            }
            Family::V6 => {
                let key = SocketKeyV6::read_from_bytes(key).ok().filter(|key| key.kind == entry::BACKEND)?;
                let value = SocketValueV6::read_from_bytes(value).ok()?;
                (key.cookie, key.proto, flow::v6(key.addr, key.port), flow::v6(value.addr, value.port))
            }
        };
        Some(Self { cookie, proto, frontend, backend })
    }
}

/// Finds the UDP sockets that talk to a backend which is gone, and forgets their entries. A TCP socket ends with
/// its connection; a UDP socket would send to nowhere until its process gives up.
pub(super) fn take_stranded(maps: &Maps) -> Result<HashSet<StrandedSocket>, Error> {
    let mut backends = Backends::new(maps);
    let mut stranded = HashSet::new();
    for family in Family::ALL {
        let map = maps.get(family.sockets());
        let mut cursor = Some(Cursor::Start);
        while let Some(from) = cursor {
            let (entries, next) = map.dump_chunk(&from, CHUNK)?;
            let mut forgotten = Vec::new();
            for (key, value) in entries {
                let Some(socket) =
                    Socket::parse(family, &key, &value).filter(|socket| socket.proto == proto::UDP)
                else {
                    continue;
                };
                if !backends.has(socket.frontend, socket.proto, socket.backend)? {
                    stranded.insert(StrandedSocket { cookie: socket.cookie, backend: socket.backend });
                    forgotten.push(key);
                }
            }
            map.delete_batch(&forgotten)?;
            cursor = next;
        }
    }
    Ok(stranded)
}
