//! Taking a cluster away. Nothing but its name is needed: whatever a cluster makes carries it.
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::name::ClusterName;
use crate::{
    eventually::holds,
    machine::{cgroup, netns},
};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes everything of a cluster: processes, cgroups, namespaces, files. What is gone already is no error; after a
/// failure the rest is removed all the same.
pub fn remove(cluster: &ClusterName) -> Result<()> {
    let mut problems = Vec::new();
    let hierarchies = cgroup::hierarchies()?;
    // Every process of a cluster is in its group, the containers' included.
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.version_2) {
        let group = hierarchy.mount_point.join(cluster.scope());
        let killed = cgroup::kill(&group, PATIENCE);
        problems.extend(killed.with_context(|| format!("end the processes of {}", group.display())).err());
    }
    for hierarchy in &hierarchies {
        let group = hierarchy.mount_point.join(cluster.scope());
        problems.extend(cgroup::remove(&group).with_context(|| format!("remove {}", group.display())).err());
    }
    for name in names_in(Path::new(netns::FOLDER))? {
        if ClusterName::of(&name).as_ref() == Some(cluster) {
            netns::delete(&name);
        }
    }
    problems.extend(remove_folder(&cluster.folder()).err());
    // A killed process is listed until its parent, often the machine's first process, has taken note.
    let noted =
        holds("killed processes are gone", PATIENCE, || processes(cluster).is_ok_and(|left| left.is_empty()));
    problems.extend(noted.err());
    // The folder of all clusters goes with the last one.
    let _ = fs::remove_dir(ClusterName::folders());
    match problems.into_iter().reduce(|all, next| all.context(format!("{next:#}"))) {
        Some(problem) => Err(problem.context(format!("cluster {cluster} is not wholly gone"))),
        None => Ok(()),
    }
}

/// Every cluster that has something on this machine.
pub fn present() -> Result<Vec<ClusterName>> {
    let mut names: Vec<ClusterName> =
        names_in(&ClusterName::folders())?.iter().filter_map(|name| name.parse().ok()).collect();
    let groups = cgroup::root()?;
    for folder in [groups.as_path(), Path::new(netns::FOLDER)] {
        names.extend(names_in(folder)?.iter().filter_map(|name| ClusterName::of(name)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What a cluster has on this machine: processes, cgroups, namespaces, mounts, files.
pub fn leftovers(cluster: &ClusterName) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for hierarchy in cgroup::hierarchies()? {
        let group = hierarchy.mount_point.join(cluster.scope());
        if group.exists() {
            found.push(format!("cgroup {}", group.display()));
        }
    }
    for name in names_in(Path::new(netns::FOLDER))? {
        if ClusterName::of(&name).as_ref() == Some(cluster) {
            found.push(format!("network namespace {name}"));
        }
    }
    let folder = cluster.folder();
    if folder.exists() {
        found.push(format!("folder {}", folder.display()));
    }
    let inside = format!("{}/", folder.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(&inside)).map(|line| format!("mount {line}")));
    found.extend(processes(cluster)?);
    Ok(found)
}

/// The processes of a cluster.
fn processes(cluster: &ClusterName) -> Result<Vec<String>> {
    let inside = format!("{}/", cluster.folder().display());
    let mut found = Vec::new();
    for process in names_in(Path::new("/proc"))?.iter().filter(|name| name.parse::<u32>().is_ok()) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        let is_in_group = read("cgroup").split(['/', '\n']).any(|group| group == cluster.scope());
        if is_in_group || command.contains(&inside) {
            found.push(format!("process {process}: {command}"));
        }
    }
    Ok(found)
}

/// Mounts of namespaces that just lost their last process go away a moment later.
fn remove_folder(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir_all(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                bail!("remove {}: {error}", folder.display());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Names in a folder; none when there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.with_context(|| format!("read {}", folder.display()))?,
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
