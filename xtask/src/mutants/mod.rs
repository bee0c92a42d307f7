//! `cargo xtask mutants`: whether the tests notice when the eBPF programs are wrong.
mod list;
mod workbench;

use std::time::Instant;

use anyhow::{Result, bail};

use self::{
    list::{List, Mutant},
    workbench::{Fate, Workbench},
};
use crate::{debian, machine, test};

/// Which mutants to try.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only mutants whose list or name has one of these parts
    filters: Vec<String>,
    /// Write down which test found each, instead of refusing another than the one that is known
    #[arg(long)]
    bless: bool,
    /// Only check that each mutant fits the sources, and name it
    #[arg(long)]
    list: bool,
}

/// Builds each mutant and runs the tests that are to find it.
pub(crate) fn mutants(options: &Options) -> Result<()> {
    let mut lists = list::all()?;
    let is_chosen = |list: &List, mutant: &Mutant| {
        let name = format!("{}/{}", list.name(), mutant.name);
        options.filters.is_empty() || options.filters.iter().any(|part| name.contains(part.as_str()))
    };
    if options.list {
        for list in &lists {
            for mutant in list.mutants.iter().filter(|mutant| is_chosen(list, mutant)) {
                println!("{:<12} {:<32} {}", list.name(), mutant.name, mutant.why);
            }
        }
        return Ok(());
    }
    machine::require_ebpf("a test of mutants")?;
    debian::ensure(test::NEEDED)?;
    let chosen = lists.iter().filter(|list| list.mutants.iter().any(|mutant| is_chosen(list, mutant)));
    let targets = chosen.flat_map(|list| &list.suites).map(|suite| &suite.target[..]).collect();
    let workbench = Workbench::prepare(&targets)?;
    let (mut tried, mut problems) = (0, Vec::new());
    for list in &mut lists {
        let chosen: Vec<&Mutant> = list.mutants.iter().filter(|mutant| is_chosen(list, mutant)).collect();
        let mut found = Vec::new();
        let built: Vec<_> = chosen.into_iter().map(|mutant| (mutant, workbench.build(mutant))).collect();
        for (mutant, built) in built {
            tried += 1;
            let begun = Instant::now();
            let fate = built.and_then(|()| workbench.judge(mutant, &list.suites));
            let took = begun.elapsed().as_secs_f64();
            let outcome = match fate {
                Ok(Fate::FoundBy(test)) => {
                    if mutant.found_by.as_ref() != Some(&test) {
                        found.push((mutant.name.clone(), test.clone()));
                    }
                    format!("{} {}", test.target, test.name)
                }
                Ok(Fate::Lives) => {
                    problems.push(format!("{} lives: {}", mutant.name, mutant.why));
                    "LIVES".to_owned()
                }
                Err(error) => {
                    problems.push(format!("{error:#}"));
                    "not tried".to_owned()
                }
            };
            println!("{:<12} {:<32} {took:>6.1} s   {outcome}", list.name(), mutant.name);
        }
        for (name, test) in found {
            if options.bless {
                list.record(&name, &test)?;
            } else {
                let other = format!("{} {}", test.target, test.name);
                problems.push(format!("{name} is found by {other} now: --bless writes it down"));
            }
        }
    }
    if !problems.is_empty() {
        bail!("of {tried} mutants:\n  {}", problems.join("\n  "));
    }
    println!("mutants: {tried} tried, all found");
    Ok(())
}
