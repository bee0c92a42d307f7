//! A pod whose object is gone while its container runs on, as after `kubectl delete --force`: its interface keeps its
//! policy until DEL, and nobody but its node reaches what nobody vouches for.
use std::{fs, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::{DropReason, Hook};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{client::Probe, wire::Target},
    topology::{Node, Pod, Topology},
};
use serde_json::{Value, json};

use crate::{
    expect::{TRANSPORTS, becomes_answered, is_answered_by, is_silent, target},
    objects::policy,
};

const PORT: u16 = 80;
const NAME: &str = "default/subject";

/// A pod that only friends reach, and that reaches only friends; a friend and a stranger on each node.
struct Stage {
    topology: Topology,
    subject: Arc<Pod>,
    friends: Vec<Arc<Pod>>,
    strangers: Vec<Arc<Pod>>,
}

/// Only friends, both ways.
fn friends_only() -> Value {
    let friends = json!([{ "podSelector": { "matchLabels": { "role": "friend" } } }]);
    policy(
        "friends",
        &json!({
            "podSelector": { "matchLabels": { "app": "subject" } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": friends }],
            "egress": [{ "to": friends }],
        }),
    )
}

impl Stage {
    fn build() -> Result<Self> {
        let topology = Topology::start()?;
        let pod = |name: &str, labels: (&str, &str), node| -> Result<Arc<Pod>> {
            let pod = topology.add_pod(PodSpec::new("default", name).label(labels.0, labels.1).on(node))?;
            TRANSPORTS.iter().try_for_each(|transport| pod.probe().listen(*transport, PORT))?;
            Ok(pod)
        };
        let subject = pod("subject", ("app", "subject"), 0)?;
        let friends = vec![pod("friend-0", ("role", "friend"), 0)?, pod("friend-1", ("role", "friend"), 1)?];
        let strangers =
            vec![pod("stranger-0", ("role", "none"), 0)?, pod("stranger-1", ("role", "none"), 1)?];
        topology.control_plane.apply(&friends_only())?;
        topology.settle()?;
        Ok(Self { topology, subject, friends, strangers })
    }

    fn node(&self) -> &Node {
        self.topology.node(0)
    }

    /// Takes the object away; the container runs on.
    fn delete_object(&self) -> Result<()> {
        self.topology.control_plane.delete_pod("default", "subject")?;
        self.topology.settle()
    }

    /// Both ways, every transport and family: friends pass, strangers do not, the node reaches it.
    fn policy_holds(&self) -> Result<()> {
        self.node_reaches_it()?;
        for (to, transport) in self.each() {
            for friend in &self.friends {
                is_answered_by(NAME, friend.probe(), target(transport, to))?;
                let back = same_family(friend, to);
                is_answered_by(friend.probe().name(), self.subject.probe(), target(transport, back))?;
            }
        }
        self.is_closed_to(&self.strangers)
    }

    fn node_reaches_it(&self) -> Result<()> {
        self.each()
            .try_for_each(|(to, transport)| is_answered_by(NAME, self.node().host(), target(transport, to)))
    }

    /// Nothing passes between the subject and these, in either direction.
    fn is_closed_to(&self, pods: &[Arc<Pod>]) -> Result<()> {
        for (to, transport) in self.each() {
            for pod in pods {
                is_silent(pod.probe(), target(transport, to))?;
                is_silent(self.subject.probe(), target(transport, same_family(pod, to)))?;
            }
        }
        Ok(())
    }

    fn each(&self) -> impl Iterator<Item = (SocketAddr, harness::probe::wire::Transport)> {
        self.subject.at(PORT).into_iter().flat_map(|to| TRANSPORTS.map(|transport| (to, transport)))
    }

    /// `status` tells of the pod in these words.
    fn is_said(&self, words: &str) -> Result<()> {
        eventually(format!("status says {words:?}"), PATIENCE, || {
            let problems = self.node().status()?.problems;
            let found = problems.iter().any(|problem| problem.contains(NAME) && problem.contains(words));
            found.then_some(()).with_context(|| format!("{problems:#?}"))
        })
    }

    fn restart_agent(&self) -> Result<()> {
        self.node().kill_agent()?;
        self.node().start_agent()?;
        self.topology.settle()
    }

    fn spoofed(&self) -> Result<u64> {
        self.node().maps().drops(Hook::FromPod, DropReason::SpoofedAddress)
    }
}

fn same_family(pod: &Pod, like: SocketAddr) -> SocketAddr {
    pod.at(PORT)[usize::from(like.is_ipv6())]
}

#[test]
fn a_pod_without_its_object_keeps_its_policy_until_del() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.policy_holds()?;
    let spoofed = stage.spoofed()?;
    stage.delete_object()?;
    stage.policy_holds()?;
    stage.is_said("its object is gone")?;
    assert_eq!(stage.spoofed()?, spoofed, "what it sends is judged by its policy");

    // A new agent knows it by its last labels.
    stage.restart_agent()?;
    stage.policy_holds()?;
    stage.is_said("by its last labels")?;

    // A policy that comes later holds as well, and one that goes opens nothing.
    let deny = json!({ "podSelector": { "matchLabels": { "app": "subject" } }, "policyTypes": ["Ingress"] });
    let control_plane = &stage.topology.control_plane;
    control_plane.apply(&policy("deny", &deny))?;
    control_plane.delete("NetworkPolicy", "default", "friends")?;
    stage.topology.settle()?;
    stage.is_closed_to(&stage.friends)?;
    control_plane.delete("NetworkPolicy", "default", "deny")?;
    stage.topology.settle()?;
    stage.is_closed_to(&stage.friends)?;
    stage.node_reaches_it()?;

    // DEL works, and the problem goes with it.
    stage.topology.delete_pod("default", "subject")?;
    eventually("status has no problem", PATIENCE, || {
        let problems = stage.node().status()?.problems;
        ensure!(problems.is_empty(), "{problems:#?}");
        Ok(())
    })?;
    stage.topology.close()
}

