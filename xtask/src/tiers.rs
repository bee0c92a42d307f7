//! Which tests belong to which tier, and the calls of cargo that run them.
use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{build::EVERYTHING, command, workspace};

/// A tier of tests; the later, the more it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Logic alone
    Pure,
    /// The real programs and maps in the kernel, one packet at a time
    Program,
    /// Real traffic between network namespaces
    Netns,
    /// The kernels that users have, in virtual machines
    Vm,
    /// This release and the first one, one after the other; see the command `upgrade`
    Upgrade,
    /// A real cluster: API server, kubelets, containers
    Cluster,
}

impl Tier {
    /// Without [`Self::Upgrade`], which is run by itself.
    pub(crate) const ALL: [Self; 5] = [Self::Pure, Self::Program, Self::Netns, Self::Vm, Self::Cluster];
    /// What runs without being asked for: the others fetch kernels, or need Go and a quarter of an hour for the first
    /// build.
    pub(crate) const USUAL: [Self; 3] = [Self::Pure, Self::Program, Self::Netns];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Program => "program",
            Self::Netns => "netns",
            Self::Vm => "vm",
            Self::Upgrade => "upgrade",
            Self::Cluster => "cluster",
        }
    }

    /// The tier of a target in a folder `tests`, by its name. Whatever it is called, it runs.
    fn of(target: &str) -> Self {
        match target {
            "kernel" | "on_maps" => Self::Program,
            "net" | "plugin" => Self::Netns,
            _ if target.starts_with("program") => Self::Program,
            _ if target.starts_with("netns") => Self::Netns,
            "upgrade" => Self::Upgrade,
            _ if target.starts_with("cluster") => Self::Cluster,
            _ => Self::Pure,
        }
    }

    /// The calls of cargo that run the tier. All of them choose the same packages, so that dependencies have the same
    /// features in each and are built once.
    pub(crate) fn calls(self) -> Result<Vec<Command>> {
        let cargo = |packages: &[&str], chosen: &[&str]| {
            let mut cargo = command::cargo("test");
            cargo.arg("--no-fail-fast").args(packages).args(chosen);
            cargo
        };
        let targets: Vec<String> = targets()?.into_iter().filter(|target| Self::of(target) == self).collect();
        let targets: Vec<&str> = targets.iter().flat_map(|target| ["--test", target]).collect();
        Ok(match self {
            Self::Pure => vec![
                cargo(EVERYTHING, &[&["--lib", "--bins"], &targets[..]].concat()),
                cargo(EVERYTHING, &["--doc"]),
                cargo(&["-p", "xtask"], &[]),
            ],
            // Run by xtask itself.
            Self::Vm => Vec::new(),
            // Without a target, cargo would run all of them.
            Self::Program | Self::Netns | Self::Upgrade | Self::Cluster if targets.is_empty() => Vec::new(),
            Self::Program | Self::Netns | Self::Upgrade | Self::Cluster => vec![cargo(EVERYTHING, &targets)],
        })
    }
}

/// The targets in the folders `tests` of all crates.
fn targets() -> Result<Vec<String>> {
    let mut targets: Vec<String> = workspace::sources()?
        .iter()
        .filter_map(|path| target(path, |folder| folder.join("Cargo.toml").exists()))
        .collect();
    targets.sort();
    targets.dedup();
    Ok(targets)
}

/// The test target that a file is the root of: `CRATE/tests/NAME.rs` or `CRATE/tests/NAME/main.rs`.
fn target(path: &Path, is_crate: impl Fn(&Path) -> bool) -> Option<String> {
    if path.extension()? != "rs" {
        return None;
    }
    let root = if path.file_name()? == "main.rs" { path.parent()? } else { path };
    let tests = root.parent()?;
    let is_target = tests.file_name()? == "tests" && is_crate(tests.parent()?);
    is_target.then(|| root.file_stem().map(|name| name.to_string_lossy().into_owned()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_target_has_a_tier() {
        assert_eq!(Tier::of("program_flows"), Tier::Program);
        assert_eq!(Tier::of("on_maps"), Tier::Program);
        assert_eq!(Tier::of("netns"), Tier::Netns);
        assert_eq!(Tier::of("netns_restart"), Tier::Netns);
        assert_eq!(Tier::of("upgrade"), Tier::Upgrade);
        assert_eq!(Tier::of("cluster"), Tier::Cluster);
        assert_eq!(Tier::of("cluster_baseline"), Tier::Cluster);
        assert_eq!(Tier::of("policy_oracle"), Tier::Pure);
    }

    #[test]
    fn test_targets_are_found_as_cargo_finds_them() {
        let name = |path: &str| {
            target(Path::new(path), |folder| [Path::new("cli"), Path::new("tests")].contains(&folder))
        };
        assert_eq!(name("cli/tests/output.rs").as_deref(), Some("output"));
        assert_eq!(name("tests/tests/netns/main.rs").as_deref(), Some("netns"));
        assert_eq!(name("tests/tests/netns/restart.rs"), None);
        assert_eq!(name("cli/src/tests/output.rs"), None);
        assert_eq!(name("cli/src/main.rs"), None);
    }
}
