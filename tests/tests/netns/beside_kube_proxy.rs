//! A node whose services move from kube-proxy to Millrace and back while they are used. Rules of nftables stand in for
//! kube-proxy: they translate as its own do, and like its own they drop what conntrack calls invalid.
use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::Probe,
        wire::{LoadPlan, LoadReport, Target},
    },
    topology::{AgentOptions, Node, Options, Pod, Topology},
};
use serde_json::json;

use crate::{
    expect::{SHORT, TRANSPORTS, becomes_answered, is_silent, target},
    firewall::nft,
};

const PORT: u16 = 80;

struct Stage {
    topology: Topology,
    clients: Vec<Arc<Pod>>,
    servers: Vec<Arc<Pod>>,
    frontends: [SocketAddr; 2],
}

impl Stage {
    /// Servers and clients on both nodes; one client has a policy for its egress. kube-proxy has the services.
    fn build() -> Result<Self> {
        let topology = Topology::build(&Options::default())?;
        for node in topology.nodes() {
            let arguments = ["--services", "kube-proxy"].map(str::to_owned).to_vec();
            node.spawn_agent(&AgentOptions { arguments, ..AgentOptions::default() })?;
        }
        topology.nodes().iter().try_for_each(Node::await_agent)?;
        let pod = |name: &str, app: &str, node| -> Result<Arc<Pod>> {
            topology.add_pod(PodSpec::new("default", name).label("app", app).on(node))
        };
        let servers = vec![pod("server-0", "server", 0)?, pod("server-1", "server", 1)?];
        for server in &servers {
            TRANSPORTS.iter().try_for_each(|transport| server.probe().listen(*transport, PORT))?;
        }
        let clients =
            vec![pod("client-0", "client", 0)?, pod("client-1", "client", 1)?, pod("strict", "strict", 0)?];
        topology.control_plane.apply(&json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "namespace": "default", "name": "strict" },
            "spec": {
                "podSelector": { "matchLabels": { "app": "strict" } },
                "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "server" } } }] }],
            },
        }))?;
        let service = ServiceSpec::new("default", "server").select("app", "server");
        let service = service.port(Protocol::Tcp, PORT, PORT).port(Protocol::Udp, PORT, PORT);
        let ips = topology.control_plane.apply_service(&service)?;
        topology.settle()?;
        let frontends = ips.both().map(|ip| SocketAddr::new(ip, PORT));
        let stage = Self { topology, clients, servers, frontends };
        stage.translated_by("kube-proxy")?;
        stage.start_kube_proxy()?;
        Ok(stage)
    }

    fn start_kube_proxy(&self) -> Result<()> {
        let mut rules = String::from(
            "table inet kube_proxy {\n\
             chain pods { type nat hook prerouting priority -100; jump services; }\n\
             chain host { type nat hook output priority -100; jump services; }\n\
             chain forward { type filter hook forward priority 0; ct state invalid counter drop; }\n\
             chain services {\n",
        );
        for frontend in self.frontends {
            let family = if frontend.is_ipv4() { "ip" } else { "ip6" };
            let [first, second] = [0, 1].map(|index: usize| self.servers[index].ip(frontend.is_ipv6()));
            for protocol in ["tcp", "udp"] {
                let _infallible = writeln!(
                    rules,
                    "{family} daddr {} {protocol} dport {PORT} dnat {family} to numgen random mod 2 map {{ 0 : {first}, 1 : \
                     {second} }}",
                    frontend.ip()
                );
            }
        }
        rules += "}\n}\n";
        self.topology.nodes().iter().try_for_each(|node| nft(node, &rules))
    }

    fn stop_kube_proxy(&self) -> Result<()> {
        self.topology.nodes().iter().try_for_each(|node| nft(node, "delete table inet kube_proxy\n"))
    }

    /// Labels the nodes and waits until their agents have followed.
    fn leave_services_to(&self, who: &str) -> Result<()> {
        for node in self.topology.nodes() {
            self.topology.control_plane.label_node(node.spec(), &[("millrace.io/services", who)])?;
        }
        self.translated_by(who)
    }

    fn translated_by(&self, who: &str) -> Result<()> {
        for node in self.topology.nodes() {
            eventually(format!("{who} translates on {}", node.spec().name), PATIENCE, || {
                let status = node.status()?;
                if status.services_by == who {
                    Ok(())
                } else {
                    bail!("it is {}: {:?}", status.services_by, status.problems)
                }
            })?;
        }
        Ok(())
    }

    /// Old and new connections to the service, over both transports and both families, from pods and hosts.
    fn begin_load(&self) -> Result<()> {
        let targets: Vec<Target> = TRANSPORTS
            .iter()
            .flat_map(|transport| self.frontends.map(|frontend| target(*transport, frontend)))
            .collect();
        for client in self.probes() {
            client.start_load(&LoadPlan {
                long_lived: targets.clone(),
                fresh: targets.clone(),
                forbidden: Vec::new(),
                interval: Duration::from_millis(20),
                timeout: Duration::from_secs(2),
            })?;
        }
        self.goes_on()
    }

    /// Every client is answered a few more times.
    fn goes_on(&self) -> Result<()> {
        for client in self.probes() {
            let before = client.load_so_far()?;
            eventually(format!("{} goes on", client.name()), PATIENCE, || {
                let now = client.load_so_far()?;
                let more = |now: u64, before: u64| now >= before + 20;
                if more(now.answered_fresh, before.answered_fresh)
                    && more(now.answered_long_lived, before.answered_long_lived)
                {
                    return Ok(());
                }
                bail!("{now:?}, before {before:?}")
            })?;
        }
        Ok(())
    }

    /// Ends the load, in which nothing may have failed, but for what decision 33 names: a new UDP socket that got, by
    /// chance, the port of one that asked the same service shortly before, and was translated elsewhere.
    fn end_load(&self, what: &str) -> Result<()> {
        self.goes_on()?;
        let mut total = LoadReport::default();
        for client in self.probes() {
            total.add(&client.stop_load()?);
        }
        println!("{what}: {total:?}");
        assert!(total.has_lost_nothing_but_by_chance(), "{what}: {total:?}");
        Ok(())
    }

    fn probes(&self) -> impl Iterator<Item = &Probe> {
        let hosts = self.topology.nodes().iter().map(Node::host);
        self.clients.iter().map(|client| client.probe()).chain(hosts)
    }
}

