//! How long a change of the API takes to reach the kernel, as connections see it. A time begins when the request to the
//! API is sent, or when the API says that a pod is ready, and ends when the first connection that shows the change
//! begins; both on the machine's one clock.
use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::{
    kubernetes::ready::is_ready_pod,
    probe::{
        client::Probe,
        watch::now,
        wire::{Outcome, Target, Until, Watch},
    },
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice, networking::v1::NetworkPolicy};
use serde_json::{Value, json};

use crate::{
    ground::{ANSWER, Ground, becomes, pod, pod_with, tell},
    shared::{PATIENCE, millrace},
};

/// How many changes are timed.
const CHANGES: usize = 200;

/// What takes longer is broken, on a machine that does other things, too.
const BOUND: Duration = Duration::from_secs(2);

/// A request without an answer for so long was blocked: an answer takes less than a millisecond.
const BLOCKED: Duration = Duration::from_millis(150);

/// How many changes may be seen before they were made: a request had no answer because the machine stood still.
const STALLS: usize = 10;

/// Durations, and how they are told.
#[derive(Default)]
struct Times(Vec<Duration>);

/// One change: how long it took, and how much of that was the request, if it began with one.
struct Timed {
    whole: Duration,
    request: Option<Duration>,
}

/// Times changes until there are enough of them.
fn series(what: &str, mut change: impl FnMut() -> Result<Option<Timed>>) -> Result<()> {
    let (mut times, mut requests, mut stalls) = (Times::default(), Times::default(), 0);
    while times.0.len() < CHANGES {
        if let Some(timed) = change()? {
            times.0.push(timed.whole);
            requests.0.extend(timed.request);
        } else {
            stalls += 1;
            ensure!(stalls <= STALLS, "{what}: {stalls} changes were seen before they were made");
        }
    }
    times.judge(what, &requests)
}

impl Times {
    /// The time that so many per cent do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    fn milliseconds(&self, percent: usize) -> String {
        format!("p{percent} {:.1} ms", self.percentile(percent).as_secs_f64() * 1000.0)
    }

    /// Tells them, and fails if they are beyond all reason.
    fn judge(&self, what: &str, of_which: &Self) -> Result<()> {
        let count = self.0.len();
        let both = |times: &Self| format!("{}, {}", times.milliseconds(50), times.milliseconds(99));
        let of_which = if of_which.0.is_empty() {
            String::new()
        } else {
            format!(" (of which the request to the API: {})", both(of_which))
        };
        tell(&format!("latency of {count} changes, {what}: {}{of_which}", both(self)));
        ensure!(self.percentile(99) < BOUND, "{what}: {}, more than {BOUND:?}", self.milliseconds(99));
        Ok(())
    }
}

/// Changes something and times the change: from the request until a connection shows it, and the request alone. Nothing
/// when a connection seemed to show it before the request was sent.
fn time(
    probe: &Probe,
    target: Target,
    until: Until,
    change: impl FnOnce() -> Result<()>,
) -> Result<Option<Timed>> {
    probe.watch(&Watch { target, until, timeout: BLOCKED, patience: PATIENCE })?;
    let sent = now();
    let result = change();
    let accepted = now();
    // Whatever became of the change, the watch ends.
    let seen = probe.watched();
    result?;
    let seen = seen?;
    Ok(seen.checked_sub(sent).map(|whole| Timed { whole, request: accepted.checked_sub(sent) }))
}

/// An endpoint slice with one pod that is ready and one that is not.
fn slice(ready: &(&str, IpAddr), unready: &(&str, IpAddr)) -> Value {
    let endpoint = |(name, address): &(&str, IpAddr), ready: bool| {
        json!({
            "addresses": [address],
            "conditions": { "ready": ready },
            "targetRef": { "kind": "Pod", "name": name },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": "turns", "labels": { "kubernetes.io/service-name": "turns" } },
        "addressType": "IPv4",
        "endpoints": [endpoint(ready, true), endpoint(unready, false)],
        "ports": [{ "name": "tcp", "port": 80, "protocol": "TCP" }],
    })
}

#[test]
fn a_ready_endpoint_is_soon_connected_to() -> Result<()> {
    let ground = Ground::new(millrace(), "latency-service")?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: turns}\nspec: {ports: [{name: tcp, port: 80}]}\n---\n";
    let pods = ["one", "two"].map(|name| pod(name, "node-1", "app: server", "serve, --tcp=80"));
    let client = pod("client", "node-2", "app: client", "serve");
    ground.apply(&[service.to_owned(), pods.concat(), client].concat())?;
    let address = |name| -> Result<(&str, IpAddr)> {
        Ok((name, ground.pod_addresses(name)?.into_iter().find(IpAddr::is_ipv4).context("an IPv4 address")?))
    };
    let (mut ready, mut unready) = (address("one")?, address("two")?);
    ground.apply(&slice(&ready, &unready).to_string())?;
    let service = ground.service_addresses("turns")?[0];
    let target = Target::tcp(SocketAddr::new(service, 80));
    let probe = ground.probe("client")?;
    becomes(&probe, &[target], ANSWER, |outcome| outcome.by() == Some(ready.0))?;

    let slices = ground.objects::<EndpointSlice>();
    series("from an endpoint's readiness to its first connection", || {
        std::mem::swap(&mut ready, &mut unready);
        let turned = slice(&ready, &unready);
        let until = Until::AnsweredBy(ready.0.to_owned());
        time(&probe, target, until, || slices.patch("turns", &turned).map(drop))
    })
}

