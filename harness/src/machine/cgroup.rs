//! cgroup v2 groups, so that each node has a cgroup root of its own as a real host has.
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Where the machine's cgroup2 file system is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    mount_point(&mounts)
        .context("no cgroup2 file system is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// The first mount of type cgroup2. Fields after the mount point end with ` - TYPE SOURCE OPTIONS` (proc(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        rest.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// One of the machine's cgroup file systems: the only one, or one of version 1 beside the one of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    pub version_2: bool,
    /// What to mount it with once more.
    pub options: String,
}

impl Hierarchy {
    /// Makes a group with its ancestors, ready to take processes, and returns its path.
    pub fn group(&self, path: &str) -> Result<PathBuf> {
        let mut group = self.mount_point.clone();
        for part in path.split('/') {
            let above = group.clone();
            group.push(part);
            if self.version_2 && !group.exists() {
                pass_on_controllers(&above)?;
            }
            match fs::create_dir(&group) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.with_context(|| format!("create cgroup {}", group.display()))?,
            }
            // Version 1 takes no process into a group without processors and memory.
            for set in ["cpuset.cpus", "cpuset.mems"] {
                if !self.version_2 && group.join(set).exists() {
                    let inherited = fs::read_to_string(above.join(set)).unwrap_or_default();
                    fs::write(group.join(set), inherited.trim())
                        .with_context(|| format!("set {set} of {}", group.display()))?;
                }
            }
        }
        Ok(group)
    }
}

/// Lets the groups below a group of version 2 have every controller that it has: where there is no other hierarchy,
/// container runtimes need them.
fn pass_on_controllers(group: &Path) -> Result<()> {
    let all =
        fs::read_to_string(group.join("cgroup.controllers")).context("read the controllers of a group")?;
    let wanted: Vec<String> = all.split_whitespace().map(|controller| format!("+{controller}")).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    fs::write(group.join("cgroup.subtree_control"), wanted.join(" "))
        .with_context(|| format!("pass the controllers of {} on", group.display()))
}

/// All hierarchies of the machine.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mut found: Vec<Hierarchy> = mounts.lines().filter_map(hierarchy).collect();
    found.dedup_by(|one, other| one.mount_point == other.mount_point);
    if !found.iter().any(|hierarchy| hierarchy.version_2) {
        root()?;
    }
    Ok(found)
}

/// The hierarchy that a line of mountinfo shows.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (fields, rest) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(fields.split(' ').nth(4)?);
    let mut rest = rest.split(' ');
    let version_2 = match rest.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = rest.nth(1)?.split(',').filter(|option| {
        !version_2
            && !["rw", "ro", "xattr", "clone_children"].contains(option)
            && !option.starts_with("release_agent")
    });
    let mut options = options.collect::<Vec<_>>().join(",");
    if options.starts_with("name=") {
        options.insert_str(0, "none,");
    }
    Some(Hierarchy { mount_point, version_2, options })
}

/// A group that ends its processes and disappears when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group below another one.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("remove cgroup {}: {error}", self.path.display());
        }
    }
}

/// Ends the processes of a group and its descendants, and waits until they are gone. No such group is no error.
pub fn kill(path: &Path, patience: Duration) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    let deadline = Instant::now() + patience;
    while fs::read_to_string(path.join("cgroup.events"))?.contains("populated 1") {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "killed processes are still there"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Ends the processes of a group and its descendants, then removes them. What is gone already is no error. A group of
/// version 1 must have lost its processes already: only version 2 can end them.
pub fn remove(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let kill = path.join("cgroup.kill");
    if kill.exists() {
        fs::write(kill, "1")?;
    }
    for child in fs::read_dir(path)? {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove(&child.path())?;
        }
    }
    // A killed process leaves its group a moment later.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_version_1() {
        let mountinfo = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("41 31 0:38 / /sys/fs/cgroup rw - cgroup cgroup rw\n"), None);
    }

    #[test]
    fn hierarchies_can_be_mounted_once_more() {
        let named = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd";
        assert_eq!(hierarchy(named).map(|hierarchy| hierarchy.options), Some("none,name=systemd".to_owned()));
        let pair = "41 31 0:38 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(hierarchy(pair).map(|hierarchy| hierarchy.options), Some("cpu,cpuacct".to_owned()));
        let unified = "42 31 0:39 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        let unified = hierarchy(unified).expect("a hierarchy");
        assert!(unified.version_2 && unified.options.is_empty(), "{unified:?}");
        assert_eq!(hierarchy("43 31 0:40 / /tmp rw - tmpfs tmpfs rw"), None);
    }
}
