//! What this kernel's verifier says of each program, and what it may say.
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};

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
    let mut verified = Vec::new();
    for outcome in verifier::verify(&super::object()?)? {
        let verifier::Verified { name, instructions, jitted, took } =
            outcome.map_err(|refused| anyhow!(refused.error).context(format!("load {}", refused.name)))?;
        let instructions = instructions.context("the kernel counts no verified instructions")?;
        verified.push(Verified { name, instructions, jitted, took });
    }
    verified.sort();
    Ok(verified)
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
