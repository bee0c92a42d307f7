//! Programs as filters of `clsact`, as on kernels without tcx: replaced without a gap, put back, first, and gone when
//! Millrace is; what others have there stays.
use std::{process::Command, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::Transport,
    stage::Stage,
    topology::{AgentOptions, Node, Options, Pod, Topology},
};
use serde_json::json;

use crate::{
    expect::{TRANSPORTS, becomes_answered, is_answered_by, is_silent, target},
    hooks::pass_everything,
    kernels::{reaches_every_server, restart_under_load},
    objects::policy,
};

const PORT: u16 = 80;
const UPLINK: &str = "eth0";
const RESTARTS: usize = 4;
const CLSACT: &[&str] = &["--attach", "clsact"];
const TCX: &[&str] = &["--attach", "tcx"];
const PROGRAMS: [(&str, &str); 2] = [("from_pod", "ingress"), ("to_pod", "egress")];

/// Runs `tc` on a node.
fn tc(node: &Node, arguments: &str) -> Result<String> {
    let output = node.netns().run(|| Command::new("tc").args(arguments.split(' ')).output())?;
    let output = output.context("run tc")?;
    ensure!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn filters(node: &Node, ifname: &str, direction: &str) -> Result<String> {
    tc(node, &format!("filter show dev {ifname} {direction}"))
}

fn has_clsact(node: &Node, ifname: &str) -> Result<bool> {
    Ok(tc(node, &format!("qdisc show dev {ifname}"))?.contains("clsact"))
}

fn host_side(pod: &Pod) -> Result<String> {
    let name = pod.cni_result()["interfaces"][0]["name"].as_str();
    Ok(name.context("the host's side of the pair")?.to_owned())
}

#[test]
fn services_and_policies_hold_and_restarts_under_load_lose_nothing() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let stage = Stage::on(Topology::start_with(CLSACT)?)?;
    let node = stage.topology.node(0);
    for pod in [&stage.servers[0], &stage.clients[0], &stage.locked] {
        for (program, direction) in PROGRAMS {
            let found = filters(node, &host_side(pod)?, direction)?;
            ensure!(found.contains(&format!("millrace:{program}")), "{found}");
        }
    }
    ensure!(filters(node, UPLINK, "ingress")?.contains("millrace:from_netdev"), "on the uplink");
    let links = node.maps().links()?;
    ensure!(!links.iter().any(|link| link.ends_with("_pod") || link.ends_with("_netdev")), "{links:?}");
    for client in stage.clients.iter().map(|client| client.probe()) {
        stage.frontends.into_iter().try_for_each(|to| reaches_every_server(&stage, client, to))?;
    }
    restart_under_load(&stage, RESTARTS)?;
    let programs = node.status()?.programs;
    let attached = programs.iter().find(|program| program.name == "from_pod").context("from_pod")?;
    ensure!(attached.attached_to.len() == 3, "{:?}", attached.attached_to);
    stage.topology.close()
}

#[test]
fn changing_between_links_and_filters_under_load_loses_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    // Filters first: a qdisc that is added to an interface stops its queues for a moment.
    let stage = Stage::on(Topology::start_with(CLSACT)?)?;
    let node = stage.topology.node(0);
    let ifname = host_side(&stage.servers[0])?;
    for (arguments, links, has_filter) in [(TCX, 2, false), (CLSACT, 0, true), (TCX, 2, false)] {
        stage.topology.nodes().iter().for_each(|node| node.start_agents_with(arguments));
        restart_under_load(&stage, RESTARTS)?;
        let found = node.maps().links()?;
        let found = found.iter().filter(|link| link.starts_with(&ifname)).count();
        ensure!(found == links, "{arguments:?}: {found} links of {ifname}");
        for (place, direction) in [(ifname.as_str(), "ingress"), (&ifname, "egress"), (UPLINK, "ingress")] {
            let shown = filters(node, place, direction)?;
            ensure!(shown.contains("millrace:") == has_filter, "{arguments:?}: {place} {direction}: {shown}");
        }
    }
    stage.topology.close()
}

/// A client whose policy lets nothing out, and a server that would answer.
struct Policed {
    topology: Topology,
    locked: Arc<Pod>,
    server: Arc<Pod>,
}

impl Policed {
    fn build() -> Result<Self> {
        let topology = Topology::start_with(CLSACT)?;
        let locked = topology.add_pod(PodSpec::new("default", "locked").label("app", "locked"))?;
        let server = topology.add_pod(PodSpec::new("default", "server"))?;
        TRANSPORTS.iter().try_for_each(|transport| server.probe().listen(*transport, PORT))?;
        topology.control_plane.apply(&policy(
            "locked",
            &json!({ "podSelector": { "matchLabels": { "app": "locked" } }, "policyTypes": ["Egress"] }),
        ))?;
        topology.settle()?;
        let stage = Self { topology, locked, server };
        stage.holds()?;
        Ok(stage)
    }

    fn node(&self) -> &Node {
        self.topology.node(0)
    }

    fn holds(&self) -> Result<()> {
        let at = self.server.at(PORT).into_iter();
        let targets = at.flat_map(|to| TRANSPORTS.map(|transport| target(transport, to)));
        targets.into_iter().try_for_each(|target| is_silent(self.locked.probe(), target))
    }

