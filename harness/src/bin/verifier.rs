//! Loads every program, attached to nothing, and prints what the kernel's verifier says of it, beside what it may say.
//! `cargo xtask verifier` builds the object and runs this.
use anyhow::Result;
use harness::program::verifier::{budget, verify};

fn main() -> Result<()> {
    let budget = budget()?;
    println!("{:<16} {:>9} {:>9} {:>10} {:>10}", "program", "verified", "budget", "jitted", "load");
    for program in verify()? {
        let most = budget.get(&program.name).map_or_else(|| "none".to_owned(), u32::to_string);
        let milliseconds = program.took.as_secs_f64() * 1e3;
        println!(
            "{:<16} {:>9} {most:>9} {:>8} B {milliseconds:>7.1} ms",
            program.name, program.instructions, program.jitted
        );
    }
    Ok(())
}
