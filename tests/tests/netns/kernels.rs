//! What Millrace does on every kernel that it runs on. `cargo xtask vm` runs this module in virtual machines, with the
//! kernels that users have: short, and patient with processors that are emulated.
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::patient,
    kernel,
    probe::{
        client::Probe,
        wire::{Outcome, Target},
    },
    stage::Stage,
    topology::Topology,
};

use crate::expect::{SHORT, TRANSPORTS, answer, is_answered_by, target};

const PORT: u16 = 80;
const RESTARTS: usize = 2;
/// As many connections find both of two backends, but once in a million runs.
const TRIES: usize = 20;

#[test]
fn services_and_policies_hold_and_restarts_under_load_lose_nothing() -> Result<()> {
    kernel::require(kernel::OLDEST);
    let stage = Stage::on(Topology::start()?)?;
    hosts_reach_a_service(&stage.topology)?;
    for client in stage.clients.iter().map(|client| client.probe()) {
        stage.frontends.into_iter().try_for_each(|to| reaches_every_server(&stage, client, to))?;
        let locked = stage.locked.at(PORT).into_iter();
        let locked: Vec<Target> =
            locked.flat_map(|to| TRANSPORTS.map(|transport| target(transport, to))).collect();
        // All at once: each takes as long as silence is listened to.
        let outcomes = client.probe(&locked, patient(SHORT))?;
        ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::TimedOut), "{outcomes:?} of {locked:?}");
    }
    restart_under_load(&stage, RESTARTS)?;
    stage.topology.close()
}

/// Kills and starts agents while connections by every way are used.
pub(crate) fn restart_under_load(stage: &Stage, restarts: usize) -> Result<()> {
    stage.begin_load_of(patient(Duration::from_millis(20)), patient(Duration::from_secs(2)))?;
    for restart in 0..restarts {
        let node = stage.topology.node(restart % 2);
        node.kill_agent()?;
        node.start_agent()?;
        let status = node.status()?;
        let changed = (status.map_writes, status.map_deletes);
        assert_eq!(changed, (0, 0), "restart {restart} found the maps wrong");
    }
    let report = stage.end_load()?;
    println!("{restarts} restarts: {report:?}");
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(
        report.answered_long_lived > 100 && report.answered_fresh > 100 && report.denied > 0,
        "{report:?}"
    );
    Ok(())
}

/// Both backends answer, and show that they do.
pub(crate) fn reaches_every_server(stage: &Stage, client: &Probe, to: SocketAddr) -> Result<()> {
    for transport in TRANSPORTS {
        let answers = (0..TRIES).map(|_| Ok(answer(client, target(transport, to))?.by));
        let found = answers.collect::<Result<BTreeSet<String>>>()?;
        let servers = stage.servers.iter().map(|server| server.probe().name().to_owned()).collect();
        ensure!(found == servers, "{} reaches {found:?} by {transport:?} {to}", client.name());
    }
    Ok(())
}

/// Processes of both hosts are balanced as they connect.
fn hosts_reach_a_service(topology: &Topology) -> Result<()> {
    let open = topology.add_pod(PodSpec::new("default", "open").label("app", "open").on(1))?;
    TRANSPORTS.iter().try_for_each(|transport| open.probe().listen(*transport, PORT))?;
    let service = ServiceSpec::new("default", "open").select("app", "open");
    let service = service.port(Protocol::Tcp, PORT, PORT).port(Protocol::Udp, PORT, PORT);
    let ips = topology.control_plane.apply_service(&service)?;
    topology.settle()?;
    for node in topology.nodes() {
        for (transport, ip) in
            TRANSPORTS.into_iter().flat_map(|transport| ips.both().map(|ip| (transport, ip)))
        {
            is_answered_by("default/open", node.host(), target(transport, SocketAddr::new(ip, PORT)))?;
        }
    }
    Ok(())
}
