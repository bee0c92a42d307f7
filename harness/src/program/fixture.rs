//! Map entries written by hand, for tests of one program behaviour at a time.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{
    endpoint::EndpointValue,
    maps::MapId,
    net::{AddrV4, AddrV6, Be16},
    policy::{PolicyKey, PolicyValue, verdict},
    route::{self, HostPath, Prefix, RouteValue},
    service::{BackendV4, BackendV6, FrontendKeyV4, FrontendKeyV6, FrontendValue, scope},
};
use zerocopy::IntoBytes as _;

use super::Programs;

/// Link-layer address of the `n`th pod.
#[must_use]
pub const fn pod_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// Link-layer address of the host side of the `n`th pod's veth.
#[must_use]
pub const fn host_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, n]
}

/// The bytes of an address as a map key.
#[must_use]
pub fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn by_family(addr: IpAddr, v4: MapId, v6: MapId) -> MapId {
    if addr.is_ipv4() { v4 } else { v6 }
}

fn trie_key(prefix_len: u32, data: &[u8]) -> Vec<u8> {
    [prefix_len.as_bytes(), data].concat()
}

impl Programs {
    /// Makes the `n`th pod an endpoint with this address and these policy sets (0: not isolated).
    pub fn endpoint(
        &self,
        n: u8,
        addr: IpAddr,
        ifindex: u32,
        ingress_set: u32,
        egress_set: u32,
    ) -> Result<()> {
        let value = EndpointValue {
            ifindex,
            ingress_set,
            egress_set,
            pod_mac: pod_mac(n),
            host_mac: host_mac(n),
            ..EndpointValue::ABSENT
        };
        let map = by_family(addr, MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6);
        Ok(self.map(map).update(&octets(addr), value.as_bytes())?)
    }

    /// Makes a frontend with backends in the slots from `start` on.
    pub fn frontend(
        &self,
        (addr, port, proto): (IpAddr, u16, u8),
        start: u32,
        backends: &[(IpAddr, u16)],
        flags: u16,
    ) -> Result<()> {
        for (slot, (backend, port)) in (start..).zip(backends) {
            let port = Be16::new(*port);
            let (map, value) = match backend {
                IpAddr::V4(addr) => {
                    let value = BackendV4 { addr: AddrV4::new(addr.octets()), port, reserved: 0 };
                    (MapId::BACKENDS_V4, value.as_bytes().to_vec())
                }
                IpAddr::V6(addr) => {
                    let value = BackendV6 { addr: AddrV6::new(addr.octets()), port, reserved: 0 };
                    (MapId::BACKENDS_V6, value.as_bytes().to_vec())
                }
            };
            self.map(map).update(slot.as_bytes(), &value)?;
        }
        let backends_count = u16::try_from(backends.len())?;
        let value = FrontendValue {
            service_id: 7,
            backends_start: start,
            backends_count,
            kept_count: 0,
            flags,
            reserved: 0,
        };
        let port = Be16::new(port);
        let (map, key) = match addr {
            IpAddr::V4(addr) => {
                let key =
                    FrontendKeyV4 { addr: AddrV4::new(addr.octets()), port, proto, scope: scope::CLUSTER };
                (MapId::FRONTENDS_V4, key.as_bytes().to_vec())
            }
            IpAddr::V6(addr) => {
                let key =
                    FrontendKeyV6 { addr: AddrV6::new(addr.octets()), port, proto, scope: scope::CLUSTER };
                (MapId::FRONTENDS_V6, key.as_bytes().to_vec())
            }
        };
        Ok(self.map(map).update(&key, value.as_bytes())?)
    }

    /// Allows a class in a set on one port.
    pub fn allow(&self, set: u32, class: u32, proto: u8, port: u16, rule: u32) -> Result<()> {
        let key = PolicyKey::new(set, class, proto, Be16::new(port));
        let value = PolicyValue { rule, verdict: verdict::ALLOW, reserved: [0; 3] };
        let key = trie_key(PolicyKey::FULL_BITS, key.as_bytes());
        Ok(self.map(MapId::POLICIES).update(&key, value.as_bytes())?)
    }

    /// Takes back what [`Self::allow`] allowed.
    pub fn disallow(&self, set: u32, class: u32, proto: u8, port: u16) -> Result<()> {
        let key = PolicyKey::new(set, class, proto, Be16::new(port));
        self.map(MapId::POLICIES).delete(&trie_key(PolicyKey::FULL_BITS, key.as_bytes()))?;
        Ok(())
    }

    /// Gives a pod's address a class.
    pub fn class(&self, addr: IpAddr, class: u32) -> Result<()> {
        let map = by_family(addr, MapId::CLASSES_V4, MapId::CLASSES_V6);
        Ok(self.map(map).update(&octets(addr), class.as_bytes())?)
    }

    /// Sends what goes to `addr/prefix_len` to a next hop.
    pub fn route(&self, addr: IpAddr, prefix_len: u32, ifindex: u32, next_hop: IpAddr) -> Result<()> {
        let family = if next_hop.is_ipv4() { route::family::INET } else { route::family::INET6 };
        let mut bytes = [0; 16];
        bytes[..octets(next_hop).len()].copy_from_slice(&octets(next_hop));
        let value = RouteValue { ifindex, kind: route::kind::DIRECT, family, next_hop: bytes };
        self.set_route(addr, prefix_len, &value)
    }

    /// Fills the slot of a family in `PREFIXES`.
    pub fn prefix(&self, slot: u32, addr: IpAddr, bits: u8) -> Result<()> {
        let mut bytes = [0; 16];
        bytes[..octets(addr).len()].copy_from_slice(&octets(addr));
        let slot = slot + u32::from(addr.is_ipv6());
        Ok(self.map(MapId::PREFIXES).update(slot.as_bytes(), Prefix::new(bytes, bits).as_bytes())?)
    }

    /// Packets of the host to services leave by this uplink, whose address is given.
    pub fn host_path(&self, is_v6: bool, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let value = HostPath { ifindex, mac, takes_sockets: 1 };
        Ok(self.map(MapId::HOST_PATHS).update(u32::from(is_v6).as_bytes(), value.as_bytes())?)
    }

    /// A route of a kind that has no next hop.
    pub fn route_nowhere(&self, addr: IpAddr, prefix_len: u32, kind: u32) -> Result<()> {
        let value = RouteValue { ifindex: 0, kind, family: 0, next_hop: [0; 16] };
        self.set_route(addr, prefix_len, &value)
    }

    fn set_route(&self, addr: IpAddr, prefix_len: u32, value: &RouteValue) -> Result<()> {
        let map = by_family(addr, MapId::ROUTES_V4, MapId::ROUTES_V6);
        Ok(self.map(map).update(&trie_key(prefix_len, &octets(addr)), value.as_bytes())?)
    }

    /// Sets the policy epoch, as the agent does after a change that may revoke.
    pub fn set_epoch(&self, epoch: u32) -> Result<()> {
        Ok(self.map(MapId::POLICY_EPOCH).update(0u32.as_bytes(), epoch.as_bytes())?)
    }
}
