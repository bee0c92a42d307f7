//! What a node tells over HTTP: metrics, whether its agent lives and is ready, and what a kube-proxy would tell.
#![expect(clippy::float_cmp, reason = "counts are whole numbers, which floats hold exactly")]
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent_metrics::{AGENT, KUBE_PROXY};
use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    topology::{Node, Options, Pod, Topology},
};
use serde_json::{Value, json};

use crate::{
    expect::{TRANSPORTS, is_answered_by, is_silent, target},
    exposition::{Format, Page, labels_of, parse, series, total},
    objects::policy,
};

const AGENT_PORT: u16 = 9962;
const HEALTH_PORT: u16 = 10256;
const PROXY_PORT: u16 = 10249;

/// Most series that the agent's page may have.
const MAX_SERIES: usize = 400;

const PORT: u16 = 80;

/// An answer over HTTP.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

/// Asks in the node's network namespace.
fn get(node: &Node, port: u16, path: &str, accept: &str) -> Result<Reply> {
    let answer = node.netns().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no head: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Reply { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn scrape(node: &Node, port: u16) -> Result<Page> {
    let reply = get(node, port, "/metrics", "*/*")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(reply.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", reply.head);
    parse(&reply.body, Format::Prometheus)
}

/// Waits until a page is as it should be.
fn scraped(node: &Node, what: &str, mut is_so: impl FnMut(&Page) -> Result<()>) -> Result<Page> {
    eventually(what, PATIENCE, || {
        let page = scrape(node, AGENT_PORT)?;
        is_so(&page)?;
        Ok(page)
    })
}

fn pod(topology: &Topology, name: &str) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(PodSpec::new("default", name).label("app", name))?;
    TRANSPORTS.iter().try_for_each(|transport| pod.probe().listen(*transport, PORT))?;
    Ok(pod)
}

/// A page has the metrics of a table, with their types and labels, and no others.
fn is_of_table(page: &Page, table: &[&agent_metrics::Family], may_be_missing: &[&str]) -> Result<()> {
    for (name, family) in page {
        let row =
            table.iter().find(|row| row.name == name).with_context(|| format!("{name} is in no table"))?;
        ensure!(family.kind == row.kind.name() && family.help == row.help, "{name}: {family:?}");
        let labels: BTreeSet<&str> = row.labels.iter().map(|label| label.name).collect();
        ensure!(labels_of(family) == labels, "{name}: {:?} instead of {labels:?}", labels_of(family));
    }
    let missing = |name: &&str| !page.contains_key(*name) && !may_be_missing.contains(name);
    let missing: Vec<&str> = table.iter().map(|row| row.name).filter(missing).collect();
    ensure!(missing.is_empty(), "the page lacks {missing:?}");
    Ok(())
}

#[test]
fn a_scrape_shows_what_the_node_does() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let (client, server) = (pod(&topology, "client")?, pod(&topology, "server")?);
    topology.settle()?;
    let before = scraped(node, "both pods are shown", |page| {
        let attached = total(page, "millrace_endpoints", &[("state", "attached")]);
        ensure!(attached == 2.0, "{attached} endpoints");
        Ok(())
    })?;

    // A flow, and then one that a policy drops.
    for to in server.at(PORT) {
        is_answered_by("default/server", client.probe(), target(TRANSPORTS[0], to))?;
    }
    topology.control_plane.apply(&policy(
        "locked",
        &json!({ "podSelector": { "matchLabels": { "app": "client" } }, "policyTypes": ["Egress"] }),
    ))?;
    let empty = ServiceSpec::new("default", "empty").select("app", "nobody").port(Protocol::Tcp, PORT, PORT);
    topology.control_plane.apply_service(&empty)?;
    topology.settle()?;
    for to in server.at(PORT) {
        is_silent(client.probe(), target(TRANSPORTS[1], to))?;
    }
    let rose = |page: &Page, name: &str, labels: &[(&str, &str)]| -> Result<()> {
        let (before, after) = (total(&before, name, labels), total(page, name, labels));
        ensure!(after > before, "{name} {labels:?}: {before}, then {after}");
        Ok(())
    };
    let page = scraped(node, "what happened is shown", |page| {
        rose(page, "millrace_packets_total", &[("hook", "from-pod"), ("verdict", "delivered")])?;
        rose(page, "millrace_drops_total", &[("hook", "from-pod"), ("reason", "policy-egress")])?;
        rose(page, "millrace_programming_duration_seconds", &[("kind", "services")])?;
        rose(page, "millrace_programming_duration_seconds", &[("kind", "policies")])?;
        // Both families of the service's one port. The barrier of the tests may be another.
        let without = total(page, "millrace_frontends_without_backends", &[]);
        ensure!(without >= 2.0, "{without} frontends without backends");
        Ok(())
    })?;
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| -> Result<()> {
        let found = total(&page, name, labels);
        ensure!(found == expected, "{name} {labels:?} is {found} instead of {expected}");
        Ok(())
    };
    for request in ["reserve", "attach"] {
        is("millrace_cni_requests_total", &[("request", request), ("code", "ok")], 2.0)?;
    }
    for family in ["IPv4", "IPv6"] {
        is("millrace_addresses", &[("family", family), ("state", "leased")], 2.0)?;
    }
    is("millrace_addresses", &[("family", "IPv4"), ("state", "capacity")], 253.0)?;
    is("millrace_synced", &[], 6.0)?;
    is("millrace_hooks", &[("state", "missing")], 0.0)?;
    // Two pods, one uplink, and the programs on sockets.
    is("millrace_hooks", &[("state", "in_place")], 2.0 * 2.0 + 2.0 + 8.0)?;
    is("millrace_map_entries", &[("map", "ENDPOINTS_V4")], 2.0)?;
    is("millrace_map_capacity", &[("map", "ENDPOINTS_V4")], 4096.0)?;
    is("millrace_objects", &[("kind", "NetworkPolicy")], 1.0)?;

    let usual = ["millrace_map_write_errors_total", "millrace_problems"];
    let of_watches = AGENT.iter().map(|row| row.name).filter(|name| name.starts_with("millrace_watch_"));
    let may_be_missing: Vec<&str> = usual.into_iter().chain(of_watches).collect();
    is_of_table(&page, AGENT, &may_be_missing)?;
    println!("{} series of the agent", series(&page));
    ensure!(series(&page) <= MAX_SERIES, "{} series", series(&page));
    let open =
        get(node, AGENT_PORT, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")?;
    ensure!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    // Prometheus names a counter without its suffix there.
    let open = parse(&open.body, Format::OpenMetrics)?;
    ensure!(open.len() == page.len() && series(&open) == series(&page), "{} families", open.len());
    topology.close()
}

#[test]
fn a_node_answers_as_kube_proxy_does_while_it_takes_its_place() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    topology.settle()?;
    let health = |path: &str| -> Result<(u16, Value)> {
        let reply = get(node, HEALTH_PORT, path, "*/*")?;
        ensure!(reply.head.contains("content-type: application/json"), "{}", reply.head);
        ensure!(reply.head.contains("x-content-type-options: nosniff"), "{}", reply.head);
        Ok((reply.status, serde_json::from_str(&reply.body)?))
    };
    eventually("the node is eligible", PATIENCE, || {
        let (status, body) = health("/healthz")?;
        ensure!(status == 200 && body["nodeEligible"] == true && body["healthy"] == true, "{status} {body}");
        ensure!(
            body["status"]["IPv4"]["healthy"] == true && body["lastUpdated"] == body["currentTime"],
            "{body}"
        );
        Ok(())
    })?;
    ensure!(get(node, PROXY_PORT, "/proxyMode", "*/*")?.body == "millrace");
    ensure!(get(node, HEALTH_PORT, "/", "*/*")?.status == 404);
    for (path, expected) in [("/livez", "ok"), ("/readyz", "ok")] {
        let reply = get(node, AGENT_PORT, path, "*/*")?;
        ensure!(reply.status == 200 && reply.body == expected, "{path}: {reply:?}");
    }

    // The autoscaler is about to delete the node: load balancers are told, and nobody restarts the agent for it.
    let spec = node.spec();
    let tainted = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": spec.name },
        "spec": {
            "podCIDRs": spec.pod_cidrs,
            "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }],
        },
        "status": { "addresses": [
            { "type": "InternalIP", "address": spec.v4 },
            { "type": "InternalIP", "address": spec.v6 },
        ] },
    });
    topology.control_plane.apply(&tainted)?;
    eventually("the node is not eligible any more", PATIENCE, || {
        let (status, body) = health("/healthz")?;
        ensure!(status == 503 && body["nodeEligible"] == false && body["healthy"] == true, "{status} {body}");
        Ok(())
    })?;
    let (status, body) = health("/livez")?;
    ensure!(status == 200 && body.get("nodeEligible").is_none(), "{status} {body}");
    topology.control_plane.apply_node(spec)?;
    eventually("the node is eligible again", PATIENCE, || {
        ensure!(health("/healthz")?.0 == 200);
        Ok(())
    })?;

    // A slice that changes is a change of endpoints.
    let service = ServiceSpec::new("default", "web").select("app", "web").port(Protocol::Tcp, PORT, PORT);
    topology.control_plane.apply_service(&service)?;
    topology.settle()?;
    let page = eventually("kube-proxy's metrics count", PATIENCE, || {
        let page = scrape(node, PROXY_PORT)?;
        ensure!(total(&page, "kubeproxy_sync_proxy_rules_service_changes_total", &[]) >= 1.0);
        ensure!(total(&page, "kubeproxy_sync_proxy_rules_service_changes_pending", &[]) == 0.0);
        ensure!(total(&page, "kubeproxy_proxy_healthz_total", &[("code", "503")]) >= 1.0);
        Ok(page)
    })?;
    println!("{} series of kube-proxy", series(&page));
    is_of_table(&page, KUBE_PROXY, &[])?;

    // Beside a kube-proxy, its ports are its own.
    topology.control_plane.label_node(spec, &[("millrace.io/services", "both")])?;
    eventually("kube-proxy's ports are free", PATIENCE, || {
        for port in [HEALTH_PORT, PROXY_PORT] {
            ensure!(get(node, port, "/healthz", "*/*").is_err(), "{port} is answered");
        }
        Ok(())
    })?;
    ensure!(get(node, AGENT_PORT, "/livez", "*/*")?.status == 200);
    topology.close()
}

