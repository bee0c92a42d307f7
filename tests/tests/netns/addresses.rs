//! Who may not get which address: what others have, and what could not be remembered.
use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually, holds},
    kernel,
    probe::wire::Transport,
    topology::{AgentOptions, Node, Topology},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    cluster_ip::TARGET_PORT,
    expect::{is_answered_by, target},
};

/// Where Debian has the reference plugins.
const HOST_LOCAL: &str = "/usr/lib/cni/host-local";

/// Has the real `host-local` give an address to a pod of another network.
fn lease_of_host_local(node: &Node, container: &str) -> Result<Vec<IpAddr>> {
    let ranges: Vec<Value> = node.spec().pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "another",
        "type": "ptp",
        "ipam": { "type": "host-local", "dataDir": node.host_local_dir(), "ranges": ranges },
    });
    let mut host_local = Command::new(HOST_LOCAL)
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", "/proc/self/ns/net")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run host-local: install the package containernetworking-plugins")?;
    let mut stdin = host_local.stdin.take().context("its input")?;
    stdin.write_all(configuration.to_string().as_bytes())?;
    drop(stdin);
    let output = host_local.wait_with_output()?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let ips = result["ips"].as_array().with_context(|| format!("host-local: {result}"))?;
    let address = |ip: &Value| -> Result<IpAddr> {
        let text = ip["address"].as_str().and_then(|text| text.split('/').next()).context("no address")?;
        Ok(text.parse()?)
    };
    ips.iter().map(address).collect()
}

#[test]
fn what_pods_of_another_network_have_is_not_given_away_again() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let mut taken = BTreeSet::new();
    for container in ["one", "two", "three"] {
        taken.extend(lease_of_host_local(node, container)?);
    }
    ensure!(taken.len() == 6, "both families: {taken:?}");
    // A pod that its object shows, without any lease of a file.
    let shown: [IpAddr; 2] = ["10.244.1.5".parse()?, "fd00:10:244:1::5".parse()?];
    topology.control_plane.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "default", "name": "old", "uid": "old" },
        "spec": { "nodeName": node.spec().name, "containers": [{ "name": "c", "image": "i" }] },
        "status": {
            "phase": "Running",
            "podIP": shown[0],
            "podIPs": shown.map(|ip| json!({ "ip": ip })),
        },
    }))?;
    taken.extend(shown);
    // One that nothing but a route tells of, and an address of the host itself.
    node.netns().ip("link add old0 type veth peer name old1\n\
                     link set old0 up\n\
                     addr add 10.244.1.7/32 dev old0\n\
                     addr add fd00:10:244:1::7/128 dev old0 nodad\n\
                     route add 10.244.1.6/32 dev old0\n\
                     route add fd00:10:244:1::6/128 dev old0\n")?;
    for last in [6, 7] {
        taken.insert(format!("10.244.1.{last}").parse()?);
        taken.insert(format!("fd00:10:244:1::{last}").parse()?);
    }
    // As at the start of a move: the agent looks at the node before it answers_still.
    ensure!(node.stop_agent()?.success(), "{}", node.log());
    node.start_agent()?;
    topology.settle()?;
    let mut given = BTreeSet::new();
    for number in 0..6 {
        let pod = topology.add_pod(PodSpec::new("default", &format!("new-{number}")))?;
        given.extend(pod.ips().iter().copied());
    }
    ensure!(given.is_disjoint(&taken), "given twice: {:?}", given.intersection(&taken).collect::<Vec<_>>());
    // Lease by lease, as it goes on while the agent runs.
    let later: BTreeSet<_> = lease_of_host_local(node, "four")?.into_iter().collect();
    if given.is_disjoint(&later) {
        for number in 6..12 {
            let pod = topology.add_pod(PodSpec::new("default", &format!("new-{number}")))?;
            given.extend(pod.ips().iter().copied());
        }
        ensure!(given.is_disjoint(&later), "{later:?} was given once more: {given:?}");
    }
    topology.close()
}

/// Something mounted over a folder.
struct Over(PathBuf);

impl Over {
    /// The folder itself, and nobody may write to it.
    fn read_only(folder: &Path) -> Result<Self> {
        let none: Option<&str> = None;
        mount(Some(folder), folder, none, MsFlags::MS_BIND, none).context("bind the folder")?;
        let over = Self(folder.to_owned());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, folder, none, flags, none).context("make it read-only")?;
        Ok(over)
    }

    /// A small file system, empty.
    fn small(folder: &Path) -> Result<Self> {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))
            .context("mount a small file system")?;
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.0.display());
        }
    }
}

/// A new pod is refused, with a reason that names the file and the way out.
fn is_refused(topology: &Topology, name: &str) -> Result<()> {
    let pod = topology.prepare_pod(PodSpec::new("default", name))?;
    let error = topology.attach_pod(&pod).err().context("a pod was attached that an agent would forget")?;
    let error = format!("{error:#}");
    ensure!(error.contains("leases.json") && error.contains("--state-dir"), "{error}");
    Ok(())
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_only_new_pods() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    server.probe().listen(Transport::Tcp, TARGET_PORT)?;
    let answers_still = || -> Result<()> {
        for to in server.at(TARGET_PORT) {
            is_answered_by("default/server", node.host(), target(Transport::Tcp, to))?;
        }
        Ok(())
    };
    answers_still()?;
    ensure!(node.stop_agent()?.success(), "{}", node.log());
    let read_only = Over::read_only(&node.state_dir())?;
    node.spawn_agent(&AgentOptions::default())?;
    node.await_agent()?;
    answers_still()?;
    let problem =
        |part: &str| -> Result<bool> { Ok(node.status()?.problems.iter().any(|it| it.contains(part))) };
    ensure!(problem("leases.json")?, "{:?}", node.status()?.problems);
    let refusing = node.health()?.refusing;
    ensure!(refusing.iter().any(|why| why.contains("leases.json")), "{refusing:?}");
    is_refused(&topology, "refused")?;
    drop(read_only);
    holds("the directory is used again", PATIENCE, || {
        problem("leases.json").is_ok_and(|is_there| !is_there)
    })?;
    eventually("the pod is attached", PATIENCE, || topology.attach_pod(&topology.pod("default", "refused")))?;
    answers_still()?;

    // Full while it runs.
    let full = Over::small(&node.state_dir())?;
    fs::write(node.state_dir().join("ballast"), vec![0; 64 << 10]).unwrap_or_default();
    is_refused(&topology, "later")?;
    fs::remove_file(node.state_dir().join("ballast"))?;
    eventually("the pod is attached", PATIENCE, || topology.attach_pod(&topology.pod("default", "later")))?;
    answers_still()?;
    drop(full);
    topology.close()
}
