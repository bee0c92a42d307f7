//! Every hook of a node is attacked, and CHECK says which pod's programs are off.
use std::{
    fs,
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{EbpfLoader, programs::CgroupSockAddr};
use bpf_maps::{MillraceDir, link};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::Transport,
    program,
    topology::{CniError, Node, Pod, Topology},
};
use serde_json::{Value, json};

use crate::{
    expect::{TRANSPORTS, becomes_answered, is_answered_by, is_silent, target},
    hooks::pass_everything_before,
    objects::policy,
};

const PORT: u16 = 80;
const UPLINK: &str = "eth0";
const POD_HOOKS: [&str; 2] = ["from_pod", "to_pod"];
const UPLINK_HOOKS: [&str; 2] = ["from_netdev", "to_netdev"];
const SOCKET_HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Between two looks at the hooks, and a little.
const LOOK: Duration = Duration::from_secs(15);

/// The host side of a pod's pair.
fn host_side(pod: &Pod) -> Result<String> {
    Ok(pod.cni_result()["interfaces"][0]["name"].as_str().context("the host's side of the pair")?.to_owned())
}

fn path(node: &Node, name: &str) -> PathBuf {
    MillraceDir::new(node.bpffs()).link_path(name)
}

/// As `bpftool link detach` does: the pin stays, attached to nothing.
fn detach(node: &Node, name: &str) -> Result<()> {
    Ok(link::detach(bpf_maps::obj_get(&path(node, name))?.as_fd(), name)?)
}

/// Whether a link is attached to something.
fn is_attached(node: &Node, name: &str) -> Result<()> {
    let target = link::info(bpf_maps::obj_get(&path(node, name))?.as_fd(), name)?.target;
    let is_attached = match target {
        link::Target::Interface { ifindex, .. } => ifindex != 0,
        link::Target::Cgroup { id, .. } => id != 0,
        link::Target::Other { .. } => false,
    };
    ensure!(is_attached, "{name} is attached to {target:?}");
    Ok(())
}

fn links_are_there(node: &Node, pod: &Pod) -> Result<()> {
    let ifname = host_side(pod)?;
    eventually("the links of the pod are there", PATIENCE, || {
        POD_HOOKS.iter().try_for_each(|program| is_attached(node, &format!("{ifname}:{program}")))
    })
}

fn check(node: &Node, pod: &Pod) -> Result<std::result::Result<Value, CniError>> {
    let mut call = pod.cni_call(node, "CHECK");
    let mut config: Value = serde_json::from_str(&call.config)?;
    config["prevResult"] = pod.cni_result().clone();
    call.config = config.to_string();
    node.cni(&call)
}

/// A pod whose policy lets nothing out.
fn locked(topology: &Topology, name: &str) -> Result<Arc<Pod>> {
    topology.add_pod(PodSpec::new("default", name).label("app", "locked"))
}

fn lock(topology: &Topology) -> Result<()> {
    topology.control_plane.apply(&policy(
        "locked",
        &json!({ "podSelector": { "matchLabels": { "app": "locked" } }, "policyTypes": ["Egress"] }),
    ))?;
    topology.settle()
}

#[test]
fn every_hook_that_is_detached_is_put_back_without_being_asked() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    links_are_there(node, &pod)?;
    let ifname = host_side(&pod)?;
    let of_pod = POD_HOOKS.map(|program| format!("{ifname}:{program}"));
    let of_uplink = UPLINK_HOOKS.map(|program| format!("{UPLINK}:{program}"));
    let names: Vec<String> =
        of_pod.into_iter().chain(of_uplink).chain(SOCKET_HOOKS.map(str::to_owned)).collect();
    names.iter().try_for_each(|name| detach(node, name))?;
    let begun = Instant::now();
    eventually("every program is attached again", LOOK, || {
        names.iter().try_for_each(|name| is_attached(node, name))
    })?;
    println!("{} hooks were detached: all are back after {:?}", names.len(), begun.elapsed());
    let problems = node.status()?.problems;
    for program in POD_HOOKS.iter().chain(&UPLINK_HOOKS).chain(&SOCKET_HOOKS) {
        let is_named = |problem: &String| problem.contains(program) && problem.contains("detached");
        ensure!(problems.iter().any(is_named), "nothing says that {program} was detached: {problems:?}");
    }
    topology.close()
}

