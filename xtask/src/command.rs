//! Running other programs, with errors that name the whole command.
use std::{ffi::OsStr, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Says which long step begins.
pub(crate) fn announce(step: &str) {
    eprintln!("==> {step}");
}

/// A program that runs in the workspace's root.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(workspace::root()).env("PATH", path_with_tools());
    // What `cargo run` set for xtask: some build scripts watch these, and would run again at every change between a
    // call by hand and a call from here.
    for (name, _) in std::env::vars_os() {
        let set_for_xtask = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix))
                || ["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR", "LD_LIBRARY_PATH"]
                    .contains(&name)
        });
        if set_for_xtask {
            command.env_remove(name);
        }
    }
    command
}

/// Cargo, in the workspace's root. In CI the lock file must be up to date.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = program("cargo");
    command.arg(subcommand);
    if in_ci() {
        command.arg("--locked");
    }
    command
}

/// Whether this is a CI run, by the variable that CI systems set.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Runs the command with its output shown; an unsuccessful end is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs the command and returns what it printed to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", shown(command), output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The search path with our own tools first.
fn path_with_tools() -> std::ffi::OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::iter::once(workspace::tools().join("bin"));
    // System tools such as `ip` are not on the path of every root shell.
    let system = ["/usr/sbin", "/sbin"].into_iter().map(Into::into);
    let all = tools.chain(std::env::split_paths(&inherited)).chain(system);
    std::env::join_paths(all).unwrap_or(inherited)
}
