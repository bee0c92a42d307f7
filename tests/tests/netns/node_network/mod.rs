//! The node's network changes under the agent: whatever is lost is put back, and what cannot be is said.
mod unheard;

use std::{net::IpAddr, process::Command, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    machine::netns::Netns,
    probe::client::Probe,
    topology::{Node, Options, Pod, Topology},
};

use crate::{
    expect::{SHORT, TRANSPORTS, target},
    firewall::start_firewall,
};

const PORT: u16 = 80;
const UPLINK: &str = "eth0";

/// A pod on each of two nodes, which answer each other.
struct Stage {
    topology: Topology,
    near: Arc<Pod>,
    far: Arc<Pod>,
}

impl Stage {
    fn build() -> Result<Self> {
        Self::of(Topology::start()?)
    }

    fn of(topology: Topology) -> Result<Self> {
        let near = topology.add_pod(PodSpec::new("default", "near"))?;
        let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
        for pod in [&near, &far] {
            TRANSPORTS.iter().try_for_each(|transport| pod.probe().listen(*transport, PORT))?;
        }
        topology.settle()?;
        Ok(Self { topology, near, far })
    }

    fn node(&self) -> &Node {
        self.topology.node(0)
    }

    fn netns(&self) -> &Netns {
        self.node().netns()
    }

    /// Waits until the agent looks at nothing for the sake of new pods: until then it leaves their ways to the plugin.
    fn grow_up(&self) -> Result<()> {
        let (ip, ifname) = (self.near.ip(false), host_side(&self.near)?);
        self.netns().ip(&format!("route del {ip} dev {ifname}\n"))?;
        self.flows_again("the pod grew up")
    }

    /// Pods and hosts of both nodes reach each other, within a deadline. Says how long it took.
    fn flows_again(&self, after: &str) -> Result<()> {
        let begun = Instant::now();
        eventually(format!("traffic flows after {after}"), PATIENCE, || self.flows())?;
        println!("{after}: traffic flows after {:?}", begun.elapsed());
        Ok(())
    }

    fn flows(&self) -> Result<()> {
        let (host, far_host) = (self.node().host(), self.topology.node(1).host());
        self.pods_reach_each_other()?;
        answer_each(&[(host, &self.far), (far_host, &self.near), (host, &self.near)])
    }

    fn pods_reach_each_other(&self) -> Result<()> {
        answer_each(&[(self.near.probe(), &self.far), (self.far.probe(), &self.near)])
    }

    /// The node says that it cannot be used, and names the cause.
    fn is_unready(&self, cause: &str) -> Result<()> {
        eventually(format!("the node is not ready for {cause}"), PATIENCE, || {
            let unmet = self.node().health()?.unmet;
            ensure!(unmet.iter().any(|sentence| sentence.contains(cause)), "{unmet:?}");
            let problems = self.node().status()?.problems;
            ensure!(problems.iter().any(|problem| problem.contains(cause)), "{problems:?}");
            Ok(())
        })
    }

    fn is_ready(&self) -> Result<()> {
        eventually("the node is ready and has no problem", PATIENCE, || {
            let unmet = self.node().health()?.unmet;
            ensure!(unmet.is_empty(), "{unmet:?}");
            let problems = self.node().status()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
            Ok(())
        })
    }

    /// The address of the other node, of the family of one of its pod CIDRs.
    fn far_address(&self, v6: bool) -> IpAddr {
        let spec = self.topology.node(1).spec();
        if v6 { spec.v6.into() } else { spec.v4.into() }
    }

    fn far_cidrs(&self) -> [&str; 2] {
        let [v4, v6] = &self.topology.node(1).spec().pod_cidrs;
        [v4, v6]
    }

    /// Gives the uplink the addresses and the default routes of the node, as whoever manages it does.
    fn configure_uplink(&self) -> Result<()> {
        let spec = self.node().spec();
        self.netns().ip(&format!(
            "addr replace {}/24 dev {UPLINK}\n\
             addr replace {}/64 dev {UPLINK} nodad\n\
             route replace default via 192.168.77.1\n\
             route replace default via fd00:77::1\n",
            spec.v4, spec.v6
        ))
    }
}

fn answer_each(ways: &[(&Probe, &Arc<Pod>)]) -> Result<()> {
    for (client, server) in ways {
        for to in server.at(PORT) {
            for transport in TRANSPORTS {
                let outcome = client.probe_one(target(transport, to), SHORT)?;
                ensure!(outcome.is_answered(), "{} to {to}: {outcome}", client.name());
            }
        }
    }
    Ok(())
}

