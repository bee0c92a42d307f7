//! `cargo xtask upgrade`: this release and an earlier one follow each other on nodes under load.
use anyhow::Result;

use crate::{build, command, compare::Checkout, tiers::Tier};

/// Which one.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A commit of the first release, as git names it
    revision: String,
}

/// Builds the agent of the other commit and runs the tier with it.
pub(crate) fn upgrade(options: &Options) -> Result<()> {
    let first = Checkout::of(&options.revision)?;
    command::announce(&format!("the agent of {}", first.revision));
    command::run(first.cargo("xtask").arg("build"))?;
    let agent = first.source.join("target/debug/millrace-agent");
    build::for_tests()?;
    for mut call in Tier::Upgrade.calls()? {
        command::run(call.env("MILLRACE_FIRST_RELEASE", &agent).args(["--", "--nocapture"]))?;
    }
    Ok(())
}
