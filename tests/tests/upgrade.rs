//! From the first release to this one and back, under load. `cargo xtask upgrade COMMIT` builds the agent of the first release
//! and names it.
use std::{env, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::{PATIENCE, eventually, holds},
    kernel,
    probe::wire::LoadReport,
    stage::Stage,
    topology::{AgentOptions, Node},
};

const ROUNDS: usize = 6;
/// Before and after each change.
const WHILE: Duration = Duration::from_secs(1);

/// Which agent is to follow the one that runs.
enum Change<'a> {
    /// That of the first release.
    Back(&'a AgentOptions),
    Forth,
}

impl Change<'_> {
    fn carry_out(&self, node: &Node) -> Result<()> {
        ensure!(node.stop_agent()?.success(), "{}", node.log());
        match self {
            Self::Back(first) => roll_back(node, first),
            Self::Forth => node.start_agent(),
        }
    }
}

/// Hands a node over to the agent of the first release.
fn roll_back(node: &Node, first: &AgentOptions) -> Result<()> {
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

#[test]
fn the_first_release_and_this_one_follow_each_other_under_load() -> Result<()> {
    kernel::require(kernel::NETNS);
    let agent = env::var("MILLRACE_FIRST_RELEASE").context("run `cargo xtask upgrade COMMIT`")?;
    let first = AgentOptions { agent: Some(PathBuf::from(agent)), ..AgentOptions::default() };
    let stage = Stage::build()?;
    for round in 0..ROUNDS {
        let node = stage.topology.node(round % 2);
        for (way, change) in [("back", Change::Back(&first)), ("to this release", Change::Forth)] {
            let report = under_load(&stage, || change.carry_out(node))
                .with_context(|| format!("round {round}: {way}"))?;
            println!("round {round}: {way}: {report:?}");
            assert_eq!((report.reset, report.breaches), (0, 0), "{report:?}");
            // A datagram's answer may meet programs that do not know its flow yet, where it is the first.
            let is_first_answer =
                |failure: &String| failure.contains("new connection to") && failure.contains("over Udp");
            assert!(report.failures.iter().all(is_first_answer), "{report:?}");
            assert!(report.lost * 200 < report.answered_fresh, "{report:?}");
            assert!(report.answered_long_lived > 500 && report.denied > 50, "{report:?}");
        }
    }
    stage.topology.close()
}

/// What becomes of connections that are used, made and refused while one agent follows another, and before and after.
fn under_load(stage: &Stage, change: impl FnOnce() -> Result<()>) -> Result<LoadReport> {
    stage.begin_load()?;
    thread::sleep(WHILE);
    change()?;
    thread::sleep(WHILE);
    stage.end_load()
}