    fn is_open(&self) -> Result<()> {
        let at = self.server.at(PORT);
        at.into_iter().try_for_each(|to| becomes_answered(self.locked.probe(), target(Transport::Udp, to)))
    }

    /// The agent, by itself, says what it found and has put it right.
    fn is_repaired(&self, found: &str) -> Result<()> {
        self.node().resume_agent();
        eventually(format!("a problem says {found}"), PATIENCE + PATIENCE, || {
            let problems = self.node().status()?.problems;
            ensure!(problems.iter().any(|problem| problem.contains(found)), "{problems:?}");
            Ok(())
        })?;
        self.holds()?;
        let unmet = self.node().health()?.unmet;
        ensure!(unmet.is_empty(), "not ready: {unmet:?}");
        self.topology.control_plane.delete("NetworkPolicy", "default", "locked")?;
        self.topology.settle()?;
        for to in self.server.at(PORT) {
            is_answered_by("default/server", self.locked.probe(), target(Transport::Tcp, to))?;
        }
        Ok(())
    }
}

#[test]
fn a_filter_that_was_deleted_is_put_back() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let stage = Policed::build()?;
    stage.node().pause_agent();
    let ifname = host_side(&stage.locked)?;
    tc(stage.node(), &format!("filter del dev {ifname} ingress"))?;
    stage.is_open()?;
    stage.is_repaired("was detached")?;
    stage.topology.close()
}

#[test]
fn a_qdisc_that_was_deleted_is_put_back_with_its_filters() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let stage = Policed::build()?;
    stage.node().pause_agent();
    tc(stage.node(), &format!("qdisc del dev {} clsact", host_side(&stage.locked)?))?;
    stage.is_open()?;
    stage.is_repaired("was detached")?;
    stage.topology.close()
}

#[test]
fn a_filter_of_another_owner_does_not_stay_before_ours() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let stage = Policed::build()?;
    stage.node().pause_agent();
    let ifname = host_side(&stage.locked)?;
    // Of the same priority, and added later: it comes first.
    let place = NlOptions { priority: 1, handle: TcHandle::new(0, 7), classid: None };
    let foreign = pass_everything(stage.node(), &ifname, TcAttachOptions::Netlink(place))?;
    stage.is_open()?;
    stage.is_repaired("behind the program of another owner")?;
    let shown = filters(stage.node(), &ifname, "ingress")?;
    ensure!(shown.contains("handle 0x7"), "the other one is gone: {shown}");
    drop(foreign);
    ensure!(shown.matches("millrace:from_pod").count() == 1, "{shown}");
    stage.topology.close()
}

#[test]
fn an_uninstalled_node_keeps_what_others_have_and_nothing_of_ours() -> Result<()> {
    kernel::require(kernel::OLDEST);
    for is_others_first in [false, true] {
        let topology = Topology::build(&Options { nodes: 1, ..Options::default() })?;
        let node = topology.node(0);
        node.start_agents_with(CLSACT);
        if is_others_first {
            tc(node, &format!("qdisc add dev {UPLINK} clsact"))?;
            tc(node, &format!("filter add dev {UPLINK} egress priority 5 u32 match u32 0 0 flowid 1:1"))?;
        }
        node.start_agent()?;
        topology.add_pod(PodSpec::new("default", "pod"))?;
        eventually("the program is on the uplink", PATIENCE, || {
            ensure!(filters(node, UPLINK, "ingress")?.contains("millrace:from_netdev"), "it is not");
            Ok(())
        })?;
        node.stop_agent()?;
        let arguments = ["uninstall", "--cut-off-pods"].map(str::to_owned).to_vec();
        let ended = node.run_agent(&AgentOptions { arguments, ..AgentOptions::default() })?;
        ensure!(ended.status.success(), "{}", ended.log);
        ensure!(filters(node, UPLINK, "ingress")?.is_empty(), "something is left on the uplink");
        ensure!(has_clsact(node, UPLINK)? == is_others_first, "{}", tc(node, "qdisc show")?);
        if is_others_first {
            ensure!(filters(node, UPLINK, "egress")?.contains("u32"), "the filter of another is gone");
        }
        topology.close()?;
    }
    Ok(())
}

#[test]
fn a_priority_that_another_owner_has_is_named_and_left_alone() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let topology = Topology::build(&Options { nodes: 1, ..Options::default() })?;
    let node = topology.node(0);
    node.start_agents_with(CLSACT);
    tc(node, &format!("qdisc add dev {UPLINK} clsact"))?;
    tc(
        node,
        &format!("filter add dev {UPLINK} ingress priority 1 protocol ip u32 match u32 0 0 flowid 1:1"),
    )?;
    let before = filters(node, UPLINK, "ingress")?;
    node.start_agent()?;
    eventually("the problem is named", PATIENCE, || {
        let problems = node.status()?.problems;
        let is_named = |problem: &String| problem.contains(UPLINK) && problem.contains("another owner");
        ensure!(problems.iter().any(is_named), "{problems:?}");
        Ok(())
    })?;
    ensure!(filters(node, UPLINK, "ingress")? == before, "it was changed");
    topology.close()
}
