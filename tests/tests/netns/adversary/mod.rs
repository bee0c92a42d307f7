//! A pod with raw sockets sends whatever a frame can be: nothing reaches a pod that policy closes, each frame is counted
//! once, and the host's tables stay as they were.
mod frames;
mod headers;
mod link;

use std::{net::IpAddr, process::Command, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{
    maps::MapId,
    verdict::{DropReason, Hook, Outcome},
};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, holds},
    kernel,
    packet::{Packet, Transport as PacketTransport},
    probe::{frames::send_frames, wire::Transport},
    topology::{Node, Pod, Topology},
};
use serde_json::json;

use self::frames::{Attack, Ends, SECRET};
use crate::{
    capture::Capture,
    expect::{is_answered_by, target},
    objects::policy,
};

const PORT: u16 = 80;

/// As many frames as the kernel takes at once from an interface.
const BATCH: usize = 256;

/// What `ip` says of the host, without what changes by itself.
fn tables(node: &Node) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for table in ["neigh show", "route show table all", "route show cache", "addr show", "rule show"] {
        for family in ["-4", "-6"] {
            let words = ["-n", node.netns().name(), family].into_iter().chain(table.split(' '));
            let output = Command::new("ip").args(words).output().context("run ip")?;
            ensure!(output.status.success(), "ip {table}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            // Neighbours on the uplink are asked as they are needed.
            let lasting = |line: &&str| table != "neigh show" || !line.contains("dev eth0 ");
            all.extend(text.lines().filter(lasting).map(str::to_owned));
        }
    }
    Ok(all)
}

/// What the node's agent has told the programs, and the flows that they found.
fn maps(node: &Node) -> Result<Vec<(MapId, usize)>> {
    let ids = [
        MapId::ENDPOINTS_V4,
        MapId::ENDPOINTS_V6,
        MapId::ROUTES_V4,
        MapId::ROUTES_V6,
        MapId::CT_EST_V4,
        MapId::CT_EST_V6,
    ];
    ids.into_iter().map(|id| Ok((id, node.maps().entries(id)?.len()))).collect()
}

/// What became of the frames of all pods of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    answered: u64,
    held: u64,
    dropped: u64,
}

impl Count {
    fn read(node: &Node) -> Result<Self> {
        let maps = node.maps();
        let outcome = |outcome| maps.outcomes(Hook::FromPod, outcome);
        let passed =
            [Outcome::Passed, Outcome::Delivered, Outcome::Forwarded, Outcome::Rejected, Outcome::Translated];
        Ok(Self {
            passed: passed.into_iter().map(outcome).sum::<Result<u64>>()?,
            answered: outcome(Outcome::Answered)?,
            held: outcome(Outcome::Held)?,
            dropped: DropReason::ALL
                .iter()
                .map(|reason| maps.drops(Hook::FromPod, *reason))
                .sum::<Result<u64>>()?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            passed: self.passed - before.passed,
            answered: self.answered - before.answered,
            held: self.held - before.held,
            dropped: self.dropped - before.dropped,
        }
    }

    /// The frames of an attack. Kernels speak to their links by themselves; what was held is counted again when it goes
    /// round.
    fn of(self, attack: &Attack) -> u64 {
        let Self { passed, answered, held, dropped } = self;
        let answered = if attack.may_be_answered { answered } else { 0 };
        let held = if attack.may_be_held { held } else { 0 };
        passed + answered + held + dropped
    }
}

struct Scene {
    topology: Topology,
    adversary: Arc<Pod>,
    /// Closed pods, on the adversary's node and on the other.
    closed: [Arc<Pod>; 2],
    /// An open pod of the other node.
    open: Arc<Pod>,
    service: [IpAddr; 2],
}

impl Scene {
    fn set() -> Result<Self> {
        let topology = Topology::start()?;
        let pod = |name: &str, app: &str, node| {
            topology.add_pod(PodSpec::new("default", name).label("app", app).on(node))
        };
        let adversary = pod("adversary", "adversary", 0)?;
        let closed = [pod("near", "closed", 0)?, pod("far", "closed", 1)?];
        let open = pod("open", "open", 1)?;
        for pod in closed.iter().chain([&open]) {
            pod.probe().listen(Transport::Udp, PORT)?;
        }
        let service = ServiceSpec::new("default", "closed").select("app", "closed");
        let service = topology.control_plane.apply_service(&service.port(Protocol::Udp, PORT, PORT))?.both();
        let isolation =
            json!({ "podSelector": { "matchLabels": { "app": "closed" } }, "policyTypes": ["Ingress"] });
        topology.control_plane.apply(&policy("closed", &isolation))?;
        topology.settle()?;
        Ok(Self { topology, adversary, closed, open, service })
    }

