//! A pod with several interfaces (Multus): each attachment touches only what is its own.
use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::{DropReason, Hook};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, holds},
    kernel,
    packet::{Packet, Transport as PacketTransport},
    probe::wire::{Target, Transport},
    topology::{CniResult, Node, Pod, Topology},
};
use serde_json::{Value, json};

use crate::{
    expect::{SHORT, TRANSPORTS, answer, becomes_answered, is_answered_by, is_silent, target},
    objects::policy,
};

const PORT: u16 = 80;
const FAMILIES: [&str; 2] = ["-4", "-6"];

/// One more attachment of a pod, as Multus makes it: the same container, another interface.
struct Attached<'a> {
    node: &'a Node,
    pod: &'a Pod,
    ifname: &'static str,
    config: Value,
}

impl<'a> Attached<'a> {
    fn new(topology: &'a Topology, pod: &'a Pod, ifname: &'static str) -> Self {
        let node = topology.node(pod.node());
        Self { node, pod, ifname, config: node.cni_config("1.1.0") }
    }

    /// With keys of its own in the network configuration.
    fn configured(mut self, keys: &Value) -> Self {
        let config = self.config.as_object_mut().expect("an object");
        config.extend(keys.as_object().expect("an object").clone());
        self
    }

    fn call(&self, verb: &str, config: &Value) -> Result<CniResult> {
        let mut call = self.pod.cni_call(self.node, verb);
        call.ifname = Some(self.ifname.to_owned());
        call.config = config.to_string();
        self.node.cni(&call)
    }

    fn add(&self) -> Result<Value> {
        self.call("ADD", &self.config)?.with_context(|| format!("ADD of {}", self.ifname))
    }

    fn del(&self) -> Result<()> {
        self.call("DEL", &self.config)?.map(drop).with_context(|| format!("DEL of {}", self.ifname))
    }

    fn check(&self, result: &Value) -> Result<()> {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        self.call("CHECK", &config)?.map(drop).with_context(|| format!("CHECK of {}", self.ifname))
    }
}

/// A port of the addresses that an ADD returned, IPv4 first.
fn at(result: &Value, port: u16) -> Result<[SocketAddr; 2]> {
    let ips = result["ips"].as_array().context("no ips")?;
    let address = |v6: bool| {
        let mut addresses =
            ips.iter().filter_map(|ip| ip["address"].as_str()?.split_once('/')?.0.parse().ok());
        addresses.find(|ip: &std::net::IpAddr| ip.is_ipv6() == v6).context("no address of the family")
    };
    Ok([SocketAddr::new(address(false)?, port), SocketAddr::new(address(true)?, port)])
}

