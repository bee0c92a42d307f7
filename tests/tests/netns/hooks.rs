//! Programs that somebody takes off their hooks, or gets in front of, are put back.
use std::{fs, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use bpf_maps::{MillraceDir, link};
use dataplane_common::config::Config;
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::Probe,
        wire::{Target, Transport},
    },
    program,
    topology::{Node, Pod, Topology},
};
use nix::net::if_::if_nametoindex;
use serde_json::json;
use zerocopy::IntoBytes as _;

use crate::{
    expect::{TRANSPORTS, becomes_answered, is_answered_by, is_silent, target},
    firewall::start_firewall,
    objects::policy,
};

const PORT: u16 = 80;

/// A client whose policy lets nothing out, and a server that would answer.
struct Stage {
    topology: Topology,
    locked: Arc<Pod>,
    server: Arc<Pod>,
}

impl Stage {
    fn build() -> Result<Self> {
        let topology = Topology::start()?;
        let locked = topology.add_pod(PodSpec::new("default", "locked").label("app", "locked"))?;
        let server = topology.add_pod(PodSpec::new("default", "server"))?;
        for transport in TRANSPORTS {
            server.probe().listen(transport, PORT)?;
        }
        topology.control_plane.apply(&policy(
            "locked",
            &json!({ "podSelector": { "matchLabels": { "app": "locked" } }, "policyTypes": ["Egress"] }),
        ))?;
        topology.settle()?;
        let stage = Self { topology, locked, server };
        stage.links_are_there()?;
        stage.policy_holds()?;
        Ok(stage)
    }

    fn node(&self) -> &Node {
        self.topology.node(0)
    }

    /// The pinned link of a program on the locked pod's interface.
    fn link(&self, program: &str) -> Result<PathBuf> {
        let ifname = self.locked.cni_result()["interfaces"][0]["name"]
            .as_str()
            .context("the host's side of the pair")?
            .to_owned();
        Ok(MillraceDir::new(self.node().bpffs()).link_path(&format!("{ifname}:{program}")))
    }

    /// New pods start with filters; these tests are about links.
    fn links_are_there(&self) -> Result<()> {
        eventually("the links of the pod are there", PATIENCE, || {
            for program in ["from_pod", "to_pod"] {
                ensure!(self.link(program)?.exists(), "{program} is not pinned");
            }
            Ok(())
        })
    }

    fn targets(&self) -> Vec<Target> {
        let at = self.server.at(PORT);
        TRANSPORTS.iter().flat_map(|transport| at.map(|to| target(*transport, to))).collect()
    }

    fn policy_holds(&self) -> Result<()> {
        self.targets().into_iter().try_for_each(|target| is_silent(self.locked.probe(), target))
    }

    /// Datagrams alone: the answer to a connection that a hook did not see opens nothing at the server's hook.
    fn policy_is_open(&self) -> Result<()> {
        let at = self.server.at(PORT);
        at.into_iter().try_for_each(|to| becomes_answered(self.locked.probe(), target(Transport::Udp, to)))
    }

    /// The agent, which was paused for the attack, says what it found, and the node is ready with the program in its
    /// place.
    fn is_repaired(&self, found: &str) -> Result<()> {
        self.node().resume_agent();
        let unmet = self.node().health()?.unmet;
        ensure!(unmet.is_empty(), "not ready: {unmet:?}");
        let problems = self.node().status()?.problems;
        ensure!(
            problems.iter().any(|problem| problem.contains(found)),
            "no problem says {found}: {problems:?}"
        );
        self.policy_holds()?;
        // What is allowed still works.
        self.topology.control_plane.delete("NetworkPolicy", "default", "locked")?;
        self.topology.settle()?;
        for target in self.targets() {
            is_answered_by("default/server", self.locked.probe(), target)?;
        }
        Ok(())
    }
}

/// Attaches a foreign program before all others where packets enter an interface. It passes everything, and its verdict
/// is final.
pub(crate) fn pass_everything_before(node: &Node, ifname: &str) -> Result<Ebpf> {
    pass_everything(node, ifname, TcAttachOptions::TcxOrder(LinkOrder::first()))
}

/// The same, in a place of its own.
pub(crate) fn pass_everything(node: &Node, ifname: &str, place: TcAttachOptions) -> Result<Ebpf> {
    // To this one everything comes from its own node.
    let ifindex = node.netns().run(|| if_nametoindex(ifname))??;
    let config = Config { host_ingress_ifindex: ifindex, ..Config::DEFAULT };
    let mut foreign =
        EbpfLoader::new().override_global("CONFIG", config.as_bytes(), true).load(&program::object()?)?;
    let program: &mut SchedClassifier = foreign.program_mut("to_pod").context("a program")?.try_into()?;
    program.load()?;
    node.netns().run(|| program.attach_with_options(ifname, TcAttachType::Ingress, place))??;
    Ok(foreign)
}

