//! Pods under a load in which every failure counts: what tests look at while they break something else.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, ready::is_ready_pod},
    probe::{
        client::Probe,
        wire::{LoadPlan, LoadReport, Target},
    },
};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::shared::PATIENCE;

const PORT: u16 = 80;

/// How often each worker of a load asks. Hundreds of requests a second in all, which leaves the machine to the cluster.
const INTERVAL: Duration = Duration::from_millis(50);

/// A request without an answer for so long is lost.
const TIMEOUT: Duration = Duration::from_secs(3);

/// On each node a server behind a Service, a server that only clients may reach, a client and a stranger.
const OBJECTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: stage}
spec:
  selector: {stage: server}
  ports: [{name: tcp, port: 80, protocol: TCP}, {name: udp, port: 80, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: stage-guarded}
spec:
  selector: {stage: guarded}
  ports: [{name: tcp, port: 80, protocol: TCP}, {name: udp, port: 80, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: stage-guarded}
spec:
  podSelector: {matchLabels: {stage: guarded}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {stage: client}}}]}]
";

const DAEMON_SET: &str = r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: stage-ROLE}
spec:
  selector: {matchLabels: {stage: ROLE}}
  template:
    metadata: {labels: {stage: ROLE}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: workload
        image: localhost/millrace/workload:test
        imagePullPolicy: Never
        args: [serve, --tcp=80, --udp=80, --http=8080]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 5}
";

const ROLES: [&str; 4] = ["server", "guarded", "client", "stranger"];

/// The pods, and who asks whom.
pub(crate) struct Stage {
    clients: Vec<Probe>,
    strangers: Vec<Probe>,
    allowed: Vec<Target>,
    forbidden: Vec<Target>,
    /// Where the clients ask from.
    sources: Vec<IpAddr>,
    /// Services move to another translator meanwhile.
    moves: bool,
}

impl Stage {
    /// Pods on every node; clients ask the services and the guarded pods of all nodes.
    pub(crate) fn set(cluster: &Cluster) -> Result<Self> {
        prepare(cluster)?;
        let mut stage = Self::on(cluster, |_| true)?;
        for name in ["stage", "stage-guarded"] {
            let service = service(cluster, name)?;
            stage.allowed.extend(both(service));
            if name == "stage-guarded" {
                stage.forbidden.extend(both(service));
            }
        }
        Ok(stage)
    }

    /// The same, for services that move to another translator meanwhile.
    pub(crate) fn set_for_a_move(cluster: &Cluster) -> Result<Self> {
        Ok(Self { moves: true, ..Self::set(cluster)? })
    }

    /// The pods of one node alone: no other node is needed for what they do.
    pub(crate) fn set_on(cluster: &Cluster, node: &str) -> Result<Self> {
        prepare(cluster)?;
        Self::on(cluster, |of| of == node)
    }

    fn on(cluster: &Cluster, chosen: impl Fn(&str) -> bool) -> Result<Self> {
        let mut stage = Self {
            clients: Vec::new(),
            strangers: Vec::new(),
            allowed: Vec::new(),
            forbidden: Vec::new(),
            sources: Vec::new(),
            moves: false,
        };
        for role in ROLES {
            for (node, pod) in pods(cluster, role)?.iter().filter(|(node, _)| chosen(node)) {
                let to = address(pod).with_context(|| format!("the {role} of {node} has no address"))?;
                match role {
                    "client" => {
                        stage.clients.push(cluster.probe(pod)?);
                        stage.sources.push(to);
                    }
                    "stranger" => stage.strangers.push(cluster.probe(pod)?),
                    "guarded" => {
                        stage.allowed.extend(both(to));
                        stage.forbidden.extend(both(to));
                    }
                    _ => stage.allowed.extend(both(to)),
                }
            }
        }
        Ok(stage)
    }

