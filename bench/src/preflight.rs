//! What must be right before anything is measured; the error names all that is not, and what to do.
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use harness::kernel;

use crate::{
    baseline,
    case::{CASES, Case},
    measure::{cpu, memory},
    options::Options,
    system::Kind,
};

const MIB: u64 = 1 << 20;
/// Memory that a node with this many services takes, by measurement, rounded up: the agent or kube-proxy, the kernel's
/// share and the pods.
const PER_SYSTEM: u64 = 200 * MIB;
const PER_THOUSAND_SERVICES: u64 = 40 * MIB;

/// What a run is made of.
pub(crate) struct Ready {
    pub(crate) cases: Vec<&'static Case>,
    pub(crate) kinds: Vec<Kind>,
    /// Kinds that were not asked for by name and cannot run here, with the reason.
    pub(crate) absent: Vec<(Kind, String)>,
    /// Held as long as the run lasts.
    pub(crate) _lock: File,
}

/// Checks the command line and the machine.
pub(crate) fn check(options: &Options) -> Result<Ready> {
    let lock = lock()?;
    let mut wrong = Vec::new();
    let cases = chosen(&options.cases, &mut wrong);
    let (kinds, absent) = kinds(&options.systems, &mut wrong);
    wrong.extend(kernel::NETNS.iter().filter_map(|need| need.unmet()));
    let cpus = cpu::count()?;
    if cpus < 2 {
        wrong.push(format!(
            "this machine has {cpus} CPU: one is measured on and one is needed for everything else; use a machine with two"
        ));
    }
    let (needed, available) = (memory_needed(&kinds, &options.sizes()), memory::available()?);
    if needed > available {
        wrong.push(format!(
            "{} MiB of memory are available and about {} MiB are needed; choose smaller --sizes or fewer --systems",
            available / MIB,
            needed / MIB
        ));
    }
    if !wrong.is_empty() {
        bail!("nothing was measured:\n  - {}", wrong.join("\n  - "));
    }
    Ok(Ready { cases, kinds, absent, _lock: lock })
}

fn chosen(names: &[String], wrong: &mut Vec<String>) -> Vec<&'static Case> {
    if names.is_empty() {
        return CASES.iter().collect();
    }
    for name in names {
        if !CASES.iter().any(|case| case.id.eq_ignore_ascii_case(name)) {
            let known: Vec<&str> = CASES.iter().map(|case| case.id).collect();
            wrong.push(format!("there is no case {name}; there are {}", known.join(" ")));
        }
    }
    CASES.iter().filter(|case| names.iter().any(|name| case.id.eq_ignore_ascii_case(name))).collect()
}

/// Chosen systems must work; of the others those are taken that do. Plain routing and loopback are always there.
fn kinds(chosen: &[Kind], wrong: &mut Vec<String>) -> (Vec<Kind>, Vec<(Kind, String)>) {
    let (mut kinds, mut absent) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let always = matches!(kind, Kind::Plain | Kind::Loopback);
        let by_name = chosen.contains(&kind);
        if !always && !by_name && !chosen.is_empty() {
            continue;
        }
        let unavailable = match kind {
            Kind::KubeProxy(backend) => baseline::unavailable(backend),
            Kind::Loopback | Kind::Plain | Kind::Millrace => None,
        };
        match unavailable {
            None => kinds.push(kind),
            Some(why) if by_name => wrong.push(format!("{why}; or leave {kind} out of --systems")),
            Some(why) => absent.push((kind, why)),
        }
    }
    (kinds, absent)
}

fn memory_needed(kinds: &[Kind], sizes: &[usize]) -> u64 {
    let systems = kinds.iter().filter(|kind| kind.has_services()).count() as u64;
    let services: usize = sizes.iter().sum();
    systems * (sizes.len() as u64 * PER_SYSTEM + services as u64 * PER_THOUSAND_SERVICES / 1000)
}

/// Two runs at a time would measure each other.
fn lock() -> Result<File> {
    let path = lock_path();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another benchmark is running (it holds {}): wait for it, or end it with Ctrl-C",
            path.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn lock_path() -> PathBuf {
    std::env::temp_dir().join("millrace-bench.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_case_is_named_with_those_that_are_known() {
        let mut wrong = Vec::new();
        let cases = chosen(&["b2".to_owned(), "B99".to_owned()], &mut wrong);
        assert_eq!(cases.iter().map(|case| case.id).collect::<Vec<_>>(), ["B2"]);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("B99") && wrong[0].contains("B19"), "{wrong:?}");
    }

    #[test]
    fn memory_grows_with_systems_and_services() {
        let few = memory_needed(&[Kind::Plain, Kind::Millrace], &[10]);
        let many = memory_needed(&[Kind::Plain, Kind::Millrace], &[10, 50_000]);
        assert!(few >= PER_SYSTEM && many > 2000 * MIB, "{few} {many}");
        assert_eq!(memory_needed(&[Kind::Plain], &[50_000]), 0);
    }
}