/// What `ip` shows on a node.
fn shown(netns: &Netns, arguments: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(["-n", netns.name()])
        .args(arguments.split(' '))
        .output()
        .context("run ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The host side of a pod's pair.
fn host_side(pod: &Pod) -> Result<String> {
    Ok(pod.cni_result()["interfaces"][0]["name"].as_str().context("the host's side of the pair")?.to_owned())
}

const fn option(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "-6" } else { "-4" }
}

#[test]
fn an_uplink_that_goes_down_is_named_and_everything_is_back_when_it_comes_up() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.flows_again("the start")?;
    stage.is_ready()?;
    stage.netns().ip(&format!("link set {UPLINK} down\n"))?;
    stage.is_unready("eth0 is down")?;
    stage.netns().ip(&format!("link set {UPLINK} up\n"))?;
    stage.configure_uplink()?;
    stage.flows_again("the uplink went down and up")?;
    stage.is_ready()?;
    // Its cable.
    let port = stage.node().spec().name.clone();
    stage.topology.fabric().netns().ip(&format!("link set {port} down\n"))?;
    stage.is_unready("eth0 has no carrier")?;
    stage.topology.fabric().netns().ip(&format!("link set {port} up\n"))?;
    stage.flows_again("the uplink lost its carrier")?;
    stage.is_ready()?;
    stage.topology.close()
}

#[test]
fn an_uplink_that_is_made_again_has_its_programs_and_its_routes() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.flows_again("the start")?;
    let port = stage.node().spec().name.clone();
    // Peers keep an IPv6 neighbour for tens of seconds whatever happens to it: the new interface has the same address.
    let link = shown(stage.netns(), &format!("-o link show {UPLINK}"))?;
    let mac =
        link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("an address")?;
    stage.netns().ip(&format!("link del {UPLINK}\n"))?;
    stage.is_unready("there is no interface eth0")?;
    stage.topology.fabric().netns().ip(&format!(
        "link add {port} type veth peer name {UPLINK} address {} netns {}\n\
         link set {port} master switch\n\
         link set {port} up\n",
        mac,
        stage.netns().name()
    ))?;
    stage.netns().ip(&format!("link set {UPLINK} up\n"))?;
    stage.configure_uplink()?;
    // Past the host's stack, by the programs, in both directions.
    start_firewall(stage.node(), "chain forward { type filter hook forward priority 0; policy drop; }")?;
    let begun = Instant::now();
    eventually("pods reach each other by the programs", PATIENCE, || stage.pods_reach_each_other())?;
    println!("the uplink was made again: pods reach each other by the programs after {:?}", begun.elapsed());
    start_firewall(stage.node(), "")?;
    stage.flows_again("the firewall went")?;
    stage.is_ready()?;
    stage.topology.close()
}

#[test]
fn the_way_of_the_host_to_a_pod_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let ifname = host_side(&stage.near)?;
    let netns = stage.netns();
    for ip in stage.near.ips() {
        let family = option(*ip);
        let attacks = [
            format!("route del {ip} dev {ifname}\n"),
            format!("route replace {ip} dev {UPLINK}\n"),
            format!("neigh del {ip} dev {ifname}\n"),
            format!("neigh replace {ip} lladdr 02:00:00:00:00:66 dev {ifname} nud permanent\n"),
            format!("link set {ifname} down\n"),
            format!("link set {ifname} down\nlink set {ifname} up\n"),
        ];
        for attack in attacks {
            netns.ip(&attack)?;
            stage.flows_again(&attack.trim_end().replace('\n', ", "))?;
            let route = shown(netns, &format!("{family} route get {ip}"))?;
            ensure!(route.contains(&ifname), "{attack}: {route}");
            let neighbour = shown(netns, &format!("{family} neigh show {ip} dev {ifname}"))?;
            ensure!(
                neighbour.contains("PERMANENT") && !neighbour.contains("66"),
                "after {attack}: {neighbour}"
            );
        }
    }
    ensure!(stage.node().log().contains("put right"), "the log tells nothing");
    stage.is_ready()?;
    stage.topology.close()
}

#[test]
fn a_route_of_another_owner_that_comes_before_a_pods_is_named() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let ip = stage.near.ip(true);
    stage.netns().ip(&format!("route add {ip} dev {UPLINK} metric 5\n"))?;
    stage.is_unready(&format!("another route to {ip}, of metric 5"))?;
    stage.netns().ip(&format!("route del {ip} dev {UPLINK} metric 5\n"))?;
    stage.flows_again("the other route went")?;
    stage.is_ready()?;
    stage.topology.close()
}