#[test]
fn services_move_from_kube_proxy_to_millrace_and_back_without_a_lost_connection() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;

    stage.begin_load()?;
    stage.leave_services_to("both")?;
    stage.end_load("kube-proxy to both")?;

    stage.begin_load()?;
    stage.stop_kube_proxy()?;
    stage.goes_on()?;
    stage.leave_services_to("millrace")?;
    stage.end_load("both to millrace")?;

    stage.begin_load()?;
    stage.leave_services_to("both")?;
    stage.start_kube_proxy()?;
    stage.goes_on()?;
    stage.leave_services_to("kube-proxy")?;
    stage.end_load("millrace to kube-proxy")?;
    stage.topology.close()
}

#[test]
fn kube_proxy_translates_but_for_pods_with_policies() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let strict = stage.clients[2].probe();
    let outsider = stage.clients[0].at(PORT);
    for transport in TRANSPORTS {
        stage.clients[0].probe().listen(transport, PORT)?;
        for frontend in stage.frontends {
            for client in stage.probes() {
                becomes_answered(client, target(transport, frontend))?;
            }
        }
        for to in outsider {
            is_silent(strict, target(transport, to))?;
        }
    }
    // Without kube-proxy nobody translates for pods without policies: it was kube-proxy that did.
    stage.stop_kube_proxy()?;
    for frontend in stage.frontends {
        let outcome = stage.clients[0].probe().probe_one(Target::tcp(frontend), SHORT)?;
        assert!(!outcome.is_answered(), "{outcome}");
        becomes_answered(strict, Target::tcp(frontend))?;
    }

    // A restarted agent keeps to what the label said, before it has read the label again.
    stage.start_kube_proxy()?;
    stage.leave_services_to("both")?;
    let node = stage.topology.node(0);
    node.kill_agent()?;
    node.start_agent()?;
    assert_eq!(node.status()?.services_by, "both");
    assert!(
        !node
            .log()
            .lines()
            .rev()
            .take_while(|line| !line.contains("on node"))
            .any(|line| line.contains("from now on"))
    );
    stage.topology.close()
}