#[test]
fn a_program_of_another_owner_in_the_link_of_a_socket_program_is_replaced() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    server.probe().listen(Transport::Tcp, PORT)?;
    let spec = ServiceSpec::new("default", "web").select("app", "server").port(Protocol::Tcp, PORT, PORT);
    topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    node.pause_agent();
    let pinned = bpf_maps::obj_get(&path(node, "connect4"))?;
    let ours = link::info(pinned.as_fd(), "connect4")?.prog_id;
    let mut foreign = EbpfLoader::new().load(&program::object()?)?;
    let connect: &mut CgroupSockAddr = foreign.program_mut("connect4").context("a program")?.try_into()?;
    connect.load()?;
    link::update(pinned.as_fd(), connect.fd()?, "connect4")?;
    node.resume_agent();
    ensure!(node.health()?.unmet.is_empty());
    ensure!(link::info(pinned.as_fd(), "connect4")?.prog_id == ours, "the foreign program runs");
    topology.close()
}

#[test]
fn check_fails_for_the_pod_whose_program_is_off_and_for_no_other() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    lock(&topology)?;
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    TRANSPORTS.iter().try_for_each(|transport| server.probe().listen(*transport, PORT))?;
    let (attacked, other) = (locked(&topology, "attacked")?, locked(&topology, "other")?);
    topology.settle()?;
    for pod in [&attacked, &other] {
        links_are_there(node, pod)?;
        ensure!(check(node, pod)?.is_ok());
    }
    let name = format!("{}:from_pod", host_side(&attacked)?);
    // Something is in the way of the repair: the pin's name is taken.
    node.pause_agent();
    detach(node, &name)?;
    fs::remove_file(path(node, &name))?;
    fs::create_dir(path(node, &name))?;
    node.resume_agent();
    let error = check(node, &attacked)?.expect_err("its program is off");
    ensure!(error.code == 102 && error.message.contains("from_pod"), "{error}");
    ensure!(error.message.contains("default/attacked"), "{error}");
    if let Err(error) = check(node, &other)? {
        anyhow::bail!("nothing is wrong with this one: {error}");
    }
    let unmet = node.health()?.unmet;
    ensure!(unmet.iter().any(|sentence| sentence.contains("default/attacked")), "{unmet:?}");
    // CHECK puts right what it can.
    fs::remove_dir(path(node, &name))?;
    if let Err(error) = check(node, &attacked)? {
        anyhow::bail!("nothing is in the way any more: {error}");
    }
    for to in server.at(PORT) {
        TRANSPORTS.iter().try_for_each(|transport| is_silent(attacked.probe(), target(*transport, to)))?;
    }
    let unmet = node.health()?.unmet;
    ensure!(unmet.is_empty(), "{unmet:?}");
    topology.close()
}

#[test]
fn check_fails_for_an_interface_that_the_agent_does_not_know() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    let asked = agent_api::Attachment { container_id: "nobody".to_owned(), ifname: "eth0".to_owned() };
    let missing = node.check(&asked)?;
    ensure!(missing.iter().any(|sentence| sentence.contains("does not know")), "{missing:?}");
    ensure!(check(node, &pod)?.is_ok());
    topology.close()
}

/// New pods start with filters, and anybody may remove those or get in front of them.
#[test]
fn the_filters_of_a_new_pod_are_guarded_until_its_links_come() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    lock(&topology)?;
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    server.probe().listen(Transport::Udp, PORT)?;
    for attack in ["qdisc", "program"] {
        let pod = locked(&topology, attack)?;
        node.pause_agent();
        let ifname = host_side(&pod)?;
        ensure!(
            !path(node, &format!("{ifname}:from_pod")).exists(),
            "its links came too early for this test"
        );
        let foreign = match attack {
            "qdisc" => {
                let mut tc = Command::new("tc");
                tc.args(["qdisc", "del", "dev", &ifname, "clsact"]);
                let output = node.netns().run(|| tc.output())??;
                ensure!(output.status.success(), "tc: {output:?}");
                None
            }
            _ => Some(pass_everything_before(node, &ifname)?),
        };
        for to in server.at(PORT) {
            becomes_answered(pod.probe(), target(Transport::Udp, to)).context("the attack does nothing")?;
        }
        node.resume_agent();
        ensure!(node.health()?.unmet.is_empty());
        for to in server.at(PORT) {
            is_silent(pod.probe(), target(Transport::Udp, to))?;
        }
        let problems = node.status()?.problems;
        let is_named = |problem: &String| problem.contains(&format!("default/{attack}"));
        ensure!(problems.iter().any(is_named), "{problems:?}");
        drop(foreign);
    }
    is_answered_by("default/server", node.host(), target(Transport::Udp, server.at(PORT)[0]))?;
    topology.close()
}