fn ip(pod: &Pod, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("ip").args(["-n", pod.netns().name()]).args(arguments).output().context("run `ip`")?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// All that decides where a pod's packets go, but for the links themselves.
fn routing(pod: &Pod) -> Result<String> {
    let mut all = String::new();
    for family in FAMILIES {
        all += &ip(pod, &[family, "rule"])?;
        all += &ip(pod, &[family, "route", "show", "table", "all"])?;
    }
    Ok(all + &ip(pod, &["neigh", "show", "nud", "permanent"])?)
}

/// The interfaces of the main table's default routes of a family, the preferred one first.
fn defaults(pod: &Pod, family: &str) -> Result<Vec<String>> {
    let routes = ip(pod, &[family, "route", "show", "default"])?;
    let device = |line: &str| line.split_once(" dev ")?.1.split(' ').next().map(str::to_owned);
    Ok(routes.lines().filter_map(device).collect())
}

/// Every peer reaches the pod at these addresses, and the pod every peer from them.
fn works(topology: &Topology, pod: &Pod, peers: &[&Pod], own: [SocketAddr; 2]) -> Result<()> {
    for transport in TRANSPORTS {
        for (family, to) in own.into_iter().enumerate() {
            for client in peers.iter().map(|peer| peer.probe()).chain([topology.node(pod.node()).host()]) {
                is_answered_by(pod.probe().name(), client, target(transport, to))?;
            }
            for peer in peers {
                let from = SocketAddr::new(to.ip(), 0);
                let answer = answer(pod.probe(), target(transport, peer.at(PORT)[family]).from(from))?;
                assert_eq!(answer.saw.ip(), to.ip(), "{transport:?}");
            }
        }
    }
    Ok(())
}

fn spoofed(node: &Node) -> Result<u64> {
    node.maps().drops(Hook::FromPod, DropReason::SpoofedAddress)
}

fn serve(pods: &[&Pod]) -> Result<()> {
    pods.iter().try_for_each(|pod| {
        [Transport::Tcp, Transport::Udp].iter().try_for_each(|t| pod.probe().listen(*t, PORT))
    })
}

#[test]
fn a_second_interface_leaves_the_first_as_it_was() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    serve(&[&pod, &near, &far])?;
    let (node, peers) = (topology.node(0), [&*near, &*far]);
    let eth0 = Attached::new(&topology, &pod, "eth0");
    let net1 = Attached::new(&topology, &pod, "net1");
    let before = routing(&pod)?;
    let (held, _) = pod.probe().open(Target::tcp(far.at(PORT)[0]), SHORT)?;

    // Twice: what DEL leaves must not be in the way of ADD.
    for _ in 0..2 {
        let result = net1.add()?;
        let own = at(&result, PORT)?;
        assert!(own.iter().all(|at| !pod.ips().contains(&at.ip())), "{own:?}");
        for family in FAMILIES {
            assert_eq!(defaults(&pod, family)?, ["eth0"], "{}", routing(&pod)?);
        }
        eth0.check(pod.cni_result())?;
        net1.check(&result)?;
        let drops = spoofed(node)?;
        works(&topology, &pod, &peers, pod.at(PORT))?;
        works(&topology, &pod, &peers, own)?;
        assert!(held.exchange(SHORT)?.is_answered(), "a connection of eth0 broke");
        assert_eq!(spoofed(node)?, drops, "answers left by the wrong interface");
        // A name that is taken is refused, and nothing of its owner changes.
        let with_net1 = routing(&pod)?;
        assert_eq!(net1.call("ADD", &net1.config)?.expect_err("net1 is there").code, 4);
        assert_eq!(routing(&pod)?, with_net1);

        net1.del()?;
        assert_eq!(routing(&pod)?, before);
        eth0.check(pod.cni_result())?;
        works(&topology, &pod, &peers, pod.at(PORT))?;
        net1.del()?;
    }

    // An ADD that fails leaves nothing, and the next one succeeds.
    node.kill_agent()?;
    assert_eq!(net1.call("ADD", &net1.config)?.expect_err("no agent").code, 11);
    assert_eq!(routing(&pod)?, before);
    node.start_agent()?;
    let result = net1.add()?;

    // The first may go before the second.
    eth0.del()?;
    net1.check(&result)?;
    works(&topology, &pod, &peers, at(&result, PORT)?)?;
    net1.del()?;
    for family in FAMILIES {
        assert_eq!(defaults(&pod, family)?, [""; 0]);
        assert!(!ip(&pod, &[family, "rule"])?.contains("proto"), "{}", routing(&pod)?);
    }
    topology.close()
}

#[test]
fn each_interface_speaks_only_from_its_own_addresses() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    serve(&[&far])?;
    let result = Attached::new(&topology, &pod, "net1").add()?;
    let mac = |inside: bool| -> Result<[u8; 6]> {
        let interfaces = result["interfaces"].as_array().context("no interfaces")?;
        let found = interfaces.iter().find(|interface| interface["sandbox"].is_string() == inside);
        let mac = found.and_then(|interface| interface["mac"].as_str()).context("no mac")?;
        let bytes: Vec<u8> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().ok().context("six bytes")
    };
    let (net1, eth0) = ((mac(true)?, mac(false)?), (pod.macs()?.pod, pod.macs()?.host));
    let node = topology.node(0);
    for (family, own) in at(&result, PORT)?.into_iter().enumerate() {
        let first = pod.at(PORT)[family].ip();
        for (ifname, macs, from, passes) in [
            ("net1", net1, own.ip(), true),
            ("eth0", eth0, first, true),
            ("net1", net1, first, false),
            ("eth0", eth0, own.ip(), false),
        ] {
            let datagram = PacketTransport::udp(4000, PORT, b"who are you?\n".to_vec());
            let frame =
                Packet::new(from, far.at(PORT)[family].ip(), datagram).between(macs.0, macs.1).bytes();
            let (served, drops) = (far.probe().served(Transport::Udp, PORT)?, spoofed(node)?);
            pod.probe().send_frames(ifname, &[frame])?;
            holds(format!("{from} out of {ifname} passes: {passes}"), PATIENCE, || {
                let now = (far.probe().served(Transport::Udp, PORT), spoofed(node));
                (now.0.ok(), now.1.ok())
                    == (Some(served + u64::from(passes)), Some(drops + u64::from(!passes)))
            })?;
        }
    }
    topology.close()
}