#[test]
fn routes_to_other_nodes_are_put_back_and_those_of_others_are_named() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.flows_again("the start")?;
    let netns = stage.netns();
    for cidr in stage.far_cidrs() {
        let v6 = cidr.contains("::");
        let (family, node) = (if v6 { "-6" } else { "-4" }, stage.far_address(v6));
        let direct = || -> Result<()> {
            eventually(format!("{cidr} leads to its node"), PATIENCE, || {
                let route = shown(netns, &format!("{family} route show {cidr}"))?;
                ensure!(route.contains(&format!("via {node} ")), "{route}");
                Ok(())
            })
        };
        let begun = Instant::now();
        netns.ip(&format!("route del {cidr}\n"))?;
        direct()?;
        println!("{cidr} was deleted: it is back after {:?}", begun.elapsed());
        stage.flows_again("the route was deleted")?;
        // By somebody who knows the way: packets follow, and it is said.
        let router = if v6 { "fd00:77::1" } else { "192.168.77.1" };
        netns.ip(&format!("route replace {cidr} via {router}\n"))?;
        eventually("the foreign route is named", PATIENCE, || {
            let problems = stage.node().status()?.problems;
            ensure!(problems.iter().any(|problem| problem.contains(cidr)), "{problems:?}");
            Ok(())
        })?;
        stage.flows_again("the route was replaced")?;
        netns.ip(&format!("route del {cidr} via {router}\n"))?;
        direct()?;
        stage.flows_again("the foreign route went")?;
        stage.is_ready()?;
        // By somebody who leads packets nowhere.
        netns.ip(&format!("route del {cidr}\nroute add blackhole {cidr}\n"))?;
        stage.is_unready(&format!("leads the pods in {cidr} nowhere"))?;
        netns.ip(&format!("route del blackhole {cidr}\n"))?;
        direct()?;
        stage.flows_again("the black hole went")?;
        stage.is_ready()?;
    }
    // What keeps packets to addresses that no pod has from leaving.
    for cidr in &stage.node().spec().pod_cidrs {
        netns.ip(&format!("route del unreachable {cidr}\n"))?;
        eventually("the route to nobody is back", PATIENCE, || {
            let family = if cidr.contains("::") { "-6" } else { "-4" };
            let routes = shown(netns, &format!("{family} route show type unreachable {cidr}"))?;
            ensure!(routes.contains("unreachable"), "{routes:?}");
            Ok(())
        })?;
    }
    stage.topology.close()
}

#[test]
fn a_node_that_no_other_node_can_be_reached_from_is_not_ready_until_a_route_is_there() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { apart: true, ..Options::default() })?;
    let routers: [IpAddr; 2] = ["192.168.77.1".parse()?, "fd00:77::1".parse()?];
    for router in routers {
        topology.node(0).netns().ip(&format!("route del default via {router}\n"))?;
    }
    topology.start_agents()?;
    let stage = Stage::of(topology)?;
    for family in ["IPv4", "IPv6"] {
        stage.is_unready(&format!("no route leads to any other node's pods of {family}"))?;
    }
    for router in routers {
        stage.netns().ip(&format!("route add default via {router}\n"))?;
    }
    stage.flows_again("there are default routes")?;
    stage.is_ready()?;
    stage.topology.close()
}

#[test]
fn a_route_whose_next_hop_comes_into_reach_later_is_set_then() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    // The network of the nodes is too narrow to hold the other one.
    let spec = topology.node(0).spec().clone();
    let narrow = format!(
        "addr del {v4}/24 dev {UPLINK}\n\
         addr add {v4}/32 dev {UPLINK}\n\
         addr del {v6}/64 dev {UPLINK}\n\
         addr add {v6}/128 dev {UPLINK} nodad\n",
        v4 = spec.v4,
        v6 = spec.v6
    );
    topology.node(0).netns().ip(&narrow)?;
    topology.start_agents()?;
    let stage = Stage::of(topology)?;
    stage.is_unready("no route leads to any other node's pods")?;
    stage.netns().ip(&format!(
        "addr add {v4}/24 dev {UPLINK}\n\
         addr del {v6}/128 dev {UPLINK}\n\
         addr add {v6}/64 dev {UPLINK} nodad\n",
        v4 = spec.v4,
        v6 = spec.v6
    ))?;
    stage.flows_again("the other node is on the link")?;
    stage.is_ready()?;
    stage.topology.close()
}