    fn ends(&self, to: &Pod, v6: bool) -> Result<Ends> {
        let [near, far] = &self.closed;
        let nodes = [0, 1].map(|node| {
            let spec = self.topology.node(node).spec();
            if v6 { spec.v6.into() } else { spec.v4.into() }
        });
        Ok(Ends {
            macs: self.adversary.macs()?,
            victim_macs: near.macs()?,
            from: self.adversary.ip(v6),
            to: to.ip(v6),
            open: self.open.ip(v6),
            others: vec![
                near.ip(v6),
                far.ip(v6),
                self.open.ip(v6),
                nodes[0],
                nodes[1],
                self.service[usize::from(v6)],
            ],
        })
    }

    /// Sends the frames and waits until each is counted.
    fn send(&self, attack: &Attack) -> Result<Count> {
        let node = self.topology.node(0);
        let before = Count::read(node)?;
        let mut sent = 0;
        for batch in attack.frames.chunks(BATCH) {
            self.adversary.netns().run(|| send_frames("eth0", batch))??;
            sent += batch.len() as u64;
            holds(format!("{sent} of {} are counted", attack.name), PATIENCE, || {
                Count::read(node).is_ok_and(|now| now.since(before).of(attack) >= sent)
            })?;
        }
        let count = Count::read(node)?.since(before);
        ensure!(
            count.of(attack) == sent || attack.may_be_held || attack.may_be_answered,
            "{}: {sent} are {count:?}",
            attack.name
        );
        Ok(count)
    }

    /// What is sent last arrives last: an honest datagram to the open pod.
    fn await_last(&self) -> Result<()> {
        let before = self.open.probe().served(Transport::Udp, PORT)?;
        let macs = self.adversary.macs()?;
        let datagram = PacketTransport::udp(4999, PORT, b"honest".to_vec());
        let honest = Packet::new(self.adversary.ip(false), self.open.ip(false), datagram);
        let frames = [honest.between(macs.pod, macs.host).bytes()];
        self.adversary.netns().run(|| send_frames("eth0", &frames))??;
        holds("the honest datagram arrives", PATIENCE, || {
            self.open.probe().served(Transport::Udp, PORT).is_ok_and(|now| now > before)
        })
    }

    /// No attack reaches a closed pod, of either node.
    fn holds_against(&self, attacks: impl Fn(&Ends) -> Vec<Attack>) -> Result<()> {
        let nodes = self.topology.nodes();
        let tables_before = nodes.iter().map(tables).collect::<Result<Vec<_>>>()?;
        let maps_before = nodes.iter().map(maps).collect::<Result<Vec<_>>>()?;
        for (number, victim) in self.closed.iter().enumerate() {
            for v6 in [false, true] {
                let ends = self.ends(victim, v6)?;
                for attack in attacks(&ends) {
                    let name = format!("{} to {}, {}", attack.name, victim.name(), ends.to);
                    let mut captures = self
                        .closed
                        .iter()
                        .map(|pod| Capture::start(pod.netns()))
                        .collect::<Result<Vec<_>>>()?;
                    let count = self.send(&attack).with_context(|| name.clone())?;
                    if number == 0 && !attack.may_pass {
                        ensure!(count.passed == 0, "{name}: {count:?}");
                    }
                    self.await_last()?;
                    for (pod, capture) in self.closed.iter().zip(&mut captures) {
                        let arrived = capture.with_any_of(&[SECRET]);
                        ensure!(
                            arrived.is_empty(),
                            "{name}: {} frames reach {}, such as {:02x?}",
                            arrived.len(),
                            pod.name(),
                            arrived[0]
                        );
                    }
                }
            }
        }
        for (number, node) in nodes.iter().enumerate() {
            assert_eq!(tables(node)?, tables_before[number], "the tables of node {number}");
            assert_eq!(maps(node)?, maps_before[number], "the maps of node {number}");
        }
        // Nobody else is worse off for it.
        let at = self.open.at(PORT);
        for to in at {
            is_answered_by(self.open.probe().name(), self.adversary.probe(), target(Transport::Udp, to))?;
            is_answered_by(self.open.probe().name(), self.closed[0].probe(), target(Transport::Udp, to))?;
        }
        Ok(())
    }
}

fn attack_with(attacks: impl Fn(&Ends) -> Vec<Attack>) -> Result<()> {
    kernel::require(kernel::NETNS);
    let scene = Scene::set()?;
    // Flows that the adversary may have are there before what is compared.
    scene.await_last()?;
    scene.holds_against(attacks)?;
    scene.topology.close()
}

#[test]
fn no_icmp_message_reaches_a_closed_pod() -> Result<()> {
    attack_with(frames::icmp)
}

#[test]
fn no_source_and_no_destination_leads_to_a_closed_pod() -> Result<()> {
    attack_with(frames::addresses)
}

#[test]
fn no_fragment_reaches_a_closed_pod() -> Result<()> {
    attack_with(frames::fragments)
}

#[test]
fn no_protocol_option_or_extension_header_opens_a_closed_pod() -> Result<()> {
    attack_with(headers::every)
}

#[test]
fn no_tag_ethertype_or_lie_on_the_link_reaches_a_closed_pod() -> Result<()> {
    attack_with(link::every)
}

#[test]
fn no_length_and_no_checksum_that_lies_reaches_a_closed_pod() -> Result<()> {
    attack_with(link::lengths)
}
