//! What the programs cost to load.
use anyhow::{Context as _, Result, ensure};
use dataplane_common::config::{Config, flag};
use harness::program::{
    Programs,
    verifier::{budget, verify},
};

#[test]
fn no_program_outgrows_what_the_verifier_may_walk() -> Result<()> {
    let mut budget = budget()?;
    let mut outgrown = Vec::new();
    for program in verify()? {
        let most = budget.remove(&program.name).unwrap_or(0);
        println!("{}: {} of {most} verified instructions", program.name, program.instructions);
        if program.instructions > most {
            outgrown.push(format!("{} has {}, its budget is {most}", program.name, program.instructions));
        }
    }
    ensure!(outgrown.is_empty(), "tests/verifier-budget.txt: {}", outgrown.join("; "));
    ensure!(budget.is_empty(), "tests/verifier-budget.txt: no such programs: {budget:?}");
    Ok(())
}

/// The verifier removes what a constant rules out, and what is left is another program.
#[test]
fn every_program_loads_whatever_the_agent_is_told() -> Result<()> {
    const ALL: u32 = flag::CUT_ESTABLISHED | flag::BESIDE_KUBE_PROXY | flag::LEAVE_NEW;
    for flags in 0..=ALL {
        Programs::load_with(Config { flags, ..Config::DEFAULT }).with_context(|| format!("flags {flags}"))?;
    }
    Ok(())
}
