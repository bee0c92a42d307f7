//! The name of a run, everything it left on the machine, and the removal of what dead runs left.
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use super::{cgroup, netns};

/// File in a run's folder that says that the run was left up on purpose.
const KEPT: &str = "kept";

/// Names one topology; all that it makes on the machine carries this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    name: String,
}

impl Run {
    /// A name that no other topology of this machine has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("mr-{}-{number}", std::process::id()) }
    }

    /// The name of a part of the run.
    #[must_use]
    pub fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// The folder of the run's files. Short, because Unix sockets are below it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    /// Marks the run as left up on purpose: [`remove_dead`] passes it by.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.folder().join(KEPT), "").context("mark the run as kept")
    }

    /// What the run still has on the machine: namespaces, mounts, cgroups, folders, processes, interfaces.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let prefix = format!("{}-", self.name);
        for name in names_in(Path::new(netns::FOLDER))? {
            if name.starts_with(&prefix) {
                found.push(format!("network namespace {name}"));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        for line in mounts.lines().filter(|line| self.is_in(line)) {
            found.push(format!("mount {}", line.split(' ').nth(4).unwrap_or(line)));
        }
        for group in [cgroup::root()?.join(&self.name), self.folder()] {
            if group.exists() {
                found.push(format!("folder {}", group.display()));
            }
        }
        for (pid, command) in processes() {
            if self.is_in(&command) && pid != std::process::id() {
                found.push(format!("process {pid}: {command}"));
            }
        }
        for interface in names_in(Path::new("/sys/class/net"))? {
            if interface.starts_with(&prefix) {
                found.push(format!("interface {interface}"));
            }
        }
        Ok(found)
    }

    /// Whether a text names this run, and not one whose number only begins alike.
    fn is_in(&self, text: &str) -> bool {
        text.match_indices(&self.name)
            .any(|(at, name)| !text[at + name.len()..].starts_with(|next: char| next.is_ascii_digit()))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Removes what runs left whose process is gone (killed, or left up on purpose when `kept`). Returns their names.
pub fn remove_dead(kept: bool) -> Result<Vec<String>> {
    let groups = cgroup::root()?;
    let mut runs = Vec::new();
    for folder in [std::env::temp_dir(), groups.clone(), PathBuf::from(netns::FOLDER)] {
        runs.extend(names_in(&folder)?.iter().filter_map(|name| run_name(name)));
    }
    runs.sort();
    runs.dedup();
    runs.retain(|(pid, name)| {
        !Path::new("/proc").join(pid.to_string()).exists()
            && (kept || !std::env::temp_dir().join(name).join(KEPT).exists())
    });
    for (_, name) in &runs {
        cgroup::remove(&groups.join(name)).with_context(|| format!("remove the cgroups of {name}"))?;
        let run = Run { name: name.clone() };
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        for line in mounts.lines().filter(|line| run.is_in(line)) {
            if let Some(path) = line.split(' ').nth(4) {
                umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {path}"))?;
            }
        }
        for netns in names_in(Path::new(netns::FOLDER))? {
            if netns.starts_with(&format!("{name}-")) {
                netns::delete(&netns);
            }
        }
        match fs::remove_dir_all(run.folder()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.with_context(|| format!("remove {}", run.folder().display()))?,
        }
    }
    Ok(runs.into_iter().map(|(_, name)| name).collect())
}

/// Process id and name of the run that made something of this name.
fn run_name(name: &str) -> Option<(u32, String)> {
    let mut words = name.split('-');
    let (mark, pid, number) = (words.next()?, words.next()?, words.next()?);
    let pid = pid.parse().ok().filter(|_| mark == "mr")?;
    number.parse::<u32>().ok().map(|number| (pid, format!("mr-{pid}-{number}")))
}

/// Names in a folder; none when there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.with_context(|| format!("read {}", folder.display()))?,
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Processes and their command lines. One that ends meanwhile is not listed.
fn processes() -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_names_its_run() {
        let run = Run::unique();
        let (pid, name) = run_name(&run.part("node-1")).expect("a name of a run");
        assert_eq!((pid, name.as_str()), (std::process::id(), run.to_string().as_str()));
        assert_eq!(run_name("mr-north"), None);
        assert_eq!(run_name("cni-1-2"), None);
    }

    #[test]
    fn run_1_is_not_taken_for_run_12() {
        let run = Run { name: "mr-7-1".to_owned() };
        assert!(run.is_in("bpf /tmp/mr-7-1/node-1/bpf rw"));
        assert!(!run.is_in("bpf /tmp/mr-7-12/node-1/bpf rw"));
    }
}
