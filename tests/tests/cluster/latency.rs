//! How long a change of the API takes to reach the kernel, as connections see it. Every time begins when the request to
//! the API is sent and ends when the first connection that shows the change begins; both on the machine's one clock.
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{discovery::v1::EndpointSlice, networking::v1::NetworkPolicy};
use millrace_tests::probe::{
    client::Probe,
    watch::now,
    wire::{Outcome, Target, Until, Watch},
};
use serde_json::{Value, json};

use crate::{
    ground::{ANSWER, Ground, becomes, pod, tell},
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

/// Times changes until there are enough of them.
fn series(what: &str, mut change: impl FnMut() -> Result<Option<(Duration, Duration)>>) -> Result<()> {
    let (mut times, mut requests, mut stalls) = (Times::default(), Times::default(), 0);
    while times.0.len() < CHANGES {
        if let Some((whole, request)) = change()? {
            times.0.push(whole);
            requests.0.push(request);
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
        tell(&format!(
            "latency of {count} changes, {what}: {}, {} (of which the request to the API: {}, {})",
            self.milliseconds(50),
            self.milliseconds(99),
            of_which.milliseconds(50),
            of_which.milliseconds(99),
        ));
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
) -> Result<Option<(Duration, Duration)>> {
    probe.watch(&Watch { target, until, timeout: BLOCKED, patience: PATIENCE })?;
    let sent = now();
    let result = change();
    let accepted = now();
    // Whatever became of the change, the watch ends.
    let seen = probe.watched();
    result?;
    let seen = seen?;
    Ok(seen.checked_sub(sent).zip(accepted.checked_sub(sent)))
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
