//! What the programs cost to load.
use anyhow::{Result, ensure};
use harness::program::verifier::{budget, verify};

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
