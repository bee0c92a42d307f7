//! Everything that is checked without running the product: form, clippy, walls, documentation.
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, command, docs, papers, walls, workspace};

type Check = (&'static str, fn() -> Result<()>);

/// The cheap ones first.
const CHECKS: &[Check] = &[
    ("walls between crates and modules", walls),
    ("what documents name", papers::check),
    ("format", format),
    ("clippy", clippy),
    ("clippy of the eBPF programs", build_ebpf::clippy),
    ("documentation of the code", rustdoc),
    ("generated documents", docs::check),
];

/// Runs every check, also after one has failed.
pub(crate) fn lint() -> Result<()> {
    // Clippy reads the agent, and the agent embeds it.
    build_ebpf::build()?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        command::announce(&format!("lint: {name}"));
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("lint found something in: {}", failed.join(", "));
    }
    eprintln!("lint: {} checks passed", CHECKS.len());
    Ok(())
}

fn format() -> Result<()> {
    command::run(command::program("cargo").args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    command::run(command::cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))
}

fn rustdoc() -> Result<()> {
    let mut cargo = command::cargo("doc");
    command::run(cargo.args(["--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn walls() -> Result<()> {
    let root = workspace::root();
    let files = workspace::sources()?;
    let mut found = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(file).to_string_lossy();
        found.extend(walls::violations(&name, &text));
    }
    for violation in &found {
        eprintln!("{}:{}: {}", violation.file, violation.line, violation.what);
    }
    if !found.is_empty() {
        bail!("{} in {} files", found.len(), files.len());
    }
    Ok(())
}