    /// Every client asks by old and new connections, every stranger tries what it may not.
    pub(crate) fn begin(&self) -> Result<()> {
        for client in &self.clients {
            // A service that is new takes its time.
            for target in &self.allowed {
                eventually(format!("{} reaches {}", client.name(), target.to), PATIENCE, || {
                    let outcome = client.probe_one(*target, TIMEOUT)?;
                    ensure!(outcome.is_answered(), "{outcome}");
                    Ok(())
                })?;
            }
        }
        let plan = |allowed: &[Target], forbidden: &[Target]| LoadPlan {
            long_lived: allowed.to_vec(),
            fresh: allowed.to_vec(),
            forbidden: forbidden.to_vec(),
            interval: INTERVAL,
            timeout: TIMEOUT,
        };
        self.clients.iter().try_for_each(|client| client.start_load(&plan(&self.allowed, &[])))?;
        self.strangers.iter().try_for_each(|stranger| stranger.start_load(&plan(&[], &self.forbidden)))?;
        self.goes_on()
    }

    /// The addresses of the clients.
    pub(crate) fn sources(&self) -> &[IpAddr] {
        &self.sources
    }

    /// Everybody asks a few more times, and nothing has failed so far.
    pub(crate) fn goes_on(&self) -> Result<()> {
        const MORE: u64 = 50;
        for probe in self.clients.iter().chain(&self.strangers) {
            let before = probe.load_so_far()?;
            eventually(format!("{} goes on", probe.name()), PATIENCE, || {
                let now = probe.load_so_far()?;
                let fresh = now.answered_fresh >= before.answered_fresh + MORE;
                let long_lived = now.answered_long_lived >= before.answered_long_lived + MORE;
                if (fresh && long_lived) || now.denied >= before.denied + MORE {
                    return Ok(());
                }
                bail!("{now:?}, before {before:?}")
            })?;
            let now = probe.load_so_far()?;
            let lost = now.lost - if self.moves { now.by_chance() } else { 0 };
            ensure!((lost, now.reset, now.breaches) == (0, 0, 0), "{}: {now:#?}", probe.name());
        }
        Ok(())
    }

    /// Ends the load, in which nothing may have failed and nothing forbidden have passed.
    pub(crate) fn end(self, what: &str) -> Result<LoadReport> {
        self.goes_on()?;
        let mut total = LoadReport::default();
        for probe in self.clients.iter().chain(&self.strangers) {
            total.add(&probe.stop_load()?);
        }
        println!(
            "{what}: {} requests on old and {} on new connections answered, slowest {:?}; {} lost, {} reset; {} forbidden \
             ones denied, {} passed",
            total.answered_long_lived,
            total.answered_fresh,
            total.slowest,
            total.lost,
            total.reset,
            total.denied,
            total.breaches
        );
        let is_well = if self.moves { total.has_lost_nothing_but_by_chance() } else { total.lost == 0 };
        assert!(is_well && (total.reset, total.breaches) == (0, 0), "{what}: {:#?}", total.failures);
        assert!(total.denied > 0, "{what}: nobody tried what is forbidden");
        Ok(total)
    }
}

/// Makes the objects, and waits until the pods run on every node.
fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.api().apply_yaml(OBJECTS)?;
    for role in ROLES {
        cluster.api().apply_yaml(&DAEMON_SET.replace("ROLE", role))?;
    }
    for role in ROLES {
        eventually(format!("every node has a {role}"), PATIENCE, || {
            let pods = pods(cluster, role)?;
            ensure!(pods.len() == cluster.nodes().len(), "on {:?}", pods.keys());
            let unready: Vec<_> =
                pods.iter().filter(|(_, pod)| !is_ready_pod(pod)).map(|(node, _)| node).collect();
            ensure!(unready.is_empty(), "not ready on {unready:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The pods of a role, by the name of their node.
pub(crate) fn pods(cluster: &Cluster, role: &str) -> Result<BTreeMap<String, Pod>> {
    let pods = cluster.api().namespaced::<Pod>("default").list(&format!("stage={role}"))?;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Ok(pods.into_iter().filter_map(|pod| Some((node(&pod)?, pod))).collect())
}

/// A pod's first address.
pub(crate) fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// The cluster IP of a service.
pub(crate) fn service(cluster: &Cluster, name: &str) -> Result<IpAddr> {
    let spec = cluster.api().namespaced::<Service>("default").get(name)?.spec.unwrap_or_default();
    let address = spec.cluster_ip.with_context(|| format!("service {name} has no address"))?;
    address.parse().with_context(|| format!("service {name}: {address}"))
}

fn both(to: IpAddr) -> [Target; 2] {
    let to = SocketAddr::new(to, PORT);
    [Target::tcp(to), Target::udp(to)]
}
