//! An agent killed and restarted under load: no request is lost, and nothing forbidden passes.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use harness::{
    probe::wire::{LoadPlan, LoadReport, Target, Transport},
    topology::Topology,
};

use super::{TIMEOUT, millrace};
use crate::{
    cast::{Cast, DATABASE_PORT, WEB_PORT},
    interrupt,
    show::{self, Show},
};

const KILLS: usize = 6;

pub(crate) fn play(show: &Show, topology: &Topology, cast: &Cast) -> Result<()> {
    show.title("4  An agent is killed under load");
    show::say(
        "my-api and visitor use the service and the database over old and new connections, TCP and UDP, IPv4 and IPv6; \
              visitor also tries the database all the time. Meanwhile the agents are killed (SIGKILL) and \
              started again, in turns:",
    );
    begin_load(cast)?;
    let mut writes = 0;
    for kill in 0..KILLS {
        interrupt::check()?;
        let node = topology.node(kill % 2);
        node.kill_agent()?;
        // Long enough for every connection of the load to be used without an agent.
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        node.start_agent()?;
        let (status, took) = (node.status()?, begun.elapsed().as_millis());
        writes += status.map_writes;
        let so_far = load(cast, false)?;
        show.good(&format!(
            "{} killed; back after {took} ms, {} map writes; {} requests answered so far",
            node.spec().name,
            status.map_writes,
            so_far.answered()
        ));
    }
    let report = load(cast, true)?;
    let LoadReport { lost, reset, denied, breaches, slowest, failures, .. } = &report;
    if lost + reset + breaches != 0 || report.answered() == 0 || *denied == 0 {
        bail!(
            "{lost} lost, {reset} reset, {breaches} forbidden ones passed, {denied} denied: {}",
            failures.join("; ")
        );
    }
    if writes != 0 {
        bail!("restarted agents wrote {writes} map entries, though nothing had changed");
    }
    show.good(&format!(
        "{} requests, 0 lost, 0 reset; the slowest took {} ms",
        report.answered(),
        slowest.as_millis()
    ));
    show.good(&format!("{denied} forbidden attempts, 0 passed"));
    // Without how full each map is.
    millrace(show, topology.node(0), &["status"], 2)
}

fn begin_load(cast: &Cast) -> Result<()> {
    let [v4, v6] = cast.web.both().map(|ip| SocketAddr::new(ip, WEB_PORT));
    let database = SocketAddr::new(cast.database_service.v4.into(), DATABASE_PORT);
    let udp = Target { transport: Transport::UnconnectedUdp, to: v4, from: None };
    let web = [Target::tcp(v4), Target::tcp(v6), udp];
    let plan = |long_lived: Vec<Target>, forbidden: Vec<Target>| LoadPlan {
        long_lived,
        fresh: web.to_vec(),
        forbidden,
        interval: Duration::from_millis(5),
        timeout: TIMEOUT,
    };
    cast.my_api.probe().start_load(&plan([&web[..], &[Target::tcp(database)]].concat(), Vec::new()))?;
    cast.visitor.probe().start_load(&plan(web.to_vec(), vec![Target::tcp(database)]))
}

/// The counts of both clients, so far or at the end.
fn load(cast: &Cast, end: bool) -> Result<LoadReport> {
    let mut total = LoadReport::default();
    for client in [&cast.my_api, &cast.visitor] {
        let probe = client.probe();
        total.add(&if end { probe.stop_load()? } else { probe.load_so_far()? });
    }
    Ok(total)
}
