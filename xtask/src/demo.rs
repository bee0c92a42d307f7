//! The demo: a program of the tests' crate, on the same topology as the tests of tier netns.
use anyhow::Result;

use crate::{build, command, debian, machine, test, workspace};

/// How to run the demo.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Leave everything up at the end, and print how to enter each pod
    #[arg(long)]
    keep: bool,
    /// Remove what `--keep` left up
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// Builds everything and runs the demo.
pub(crate) fn demo(options: &Options) -> Result<()> {
    machine::require_ebpf("the demo")?;
    debian::ensure(test::NEEDED)?;
    build::build(&build::Options::default())?;
    play(options)
}

/// Runs the demo, which is built.
pub(crate) fn play(options: &Options) -> Result<()> {
    let mut demo = command::program(workspace::target().join("debug/demo"));
    let chosen = [(options.keep, "--keep"), (options.remove, "--remove")];
    command::run(demo.args(chosen.iter().filter(|(chosen, _)| *chosen).map(|(_, option)| option)))
}