#[test]
fn a_policy_holds_for_every_address_of_its_pod() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    let good = topology.add_pod(PodSpec::new("default", "good").label("role", "good"))?;
    let bad = topology.add_pod(PodSpec::new("default", "bad"))?;
    serve(&[&server, &good, &bad])?;
    topology.control_plane.apply(&policy(
        "only-good",
        &json!({
            "podSelector": { "matchLabels": { "app": "server" } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "role": "good" } } }] }],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "role": "good" } } }] }],
        }),
    ))?;
    topology.settle()?;
    // The policy is there before the interface: it holds from the first packet on.
    let server_net1 = Attached::new(&topology, &server, "net1").add()?;
    let good_net1 = Attached::new(&topology, &good, "net1").add()?;
    let bad_net1 = Attached::new(&topology, &bad, "net1").add()?;
    for family in [0, 1] {
        let host = |at: SocketAddr| SocketAddr::new(at.ip(), 0);
        for to in [server.at(PORT)[family], at(&server_net1, PORT)?[family]] {
            // From either address of a pod.
            for from in [good.at(0)[family], host(at(&good_net1, 0)?[family])] {
                is_answered_by("default/server", good.probe(), Target::tcp(to).from(from))?;
                let back = SocketAddr::new(from.ip(), PORT);
                is_answered_by("default/good", server.probe(), Target::tcp(back).from(host(to)))?;
            }
            for from in [bad.at(0)[family], host(at(&bad_net1, 0)?[family])] {
                is_silent(bad.probe(), Target::tcp(to).from(from))?;
                let back = SocketAddr::new(from.ip(), PORT);
                is_silent(server.probe(), Target::tcp(back).from(host(to)))?;
            }
        }
    }
    topology.control_plane.delete("NetworkPolicy", "default", "only-good")?;
    becomes_answered(bad.probe(), Target::tcp(at(&server_net1, PORT)?[1]))?;
    topology.close()
}

#[test]
fn the_default_route_is_given_to_who_asks_for_it_and_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    serve(&[&pod, &near, &far])?;
    let peers = [&*near, &*far];
    let eth0 = Attached::new(&topology, &pod, "eth0");

    let net1 = Attached::new(&topology, &pod, "net1").configured(&json!({ "defaultRoute": true }));
    let result = net1.add()?;
    for (family, v6) in FAMILIES.into_iter().zip([0, 1]) {
        assert_eq!(defaults(&pod, family)?, ["net1", "eth0"], "{}", routing(&pod)?);
        let unbound = answer(pod.probe(), Target::tcp(far.at(PORT)[v6]))?;
        assert_eq!(unbound.saw.ip(), at(&result, 0)?[v6].ip());
    }
    eth0.check(pod.cni_result())?;
    net1.check(&result)?;
    works(&topology, &pod, &peers, pod.at(PORT))?;
    works(&topology, &pod, &peers, at(&result, PORT)?)?;
    net1.del()?;
    for family in FAMILIES {
        assert_eq!(defaults(&pod, family)?, ["eth0"]);
    }
    works(&topology, &pod, &peers, pod.at(PORT))?;

    // Multus' `default-route`: it takes the first interface's away, and expects the next plugin to set its own.
    for family in FAMILIES {
        ip(&pod, &[family, "route", "del", "default", "dev", "eth0"])?;
    }
    let net1 = Attached::new(&topology, &pod, "net1");
    let result = net1.add()?;
    for family in FAMILIES {
        assert_eq!(defaults(&pod, family)?, ["net1"]);
    }
    works(&topology, &pod, &peers, pod.at(PORT))?;
    works(&topology, &pod, &peers, at(&result, PORT)?)?;
    topology.close()
}
