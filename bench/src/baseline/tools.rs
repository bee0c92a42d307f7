//! The programs that write rules: which are needed, how kube-proxy is made to use one kind of iptables, and restoring
//! rules with them.
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::machine::netns::Netns;

use crate::system::Backend;

/// What kube-proxy calls in mode `iptables`, by the names it uses.
const CALLED: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];

/// Where Debian has them, beside the search path of the caller.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The tables that kube-proxy uses, without a rule.
const EMPTY: &str = "\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
";

/// A program of the machine.
#[derive(Clone, Copy, Debug)]
struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(backend: Backend) -> &'static [Needed] {
    const CONNTRACK: Needed = Needed { program: "conntrack", package: "conntrack" };
    match backend {
        Backend::IptablesLegacy => &[
            Needed { program: "iptables-legacy-restore", package: "iptables" },
            Needed { program: "iptables-legacy-save", package: "iptables" },
            CONNTRACK,
        ],
        Backend::IptablesNft => &[
            Needed { program: "iptables-nft-restore", package: "iptables" },
            Needed { program: "iptables-nft-save", package: "iptables" },
            Needed { program: "nft", package: "nftables" },
            CONNTRACK,
        ],
        Backend::Nftables => &[Needed { program: "nft", package: "nftables" }, CONNTRACK],
    }
}

/// Says which programs of a backend are missing and how to get them.
pub(crate) fn require(backend: Backend) -> Result<()> {
    let missing: Vec<&Needed> =
        needed(backend).iter().filter(|needed| find(needed.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|needed| needed.program).collect();
    let mut packages: Vec<_> = missing.iter().map(|needed| needed.package).collect();
    packages.dedup();
    bail!(
        "kube-proxy with {backend:?} needs {}, which this machine lacks: apt-get install {}",
        programs.join(" and "),
        packages.join(" ")
    )
}

/// The path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Makes a folder with the programs that kube-proxy calls, each the one of the backend. Returns the search path for
/// kube-proxy, which has the folder first.
pub(crate) fn search_path(backend: Backend, folder: &Path) -> Result<String> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let kind = match backend {
        Backend::IptablesLegacy => Some("legacy"),
        Backend::IptablesNft => Some("nft"),
        Backend::Nftables => None,
    };
    for name in CALLED {
        let Some(kind) = kind else { break };
        // `iptables-restore` is `iptables-legacy-restore`; the program looks at the name it is called by.
        let (family, action) = name.split_once('-').map_or((name, ""), |(family, action)| (family, action));
        let action = if action.is_empty() { String::new() } else { format!("-{action}") };
        let program = format!("{family}-{kind}{action}");
        let target = find(&program).with_context(|| format!("{program}: apt-get install iptables"))?;
        let link = folder.join(name);
        symlink(&target, &link).with_context(|| format!("link {}", link.display()))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{path}:{}", folder.display(), SYSTEM.join(":")))
}

/// Iptables in one network namespace, of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iptables<'a> {
    pub(crate) backend: Backend,
    pub(crate) netns: &'a Netns,
    /// The lock of iptables-legacy, so that runs beside each other do not wait for each other.
    pub(crate) lock: &'a Path,
}

impl Iptables<'_> {
    /// Restores the rules of a file; returns how long the program took.
    pub(crate) fn restore(&self, rules: &Path, arguments: &[&str]) -> Result<Duration> {
        let file = File::open(rules).with_context(|| format!("open {}", rules.display()))?;
        let mut restore = self.program("restore")?;
        restore.args(arguments).stdin(file);
        let began = Instant::now();
        self.run(restore)?;
        Ok(began.elapsed())
    }

    /// All rules.
    pub(crate) fn save(&self) -> Result<String> {
        self.run(self.program("save")?)
    }

    /// Removes all rules and chains.
    pub(crate) fn clear(&self) -> Result<()> {
        let file = self.lock.with_file_name("empty.rules");
        fs::write(&file, EMPTY).with_context(|| format!("write {}", file.display()))?;
        self.restore(&file, &[]).map(drop)
    }

    fn program(&self, action: &str) -> Result<Command> {
        let kind = match self.backend {
            Backend::IptablesLegacy => "legacy",
            Backend::IptablesNft => "nft",
            Backend::Nftables => bail!("mode nftables has no iptables"),
        };
        let program = format!("iptables-{kind}-{action}");
        let path = find(&program).with_context(|| format!("{program}: apt-get install iptables"))?;
        let mut command = Command::new(path);
        command.env("XTABLES_LOCKFILE", self.lock);
        Ok(command)
    }

    fn run(&self, command: Command) -> Result<String> {
        run_in(self.netns, command)
    }
}

/// Runs a program inside a network namespace and returns what it printed.
pub(crate) fn run_in(netns: &Netns, mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = netns.run(|| command.output())?.with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} in {}: {}: {}",
        netns.name(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_installed_is_not_found() {
        assert_eq!(find("iptables-of-nobody"), None);
        assert!(find("sh").is_some());
    }
}