#[test]
fn a_program_that_was_detached_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.node().pause_agent();
    let path = stage.link("from_pod")?;
    let pinned = bpf_maps::obj_get(&path)?;
    // As `bpftool link detach` does: the pin stays, attached to nothing.
    link::detach(pinned.as_fd(), "from_pod")?;
    stage.policy_is_open()?;
    stage.is_repaired("was detached")?;
    stage.topology.close()
}

#[test]
fn a_program_whose_pin_was_removed_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.node().pause_agent();
    fs::remove_file(stage.link("from_pod")?)?;
    stage.policy_is_open()?;
    stage.is_repaired("was detached")?;
    stage.topology.close()
}

#[test]
fn a_program_of_another_owner_does_not_stay_before_ours() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.node().pause_agent();
    let ifname =
        stage.locked.cni_result()["interfaces"][0]["name"].as_str().context("an interface")?.to_owned();
    let foreign = pass_everything_before(stage.node(), &ifname)?;
    stage.policy_is_open()?;
    stage.is_repaired("behind the program of another owner")?;
    drop(foreign);
    stage.topology.close()
}

#[test]
fn a_socket_program_that_was_detached_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.node().pause_agent();
    let path = MillraceDir::new(stage.node().bpffs()).link_path("connect4");
    let pinned = bpf_maps::obj_get(&path)?;
    link::detach(pinned.as_fd(), "connect4")?;
    stage.is_repaired("connect4 was detached from the cgroup")?;
    let target = link::info(bpf_maps::obj_get(&path)?.as_fd(), "connect4")?.target;
    ensure!(matches!(target, link::Target::Cgroup { id, .. } if id != 0), "{target:?}");
    stage.topology.close()
}

/// A client, and a server on a node whose firewall lets nothing through: packets get there past the stack or not at
/// all.
struct Crossing {
    topology: Topology,
    client: Arc<Pod>,
    server: Arc<Pod>,
}

const UPLINK: &str = "eth0";

impl Crossing {
    fn build() -> Result<Self> {
        let topology = Topology::start()?;
        let client = topology.add_pod(PodSpec::new("default", "client").on(0))?;
        let server = topology.add_pod(PodSpec::new("default", "server").on(1))?;
        for transport in TRANSPORTS {
            server.probe().listen(transport, PORT)?;
        }
        topology.settle()?;
        let crossing = Self { topology, client, server };
        start_firewall(
            crossing.node(),
            "chain forward { type filter hook forward priority 0; policy drop; }",
        )?;
        crossing.all(|client, target| is_answered_by("default/server", client, target))?;
        Ok(crossing)
    }

    fn node(&self) -> &Node {
        self.topology.node(1)
    }

    fn all(&self, is_so: impl Fn(&Probe, Target) -> Result<()>) -> Result<()> {
        for to in self.server.at(PORT) {
            TRANSPORTS.iter().try_for_each(|transport| is_so(self.client.probe(), target(*transport, to)))?;
        }
        Ok(())
    }

    /// Nothing arrives, until the agent, which was paused for the attack, has put its program back and said so.
    fn is_cut_and_repaired(&self, found: &str) -> Result<()> {
        self.all(is_silent)?;
        self.node().resume_agent();
        let unmet = self.node().health()?.unmet;
        ensure!(unmet.is_empty(), "not ready: {unmet:?}");
        let problems = self.node().status()?.problems;
        ensure!(problems.iter().any(|problem| problem.contains(found)), "nothing says {found}: {problems:?}");
        self.all(|client, target| is_answered_by("default/server", client, target))
    }
}

#[test]
fn the_program_of_an_uplink_that_was_detached_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let crossing = Crossing::build()?;
    crossing.node().pause_agent();
    let name = format!("{UPLINK}:from_netdev");
    let path = MillraceDir::new(crossing.node().bpffs()).link_path(&name);
    link::detach(bpf_maps::obj_get(&path)?.as_fd(), &name)?;
    crossing.is_cut_and_repaired("uplink: from_netdev on eth0 was detached")?;
    crossing.topology.close()
}

#[test]
fn a_program_of_another_owner_does_not_stay_before_that_of_an_uplink() -> Result<()> {
    kernel::require(kernel::NETNS);
    let crossing = Crossing::build()?;
    crossing.node().pause_agent();
    let foreign = pass_everything_before(crossing.node(), UPLINK)?;
    crossing.is_cut_and_repaired("uplink: from_netdev on eth0 was behind the program of another owner")?;
    drop(foreign);
    crossing.topology.close()
}
