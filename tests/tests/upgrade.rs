//! From the first release to this one and back, under load. `cargo xtask upgrade COMMIT` builds the agent of the first release
//! and names it.
use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::{PATIENCE, eventually, holds},
    kernel,
    stage::Stage,
    topology::{AgentOptions, Node},
};

const ROUNDS: usize = 6;
/// Connections are used, made and refused for so long by each agent.
const WHILE: Duration = Duration::from_secs(2);

/// Hands a node over to the agent of the first release.
fn roll_back(node: &Node, first: &AgentOptions) -> Result<()> {
    ensure!(node.stop_agent()?.success(), "{}", node.log());
    let words = "the maps are those of the first release";
    let before = node.log().matches(words).count();
    let mut handing_over = node.spawn_agent_command("rollback")?;
    holds("the maps are those of the first release", PATIENCE, || {
        node.log().matches(words).count() > before
    })?;
    node.spawn_agent(first)?;
    node.await_agent()?;
    let status = eventually("it hands over", PATIENCE, || handing_over.ended()?.context("it waits"))?;
    ensure!(status.success(), "{}", node.log());
    Ok(())
}

fn upgrade(node: &Node) -> Result<()> {
    ensure!(node.stop_agent()?.success(), "{}", node.log());
    node.start_agent()
}

#[test]
fn the_first_release_and_this_one_follow_each_other_under_load() -> Result<()> {
    kernel::require(kernel::NETNS);
    let agent = env::var("MILLRACE_FIRST_RELEASE").context("run `cargo xtask upgrade COMMIT`")?;
    let first = AgentOptions { agent: Some(PathBuf::from(agent)), ..AgentOptions::default() };
    let stage = Stage::build()?;
    stage.begin_load()?;
    for round in 0..ROUNDS {
        let node = stage.topology.node(round % 2);
        roll_back(node, &first).with_context(|| format!("round {round}: back"))?;
        std::thread::sleep(WHILE);
        upgrade(node).with_context(|| format!("round {round}: to this release"))?;
        std::thread::sleep(WHILE);
    }
    let total = stage.end_load()?;
    println!("{ROUNDS} times back and forth: {total:?}");
    assert_eq!((total.lost, total.reset, total.breaches), (0, 0, 0), "{total:?}");
    assert!(
        total.answered_long_lived > 1_000 && total.answered_fresh > 1_000 && total.denied > 100,
        "{total:?}"
    );
    stage.topology.close()
}