#[test]
fn a_port_that_is_taken_is_a_problem_until_it_is_free() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let node = topology.node(0);
    let holder = node.netns().run(|| TcpListener::bind(("0.0.0.0", AGENT_PORT)))??;
    topology.start_agents()?;
    eventually("the port is a problem", PATIENCE, || {
        let problems = node.status()?.problems;
        let found =
            problems.iter().any(|problem| problem.contains("--metrics-address") && problem.contains(":9962"));
        ensure!(found, "{problems:?}");
        Ok(())
    })?;
    // Nothing else of the agent minds.
    pod(&topology, "pod")?;
    drop(holder);
    let page = scraped(node, "the page is there", |_| Ok(()))?;
    ensure!(total(&page, "millrace_problems", &[("class", "addresses")]) == 0.0);
    let problems = node.status()?.problems;
    ensure!(!problems.iter().any(|problem| problem.contains("--metrics-address")), "{problems:?}");
    topology.close()
}

#[test]
fn an_address_that_is_turned_off_is_not_listened_at() -> Result<()> {
    kernel::require(kernel::NETNS);
    let off = ["--metrics-address", "--proxy-healthz-address", "--proxy-metrics-address"];
    let arguments: Vec<&str> = off.into_iter().flat_map(|option| [option, "none"]).collect();
    let topology = Topology::start_with(&arguments)?;
    topology.settle()?;
    for port in [AGENT_PORT, HEALTH_PORT, PROXY_PORT] {
        ensure!(get(topology.node(0), port, "/metrics", "*/*").is_err(), "{port} is answered");
    }
    topology.close()
}

