//! Sockets of the host that are connected to what is gone.
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use dataplane_common::{
    maps::MapId,
    net::{AddrV6, Be16, proto},
    socket::Pin,
};
use zerocopy::FromBytes as _;

use super::{
    SweepError,
    backends::{Backends, Standing},
};
use crate::{
    dataplane::maps::Maps,
    net::sockets::{self, Connected},
};

/// Fewer entries than this may be of sockets that are closed: to look for those costs a list of the host's sockets.
const FEW_PEERS: usize = 1024;

/// The UDP sockets whose backend is not one of the service any more that they asked for: they would send to nowhere until
/// their processes give up. A TCP connection goes on until its pod ends.
pub(super) fn stranded(maps: &Maps) -> Result<Vec<Connected>, SweepError> {
    let mut backends = Backends::new(maps);
    let mut stranded = Vec::new();
    for socket in sockets::connected(proto::UDP)? {
        let peer = maps.get(MapId::UDP_PEERS).lookup(&socket.cookie.to_ne_bytes())?;
        if let Some(peer) = peer.and_then(|peer| Pin::read_from_bytes(&peer).ok())
            && end(peer.backend, peer.backend_port) == socket.remote
            && backends.standing(end(peer.frontend, peer.frontend_port), proto::UDP, socket.remote)?
                == Standing::Gone
        {
            stranded.push(socket);
        }
    }
    Ok(stranded)
}

fn end(addr: AddrV6, port: Be16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(addr.octets()).to_canonical(), port.get())
}

/// Keeps `UDP_PEERS` free of sockets that are closed.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    /// Sockets that were not connected when they were looked at last. One that is about to connect has its entry before.
    suspects: HashSet<u64>,
}

impl Pruning {
    pub(super) fn advance(&mut self, maps: &Maps) -> Result<(), SweepError> {
        let map = maps.get(MapId::UDP_PEERS);
        let entries = map.dump()?;
        let cookies = entries.iter().filter_map(|(key, _)| u64::read_from_bytes(key).ok());
        let mut closed: HashSet<u64> = cookies.collect();
        if closed.len() < FEW_PEERS {
            self.suspects.clear();
            return Ok(());
        }
        for socket in sockets::connected(proto::UDP)? {
            closed.remove(&socket.cookie);
        }
        let gone = closed.intersection(&self.suspects);
        let keys: Vec<_> = gone.map(|cookie| cookie.to_ne_bytes().to_vec()).collect();
        self.suspects = closed;
        map.delete_batch(&keys)?;
        Ok(())
    }
}

/// The TCP connections to pods of this node that are gone: what they send is answered by nobody. An address that a new pod
/// has by now is that pod's, whose kernel resets what it does not know.
pub(super) fn orphaned(maps: &Maps, removed: &HashSet<IpAddr>) -> Result<Vec<Connected>, SweepError> {
    let mut orphaned = Vec::new();
    for socket in sockets::connected(proto::TCP)? {
        if !removed.contains(&socket.remote.ip()) {
            continue;
        }
        let endpoint = match socket.remote.ip() {
            IpAddr::V4(addr) => maps.get(MapId::ENDPOINTS_V4).lookup(&addr.octets())?,
            IpAddr::V6(addr) => maps.get(MapId::ENDPOINTS_V6).lookup(&addr.octets())?,
        };
        if endpoint.is_none() {
            orphaned.push(socket);
        }
    }
    Ok(orphaned)
}