#[test]
fn a_successor_of_the_same_name_does_not_lend_it_its_labels() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.delete_object()?;
    // What the controller of a StatefulSet makes next; no policy selects it.
    let successor = PodSpec::new("default", "subject").label("app", "other");
    stage.topology.control_plane.schedule_pod(&successor)?;
    stage.topology.settle()?;
    stage.policy_holds()?;
    stage.restart_agent()?;
    stage.policy_holds()?;
    stage.topology.close()
}

#[test]
fn an_interface_of_which_a_new_agent_knows_no_pod_is_closed() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    // The object goes while no agent runs.
    stage.node().kill_agent()?;
    stage.topology.control_plane.delete_pod("default", "subject")?;
    stage.node().start_agent()?;
    stage.topology.settle()?;
    assert!(!stage.node().state_dir().join("departed.json").exists(), "nobody saw it go");
    let spoofed = stage.spoofed()?;
    stage.is_closed_to(&stage.friends)?;
    stage.is_closed_to(&stage.strangers)?;
    stage.node_reaches_it()?;
    assert_eq!(stage.spoofed()?, spoofed);
    stage.is_said("only this node reaches it")?;
    // A damaged memory is none.
    fs::write(stage.node().state_dir().join("departed.json"), "[{")?;
    stage.restart_agent()?;
    stage.is_closed_to(&stage.friends)?;
    stage.topology.close()
}

#[test]
fn what_is_forwarded_to_an_address_that_no_endpoint_has_there_is_dropped() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let target_pod = topology.add_pod(PodSpec::new("default", "target"))?;
    let other = topology.add_pod(PodSpec::new("default", "other"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    let node = topology.node(0);
    // Addresses of the node's pod CIDR that nobody has, and routes to the pod's interface, as a lease gone wrong leaves
    // them; the pod takes them.
    let extra: [SocketAddr; 2] = [
        SocketAddr::new(neighbour_of(&other, false, 200)?, PORT),
        SocketAddr::new(neighbour_of(&other, true, 200)?, PORT),
    ];
    let device = target_pod.cni_result()["interfaces"][0]["name"].as_str().context("no name")?.to_owned();
    for address in extra {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        ip(target_pod.netns().name(), &[family, "address", "add", &address.ip().to_string(), "dev", "eth0"])?;
        ip(node.netns().name(), &[family, "route", "add", &address.ip().to_string(), "dev", &device])?;
        let mac = target_pod.macs()?.pod.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = ["neigh", "replace", &address.ip().to_string(), "lladdr", &mac, "dev", &device];
        ip(node.netns().name(), &neighbour)?;
    }
    TRANSPORTS.iter().try_for_each(|transport| target_pod.probe().listen(*transport, PORT))?;
    for to in target_pod.at(PORT) {
        becomes_answered(near.probe(), Target::udp(to))?;
    }
    let dropped = || node.maps().drops(Hook::ToPod, DropReason::NoSuchEndpoint);
    for to in extra {
        for client in [near.probe(), far.probe()] {
            let before = dropped()?;
            sends_in_vain(client, to)?;
            ensure!(dropped()? > before, "{} to {to} was not dropped at the interface", client.name());
        }
    }
    topology.close()
}

fn sends_in_vain(client: &Probe, to: SocketAddr) -> Result<()> {
    is_silent(client, Target::udp(to))?;
    is_silent(client, Target::tcp(to))
}

/// An address of the pod's network, by its last number.
fn neighbour_of(pod: &Pod, v6: bool, last: u8) -> Result<std::net::IpAddr> {
    let text = pod.ip(v6).to_string();
    let separator = if v6 { ':' } else { '.' };
    let (network, _) = text.rsplit_once(separator).context("an address")?;
    Ok(format!("{network}{separator}{last}").parse()?)
}

fn ip(namespace: &str, arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new("ip").args(["-n", namespace]).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
