//! Servers come and go under load, and no request is lost: a rolling update, scaling, the drain of a node.
use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::api::Objects,
    probe::{
        client::{HeldConnection, Probe},
        wire::{LoadPlan, LoadReport, Outcome, Target},
    },
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1 as core};
use serde_json::json;

use crate::{
    ground::{ANSWER, Ground, becomes, pod, tcp, tell, udp},
    shared::{PATIENCE, millrace},
};

/// Servers as their users have them: ready before they are asked, and serving for a while after they were told to end,
/// until everybody knows. A pod beside them stays, and connections to it with it.
const SERVERS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 4
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server, behind: service, scene: SCENE}}
    spec:
      terminationGracePeriodSeconds: 30
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        nodeTaintsPolicy: Honor
        labelSelector: {matchLabels: {app: server}}
      containers:
      - name: server
        image: localhost/millrace/workload:test
        imagePullPolicy: Never
        args: [serve, --tcp=8000, --udp=8000, --http=8080, --drain=2]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
        lifecycle: {preStop: {sleep: {seconds: 4}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: server}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: server}}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {behind: service}
  ports:
  - {name: tcp, port: 80, targetPort: 8000}
  - {name: udp, port: 80, targetPort: 8000, protocol: UDP}
---
";

/// How often each client opens a connection of each kind.
const INTERVAL: Duration = Duration::from_millis(20);

/// Servers, a lasting one, and clients: a pod on one node, and the other node itself.
struct Scene {
    ground: Ground,
    clients: Vec<Probe>,
    /// Hold connections while the others make new ones.
    holders: Vec<Probe>,
    targets: Vec<Target>,
}

impl Scene {
    fn new(name: &str) -> Result<Self> {
        let ground = Ground::new(millrace(), name)?;
        let lasting =
            pod("lasting", "node-1", "app: lasting, behind: service", "serve, --tcp=8000, --udp=8000");
        ground.apply(
            &[SERVERS.replace("SCENE", name), lasting, pod("client", "node-1", "app: client", "serve")]
                .concat(),
        )?;
        ground.cluster().wait_for_deployment(name, "server")?;
        ground.wait_for_pod("lasting")?;
        let probes = || -> Result<Vec<Probe>> {
            let node = ground.cluster().node("node-2")?;
            Ok(vec![ground.probe("client")?, ground.cluster().probe_on_node(node)?])
        };
        let (clients, holders) = (probes()?, probes()?);
        let addresses = ground.service_addresses("server")?;
        let targets = [tcp(&addresses, 80), udp(&addresses, 80)].concat();
        ensure!(targets.len() == 4, "not of both families: {addresses:?}");
        for client in &clients {
            becomes(client, &targets, ANSWER, Outcome::is_answered)?;
        }
        Ok(Self { ground, clients, holders, targets })
    }

    /// Runs something under load. Not one request may fail, and connections to the pod that stays must live on.
    fn under_load(&self, what: &str, run: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let held = self.holders.iter().map(|holder| self.hold(holder)).collect::<Result<Vec<_>>>()?;
        let plan = LoadPlan {
            long_lived: Vec::new(),
            fresh: self.targets.clone(),
            forbidden: Vec::new(),
            interval: INTERVAL,
            timeout: ANSWER,
        };
        for client in &self.clients {
            client.start_load(&plan)?;
        }
        let result = run(self);
        let mut total = LoadReport::default();
        for client in &self.clients {
            let report = client.stop_load()?;
            ensure!(report.answered_fresh > 100, "{} asked too little to tell: {report:?}", client.name());
            total.add(&report);
        }
        let LoadReport { answered_fresh, lost, reset, slowest, .. } = total;
        tell(&format!(
            "{what}: {answered_fresh} requests answered, {lost} lost, {reset} refused or reset, the slowest {} ms",
            slowest.as_millis()
        ));
        result?;
        ensure!(lost == 0 && reset == 0, "{what}: {total:?}");
        for connection in &held {
            let outcome = connection.exchange(ANSWER)?;
            ensure!(outcome.by() == Some("lasting"), "a connection to a pod that stayed: {outcome}");
        }
        Ok(())
    }

