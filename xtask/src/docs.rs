//! Documents that are generated from the tables in the code.
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// Files in `docs/`, and which example of which crate prints each when it is given that name.
const GENERATED: &[(&str, Printer)] = &[
    ("maps.md", ("dataplane-common", "reference")),
    ("drop-reasons.md", ("dataplane-common", "reference")),
    ("reference/metrics.md", ("agent-metrics", "metrics")),
];

/// A crate and an example of it.
type Printer = (&'static str, &'static str);

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
    for (name, printer) in GENERATED {
        let path = workspace::root().join("docs").join(name);
        let written = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if written != generate(name, *printer)? {
            bail!("docs/{name} is not what {} says. Run: cargo xtask docs", printer.0);
        }
    }
    Ok(())
}

fn write() -> Result<()> {
    for (name, printer) in GENERATED {
        let path = workspace::root().join("docs").join(name);
        fs::write(&path, generate(name, *printer)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn generate(name: &str, (of, example): Printer) -> Result<String> {
    let mut cargo = command::cargo("run");
    cargo.args(["--quiet", "-p", of, "--example", example, "--", name]);
    command::output(&mut cargo).map(|text| text + "\n")
}
