//! What the pinned maps of this node hold, decoded.
pub(crate) mod conntrack;
pub(crate) mod counters;
pub(crate) mod endpoint;
pub(crate) mod policy;
pub(crate) mod programs;
pub(crate) mod service;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use agent_core::entry::number_from_bytes;
use anyhow::{Context as _, Result, anyhow, bail};
use bpf_maps::{Map, MillraceDir, Versions};
use dataplane_common::{
    maps::MapId,
    net::{AddrV4, AddrV6, proto},
};
use serde::{Serialize, Serializer};
use zerocopy::FromBytes;

/// The open maps.
pub(crate) struct Node {
    pub(crate) dir: MillraceDir,
    maps: BTreeMap<MapId, std::result::Result<Map, bpf_maps::Error>>,
}

impl Node {
    /// Opens the pinned maps. One that is missing or of another layout fails only where it is used.
    pub(crate) fn open(bpffs: PathBuf) -> Result<Self> {
        let dir = MillraceDir::new(bpffs);
        let installed = dir.check().and_then(|()| dir.exists()).map_err(refused)?;
        if !installed {
            bail!(
                "Millrace is not installed on this node: there are no maps in {}. Start the agent, or name its \
                 bpffs with --bpffs",
                dir.maps_dir().display()
            );
        }
        let versions = match Versions::read(&dir) {
            Err(error) if error.is_denied() => bail!("{error}; run `millrace` as root with CAP_BPF"),
            read => read.context("cannot tell the versions of the maps")?.unwrap_or_default(),
        };
        let open = |id| versions.check(id).and_then(|()| Map::open_checked(&dir, id));
        let maps = MapId::ALL.iter().map(|&id| (id, open(id))).collect();
        Ok(Self { dir, maps })
    }

    pub(crate) fn map(&self, id: MapId) -> Result<&Map> {
        match self.maps.get(&id) {
            Some(Ok(map)) => Ok(map),
            Some(Err(error)) => Err(anyhow!("{error}")),
            None => bail!("{} is no map of this version", id.spec().name),
        }
    }

    /// Every entry, as the types of the ABI.
    fn entries<K: FromBytes, V: FromBytes>(&self, id: MapId) -> Result<Vec<(K, V)>> {
        let entries = self.map(id)?.dump()?;
        let read = |(key, value): &(Vec<u8>, Vec<u8>)| {
            Ok((decoded(id, K::read_from_bytes(key).ok())?, decoded(id, V::read_from_bytes(value).ok())?))
        };
        entries.iter().map(read).collect()
    }

    /// The number in the only slot of an array.
    pub(crate) fn number(&self, id: MapId) -> Result<u32> {
        let value = self.map(id)?.lookup(&0_u32.to_ne_bytes())?.unwrap_or_default();
        decoded(id, number_from_bytes(&value))
    }
}

fn refused(error: bpf_maps::Error) -> anyhow::Error {
    if error.is_denied() {
        return anyhow!("{error}: run `millrace` as root");
    }
    error.into()
}

/// What was read from a map, or the complaint that it cannot be.
fn decoded<T>(id: MapId, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| anyhow!("an entry of {} does not make sense", id.spec().name))
}

/// An address as the maps hold it.
pub(crate) trait MapAddr {
    fn ip(self) -> IpAddr;
}

impl MapAddr for AddrV4 {
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}

impl MapAddr for AddrV6 {
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}

/// An address of which IPv4 is written IPv4-mapped.
pub(crate) fn unmapped(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// An IP protocol number that prints and serialises as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Proto(pub(crate) u8);

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            proto::ICMP => f.write_str("icmp"),
            proto::TCP => f.write_str("tcp"),
            proto::UDP => f.write_str("udp"),
            proto::ICMPV6 => f.write_str("icmpv6"),
            proto::SCTP => f.write_str("sctp"),
            number => write!(f, "proto-{number}"),
        }
    }
}

impl Serialize for Proto {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
