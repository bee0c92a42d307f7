//! Documents that are generated from the tables in `dataplane-common`.
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// Files in `docs/`, each printed by the example `reference` of `dataplane-common` under the same name.
const GENERATED: &[&str] = &["maps.md", "drop-reasons.md"];

/// What to do with the generated documents.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only check that they are current
    #[arg(long)]
    check: bool,
}

/// Writes the generated documents, or checks them.
pub(crate) fn docs(options: &Options) -> Result<()> {
    if options.check { check() } else { write() }
}

/// An outdated document is an error.
pub(crate) fn check() -> Result<()> {
    for name in GENERATED {
        let path = workspace::root().join("docs").join(name);
        let written = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if written != generate(name)? {
            bail!("docs/{name} is not what dataplane-common says. Run: cargo xtask docs");
        }
    }
    Ok(())
}

fn write() -> Result<()> {
    for name in GENERATED {
        let path = workspace::root().join("docs").join(name);
        fs::write(&path, generate(name)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn generate(name: &str) -> Result<String> {
    let mut cargo = command::cargo("run");
    cargo.args(["--quiet", "-p", "dataplane-common", "--example", "reference", "--", name]);
    command::output(&mut cargo).map(|text| text + "\n")
}