    /// A connection through the Service to the pod that stays.
    fn hold<'a>(&self, holder: &'a Probe) -> Result<HeldConnection<'a>> {
        eventually(format!("{} is led to the pod that stays", holder.name()), PATIENCE, || {
            let (connection, outcome) = holder.open(self.targets[0], ANSWER)?;
            ensure!(outcome.by() == Some("lasting"), "{outcome}");
            Ok(connection)
        })
    }

    fn deployments(&self) -> Objects<'_, Deployment> {
        self.ground.objects()
    }

    /// Name and node of the server pods.
    fn servers(&self) -> Result<BTreeSet<(String, String)>> {
        let pods = self.ground.objects::<core::Pod>().list("app=server")?;
        let place = |pod: core::Pod| {
            (
                pod.metadata.name.unwrap_or_default(),
                pod.spec.unwrap_or_default().node_name.unwrap_or_default(),
            )
        };
        Ok(pods.into_iter().map(place).collect())
    }

    /// Waits until the Deployment is as it shall be, and those that go are gone.
    fn settle(&self, replicas: usize) -> Result<()> {
        self.ground.cluster().wait_for_deployment(self.ground.name(), "server")?;
        eventually("those that go are gone", PATIENCE, || {
            let servers = self.servers()?;
            ensure!(servers.len() == replicas, "{servers:?}");
            Ok(())
        })
    }

    /// Waits until requests are spread over so many servers, the lasting one included.
    fn wait_for_spread(&self, servers: usize) -> Result<()> {
        for client in &self.holders {
            let mut seen = BTreeSet::new();
            eventually(format!("{} reaches {servers} servers", client.name()), PATIENCE, || {
                let outcomes = client.probe(&vec![self.targets[0]; 20], ANSWER)?;
                seen.extend(outcomes.iter().filter_map(|outcome| outcome.by().map(String::from)));
                ensure!(seen.len() >= servers, "so far: {seen:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

#[test]
fn a_rolling_update_loses_no_request() -> Result<()> {
    let scene = Scene::new("rolling-update")?;
    let before = scene.servers()?;
    scene.under_load("rolling update of 4 servers", |scene| {
        let change = json!({ "spec": { "template": { "metadata": { "annotations": { "version": "2" } } } } });
        scene.deployments().patch("server", &change)?;
        scene.settle(4)
    })?;
    let after = scene.servers()?;
    ensure!(before.is_disjoint(&after), "these were not replaced: {before:?} {after:?}");
    Ok(())
}

#[test]
fn scaling_up_and_down_loses_no_request() -> Result<()> {
    let scene = Scene::new("scaling")?;
    let scale = |replicas: usize| -> Result<()> {
        scene.deployments().patch("server", &json!({ "spec": { "replicas": replicas } })).map(drop)
    };
    scale(2)?;
    scene.settle(2)?;
    scene.under_load("scaling 2, 20, 2", |scene| {
        scale(20)?;
        scene.settle(20)?;
        scene.wait_for_spread(21)?;
        scale(2)?;
        scene.settle(2)
    })
}

/// A node that takes new pods again when this is dropped.
struct Cordoned(&'static str);

impl Drop for Cordoned {
    fn drop(&mut self) {
        let uncordon = millrace().kubectl().map(|mut kubectl| kubectl.args(["uncordon", self.0]).output());
        if let Err(error) = uncordon {
            eprintln!("uncordon {}: {error:#}", self.0);
        }
    }
}

#[test]
fn the_drain_of_a_node_loses_no_request() -> Result<()> {
    const DRAINED: &str = "node-2";
    let scene = Scene::new("drain")?;
    let on = |servers: &BTreeSet<(String, String)>, node: &str| {
        servers.iter().filter(|(_, on)| on == node).count()
    };
    ensure!(on(&scene.servers()?, DRAINED) == 2, "the servers are spread: {:?}", scene.servers()?);
    let _cordoned = Cordoned(DRAINED);
    scene.under_load("drain of a node with 2 of 4 servers", |scene| {
        // Evicts as the budget allows, and waits until they are gone. Pods of other tests stay.
        let mut kubectl = scene.ground.cluster().kubectl()?;
        kubectl.args(["drain", DRAINED, "--timeout=110s"]);
        kubectl.arg(format!("--pod-selector=app=server,scene={}", scene.ground.name()));
        let output = kubectl.output().context("run kubectl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        scene.settle(4)
    })?;
    let after = scene.servers()?;
    ensure!(on(&after, DRAINED) == 0, "these stayed: {after:?}");
    Ok(())
}