#[test]
fn clients_that_hold_connections_keep_neither_a_scrape_nor_the_agent_waiting() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    scraped(node, "the page is there", |_| Ok(()))?;
    // Heads that never end, questions whose answers are never read, and connections that say nothing.
    let mut slow = Vec::new();
    for number in 0..300 {
        let stream = node.netns().run(|| -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, AGENT_PORT))?;
            match number % 3 {
                0 => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ")?,
                1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?,
                _ => {}
            }
            Ok(stream)
        })??;
        slow.push(stream);
    }
    let begun = Instant::now();
    scrape(node, AGENT_PORT)?;
    ensure!(get(node, AGENT_PORT, "/livez", "*/*")?.status == 200);
    println!("a scrape beside {} slow clients took {:?}", slow.len(), begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    pod(&topology, "pod")?;
    let page = scrape(node, AGENT_PORT)?;
    let descriptors = total(&page, "process_open_fds", &[]);
    ensure!(descriptors < 250.0, "{descriptors} open files: those connections are held");
    topology.close()
}

#[test]
fn a_scrape_costs_little_and_is_not_made_more_often_than_needed() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let cost = |page: &Page| {
        (total(page, "millrace_scrapes_total", &[]), total(page, "millrace_scrape_seconds_total", &[]))
    };
    let first = cost(&scraped(node, "the page is there", |_| Ok(()))?);
    for _ in 0..100 {
        // Pages are fresh for a tenth of a second.
        thread::sleep(Duration::from_millis(105));
        scrape(node, AGENT_PORT)?;
    }
    let last = cost(&scrape(node, AGENT_PORT)?);
    let count = last.0 - first.0;
    let each = (last.1 - first.1) / count * 1000.0;
    println!("{count} pages, {each:.2} ms each");
    ensure!(count >= 99.0 && each < 25.0, "{count} pages, {each:.2} ms each");
    // Whoever asks as fast as he can gets pages that were written already.
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        scrape(node, AGENT_PORT)?;
        asked += 1;
    }
    let written = cost(&scrape(node, AGENT_PORT)?).0 - last.0;
    println!("{asked} scrapes as fast as they go: {written} pages");
    if written > 10.0 * begun.elapsed().as_secs_f64() + 2.0 {
        bail!("{written} pages in {:?}", begun.elapsed());
    }
    topology.close()
}