/// What decides, beside its containers, whether a pod of this test is ready.
const GATE: &str = "millrace.io/test";

/// Two pods of a node, each alone behind its service, that are ready in turn.
struct Lane<'a> {
    ground: &'a Ground,
    pods: [String; 2],
    targets: [Target; 2],
    client: Probe,
}

impl<'a> Lane<'a> {
    fn new(ground: &'a Ground, node: &str, client_node: &str) -> Result<Self> {
        let pods = ["one", "two"].map(|name| format!("{node}-{name}"));
        let objects = pods.clone().map(|name| {
            let gate = format!("readinessGates: [{{conditionType: {GATE}}}],");
            let server = pod_with(&name, node, &format!("app: {name}"), "serve, --tcp=80", &gate, "");
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: \
                 [{{name: tcp, port: 80}}]}}\n---\n{server}"
            )
        });
        let client = format!("{node}-client");
        ground.apply(&[objects.concat(), pod(&client, client_node, "app: client", "serve")].concat())?;
        let target = |name: &String| -> Result<Target> {
            Ok(Target::tcp(SocketAddr::new(ground.service_addresses(name)?[0], 80)))
        };
        let targets = [target(&pods[0])?, target(&pods[1])?];
        let lane = Self { ground, client: ground.probe(&client)?, pods, targets };
        // Containers that do not run yet keep it unready as well.
        lane.open(0, true)?;
        ground.wait_for_pod(&lane.pods[0])?;
        Ok(lane)
    }

    fn open(&self, pod: usize, gate: bool) -> Result<()> {
        let status = if gate { "True" } else { "False" };
        let patch = json!({ "status": { "conditions": [{ "type": GATE, "status": status }] } });
        self.ground.objects::<Pod>().patch_status(&self.pods[pod], &patch).map(drop)
    }

    /// From the moment at which the API says that a pod is ready to the first connection to it. The kubelet looks at
    /// its pods once a second: the other pod becomes unready at the same look.
    fn turn(&self, coming: usize) -> Result<Duration> {
        let (going, target) = (1 - coming, self.targets[coming]);
        becomes(&self.client, &[target], ANSWER, |outcome| *outcome == Outcome::Refused)?;
        let ready = self.ground.objects::<Pod>().moment(&self.pods[coming], PATIENCE, is_ready_pod)?;
        self.client.watch(&Watch { target, until: Until::Answered, timeout: BLOCKED, patience: PATIENCE })?;
        let result = self.open(coming, true).and_then(|()| self.open(going, false));
        // Whatever became of the change, the watch ends.
        let seen = self.client.watched();
        result?;
        // Several watchers are told that the pod is ready, that of the test perhaps after those who act on it.
        Ok(seen?.saturating_sub(ready.wait(self.ground.cluster().api())?))
    }
}

#[test]
fn a_ready_pod_is_soon_connected_to() -> Result<()> {
    let ground = Ground::new(millrace(), "latency-pod")?;
    let lanes = [Lane::new(&ground, "node-1", "node-2")?, Lane::new(&ground, "node-2", "node-1")?];
    let turns = CHANGES / lanes.len();
    let times = thread::scope(|scope| {
        let turn = |lane: &Lane<'_>| (1..=turns).map(|number| lane.turn(number % 2)).collect();
        let running = lanes.each_ref().map(|lane| scope.spawn(move || turn(lane)));
        let ended = running.map(|lane| lane.join().map_err(|_| anyhow!("a lane panicked"))?);
        ended.into_iter().collect::<Result<Vec<Vec<Duration>>>>()
    })?;
    let what = "from a Pod's Ready condition to its first connection";
    Times(times.concat()).judge(what, &Times::default())
}

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
";

#[test]
fn a_policy_is_soon_in_force() -> Result<()> {
    let ground = Ground::new(millrace(), "latency-policy")?;
    let server = pod("server", "node-1", "app: server", "serve, --tcp=80");
    ground.apply(&[server, pod("client", "node-2", "app: client", "serve")].concat())?;
    let address = ground.pod_addresses("server")?[0];
    let target = Target::tcp(SocketAddr::new(address, 80));
    let probe = ground.probe("client")?;
    becomes(&probe, &[target], ANSWER, Outcome::is_answered)?;

    let policies = ground.objects::<NetworkPolicy>();
    let policy: NetworkPolicy = serde_saphyr::from_str(DENY).context("read a policy")?;
    series("from a policy's creation to the first blocked connection", || {
        let timed = time(&probe, target, Until::Blocked, || policies.create(&policy).map(drop))?;
        policies.delete("deny")?;
        becomes(&probe, &[target], BLOCKED, Outcome::is_answered)?;
        Ok(timed)
    })
}
