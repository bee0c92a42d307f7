//! An agent that dies, stops and comes back: traffic does not notice, and nothing that is right is written again.
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::{
    kernel,
    probe::wire::{Target, Transport},
    stage::{PORT, Stage},
    topology::Node,
};

use crate::expect::{becomes_answered, is_answered_by, is_silent, target};

const KILLS: usize = 50;

#[test]
fn fifty_killed_agents_lose_no_request_reset_no_connection_and_let_nothing_forbidden_pass() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.begin_load()?;
    for kill in 0..KILLS {
        let node = stage.topology.node(kill % 2);
        node.kill_agent()?;
        // Every connection of the load is used while no agent runs.
        std::thread::sleep(Duration::from_millis(50));
        node.start_agent()?;
        let status = node.status()?;
        assert_eq!(
            (status.map_writes, status.map_deletes),
            (0, 0),
            "kill {kill}: a restart found the maps wrong"
        );
    }
    let report = stage.end_load()?;
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(
        report.answered_long_lived > 1_000 && report.answered_fresh > 1_000 && report.denied > 100,
        "{report:?}"
    );
    println!("{KILLS} kills: {report:?}");
    stage.topology.close()
}

#[test]
fn an_agent_that_is_told_to_stop_leaves_everything_working() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.begin_load()?;
    let links = stage.topology.node(0).maps().links()?;
    for node in stage.topology.nodes() {
        let status = node.stop_agent()?;
        assert!(status.success(), "{status}: {}", node.log());
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stage.topology.node(0).maps().links()?, links);
    stage.topology.start_agents()?;
    for node in stage.topology.nodes() {
        assert_eq!(node.status()?.map_writes, 0);
    }
    let report = stage.end_load()?;
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(report.answered_long_lived > 100 && report.denied > 10, "{report:?}");
    stage.topology.close()
}

#[test]
fn a_change_made_while_the_agent_is_dead_is_programmed_when_it_returns() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let [first, second] = [&stage.servers[0], &stage.servers[1]];
    stage.topology.nodes().iter().try_for_each(Node::kill_agent)?;
    stage.topology.set_ready(first, false)?;
    stage.topology.control_plane.delete("NetworkPolicy", "default", "locked")?;
    let client = stage.clients[0].probe();
    for to in stage.locked.at(PORT) {
        is_silent(client, Target::tcp(to))?;
    }
    stage.topology.start_agents()?;
    for to in stage.locked.at(PORT) {
        becomes_answered(client, Target::tcp(to))?;
    }
    for to in stage.frontends {
        for _ in 0..20 {
            is_answered_by(second.probe().name(), client, Target::tcp(to))?;
        }
    }
    stage.topology.close()
}

#[test]
fn a_pod_deleted_while_the_agent_is_dead_is_forgotten_when_it_returns() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let node = stage.topology.node(0);
    let before = node.status()?.pods;
    let client = stage.clients[0].name().to_owned();
    node.kill_agent()?;
    stage.topology.delete_pod("default", &client).context("DEL succeeds without an agent")?;
    node.start_agent()?;
    harness::eventually::holds("the endpoint is gone", harness::eventually::PATIENCE, || {
        node.maps().links().is_ok_and(|links| {
            // Two links for each pod, server-0 and locked; that of the uplink is another.
            links.iter().filter(|link| link.ends_with("_pod")).count() == 4
        })
    })?;
    assert!(before > 0);
    for to in stage.servers[1].at(PORT) {
        is_answered_by(
            stage.servers[1].probe().name(),
            stage.clients[1].probe(),
            target(Transport::Udp, to),
        )?;
    }
    stage.topology.close()
}
