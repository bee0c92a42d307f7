//! One behaviour of the tc programs at a time, in both families: packet in, verdict and packet out.
mod beside;
mod budget;
mod conntrack;
mod errors;
mod forwarding;
mod fragments;
mod from_netdev;
mod neighbour;
mod nobody;
mod packets;
mod policy;
mod revoked;
mod service;
mod shares;
mod to_netdev;

use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtState},
    maps::MapId,
};
use harness::{
    packet::{Network, Packet, Transport, flag, verify},
    program::{
        Programs, Run, Verdict,
        fixture::{host_mac, pod_mac},
        in_private_netns,
    },
};
use zerocopy::FromBytes as _;

/// Two local pods, a remote one, a virtual address and the outside world, in one family.
struct World<'a> {
    programs: &'a Programs,
    interfaces: &'a [u32],
    a: IpAddr,
    b: IpAddr,
    remote: IpAddr,
    vip: IpAddr,
    outside: IpAddr,
}

const SET_A: u32 = 11;
const SET_B: u32 = 12;
const CLASS: u32 = 21;
const RULE: u32 = 31;

/// Runs a test in both families, each time with empty maps.
fn in_both_families(host: u32, test: impl Fn(&World) -> Result<()> + Sync) -> Result<()> {
    in_private_netns(3, |interfaces| {
        for (a, b, remote, vip, outside) in [
            ("10.1.0.2", "10.1.0.3", "10.2.0.2", "10.96.0.10", "192.0.2.9"),
            ("fd01::2", "fd01::3", "fd02::2", "fd96::10", "2001:db8::9"),
        ] {
            let programs = Programs::load(host)?;
            let world = World {
                programs: &programs,
                interfaces,
                a: a.parse()?,
                b: b.parse()?,
                remote: remote.parse()?,
                vip: vip.parse()?,
                outside: outside.parse()?,
            };
            world.isolate(0, 0, 0, 0)?;
            let next_hop = if world.remote.is_ipv4() { "172.16.0.2" } else { "fd16::2" };
            let prefix_len = if world.remote.is_ipv4() { 16 } else { 64 };
            programs.route(world.remote, prefix_len, interfaces[2], next_hop.parse()?)?;
            test(&world)?;
        }
        Ok(())
    })
}

impl World<'_> {
    /// Sets the policy sets of the two pods: ingress and egress of `a`, then of `b`.
    fn isolate(&self, a_in: u32, a_out: u32, b_in: u32, b_out: u32) -> Result<()> {
        self.programs.endpoint(1, self.a, self.interfaces[0], a_in, a_out)?;
        self.programs.endpoint(2, self.b, self.interfaces[1], b_in, b_out)
    }

    fn a_sends(&self, to: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(self.a, to, transport).between(pod_mac(1), host_mac(1));
        self.programs.from_pod(self.interfaces[0], &packet)
    }

    fn b_sends(&self, to: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(self.b, to, transport).between(pod_mac(2), host_mac(2));
        self.programs.from_pod(self.interfaces[1], &packet)
    }

    fn to_a(&self, from: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(from, self.a, transport).between(host_mac(1), pod_mac(1));
        self.programs.to_pod(self.interfaces[0], &packet)
    }

    /// Raises the policy epoch, as the agent does after a change that may revoke.
    fn next_epoch(&self) -> Result<()> {
        let epoch = self.programs.map(MapId::POLICY_EPOCH).lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let epoch = epoch.try_into().map_or(0, u32::from_ne_bytes);
        self.programs.set_epoch(epoch + 1)
    }

    /// Flows tracked in this family: half-open and established.
    fn flows(&self) -> Result<(usize, usize)> {
        let (new, established) = if self.a.is_ipv4() {
            (MapId::CT_NEW_V4, MapId::CT_EST_V4)
        } else {
            (MapId::CT_NEW_V6, MapId::CT_EST_V6)
        };
        Ok((self.programs.count(new)?, self.programs.count(established)?))
    }

    /// States of the established flows.
    fn established(&self) -> Result<Vec<CtState>> {
        if self.a.is_ipv4() {
            let entries = self.programs.map(MapId::CT_EST_V4).dump()?;
            return Ok(entries
                .iter()
                .filter_map(|(_, v)| CtEntryV4::read_from_bytes(v).ok())
                .map(|e| e.state)
                .collect());
        }
        let entries = self.programs.map(MapId::CT_EST_V6).dump()?;
        Ok(entries.iter().filter_map(|(_, v)| CtEntryV6::read_from_bytes(v).ok()).map(|e| e.state).collect())
    }
}

fn with_hops(mut packet: Packet, hops: u8) -> Packet {
    match &mut packet.network {
        Network::V4(ip) => ip.ttl = hops,
        Network::V6(ip) => ip.hop_limit = hops,
        Network::Other { .. } => unreachable!("an IP packet"),
    }
    packet
}

const INTO_A: Verdict = Verdict::Deliver(pod_mac(1));
const INTO_B: Verdict = Verdict::Deliver(pod_mac(2));

fn syn(source: u16, destination: u16) -> Transport {
    Transport::tcp(source, destination, flag::SYN)
}

fn tcp(source: u16, destination: u16, flags: u8) -> Transport {
    Transport::tcp(source, destination, flags)
}

fn udp(source: u16, destination: u16) -> Transport {
    Transport::udp(source, destination, b"millrace".to_vec())
}

/// The ends of a packet whose checksums are right.
fn ends(run: &Run) -> Result<(IpAddr, u16, IpAddr, u16)> {
    let packet = verify(&run.frame)?;
    let (source, destination) = packet.addresses().expect("an IP packet");
    let (source_port, destination_port) =
        packet.transport().and_then(Transport::ports).expect("a packet with ports");
    Ok((source, source_port, destination, destination_port))
}
