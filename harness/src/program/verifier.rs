//! What the kernel's verifier says of each program, and what it may say.
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{EbpfLoader, VerifierLogLevel, programs::Program};
use dataplane_common::config::Config;
use zerocopy::IntoBytes as _;

/// The most instructions that the verifier may walk of each program.
const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/verifier-budget.txt");

/// A program as the kernel took it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verified {
    pub name: String,
    pub instructions: u32,
    /// Bytes of machine code.
    pub jitted: u32,
    pub took: Duration,
}

/// Loads every program of the object, attached to nothing.
pub fn verify() -> Result<Vec<Verified>> {
    let object = super::object()?;
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("CONFIG", Config::DEFAULT.as_bytes(), true)
        .load(&object)
        .context("load the object")?;
    let mut verified = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let begun = Instant::now();
        load(program).with_context(|| format!("load {name}"))?;
        let took = begun.elapsed();
        let info = program.info().context("read the program's information")?;
        let instructions =
            info.verified_instruction_count().context("the kernel counts no verified instructions")?;
        verified.push(Verified { name: name.to_owned(), instructions, jitted: info.size_jitted(), took });
    }
    verified.sort();
    Ok(verified)
}

fn load(program: &mut Program) -> Result<()> {
    if let Program::SchedClassifier(program) = program {
        program.load()?;
    } else if let Program::CgroupSockAddr(program) = program {
        program.load()?;
    } else {
        bail!("no hook has a program of type {:?}", program.prog_type());
    }
    Ok(())
}

/// The budget of each program.
pub fn budget() -> Result<BTreeMap<String, u32>> {
    let text = fs::read_to_string(Path::new(BUDGET)).with_context(|| format!("read {BUDGET}"))?;
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (name, count) = row.split_once(' ').with_context(|| format!("{BUDGET}: {row}"))?;
        let count = count.trim().parse().with_context(|| format!("{BUDGET}: {row}"))?;
        Ok((name.to_owned(), count))
    })
    .collect()
}
