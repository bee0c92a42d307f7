//! What a node sees of the machine: its programs, but no place of it to write to. Everything that programs of a node
//! write to is the node's own: `/etc`, `/opt`, `/var` and `/tmp` are kept in the node's folder, `/run`, `/sys` and the
//! bpffs last as long as its processes.
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use crate::{
    kubernetes::programs::IN_NODES,
    machine::cgroup::{Hierarchy, hierarchies},
};

/// The group of the host's own programs, below the node's root group: a group with children and controllers takes no
/// processes.
pub(super) const HOST_GROUP: &str = "system";

/// What the keeper of a node's namespaces is told, as its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The node's scope, so that its process can be recognised.
    pub scope: String,
    pub host_name: String,
    /// The node's folder on the machine.
    pub folder: PathBuf,
    /// The folder of the components.
    pub programs: PathBuf,
}

/// The two implementations of `iptables`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Iptables {
    #[default]
    Nft,
    Legacy,
}

impl Iptables {
    /// The end of its programs' names.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// Makes a folder of links, so that this implementation is found first on a search path that begins there.
    pub fn link(self, folder: &Path) -> Result<()> {
        let suffix = self.suffix();
        for family in ["iptables", "ip6tables"] {
            for part in ["", "-save", "-restore"] {
                replace_link(
                    &format!("/usr/sbin/{family}-{suffix}{part}"),
                    &folder.join(format!("{family}{part}")),
                )?;
            }
        }
        Ok(())
    }
}

/// Makes the folders of a node, on the machine. What they hold already stays.
pub(super) fn prepare(folder: &Path, iptables: Iptables) -> Result<()> {
    let folders = [
        "etc/cni/net.d",
        "etc/kubernetes/pki",
        "etc.work",
        "opt/cni/bin",
        "opt/cluster/bin",
        "opt/cluster/iptables",
        "tmp",
        "var/lib/kubelet",
        "var/log/pods",
        "var/tmp",
    ];
    for part in folders {
        let path = folder.join(part);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    iptables.link(&folder.join("opt/cluster/iptables"))?;
    for (link, to) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        replace_link(to, &folder.join(link))?;
    }
    Ok(())
}

fn replace_link(to: &str, link: &Path) -> Result<()> {
    let _ = fs::remove_file(link);
    symlink(to, link).with_context(|| format!("link {}", link.display()))
}

/// Makes the calling process see the node: its mounts, its host name, its cgroup root. It is in the node's network and
/// groups already.
pub(super) fn enter(order: &Order) -> Result<()> {
    let groups = hierarchies()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP)
        .context("make the namespaces of a node")?;
    mount_flags(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    fs::write("/proc/sys/kernel/hostname", &order.host_name).context("set the host name")?;
    release_foreign_objects()?;
    mount_sys(&groups)?;
    mount_folders(order)?;
    fs::create_dir_all(unified(&groups)?.join(HOST_GROUP)).context("create the group of the host")?;
    fs::write(unified(&groups)?.join(HOST_GROUP).join("cgroup.procs"), "0")
        .context("enter the group of the host")?;
    // As on a real host: the programs of the machine are there, and nothing of a node lands beside them.
    mount_flags(Path::new("/"), MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    // Volumes with propagation need it, and systemd makes it so on a real host.
    mount_flags(Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC)
}

/// Copies of mounts keep namespaces and pins of others alive for as long as this node lives.
fn release_foreign_objects() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for line in mounts.lines().rev() {
        let Some((fields, rest)) = line.split_once(" - ") else { continue };
        if !(rest.starts_with("nsfs ") || rest.starts_with("bpf ")) {
            continue;
        }
        if let Some(path) = fields.split(' ').nth(4) {
            umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {path}"))?;
        }
    }
    Ok(())
}

/// `/sys` of the node's network, its view of the cgroups, and a bpffs of its own.
fn mount_sys(groups: &[Hierarchy]) -> Result<()> {
    // Under the new one, whoever looks for a mount of some kind would still find the machine's.
    umount2("/sys", MntFlags::MNT_DETACH).context("unmount the machine's /sys")?;
    mount_new("sysfs", Path::new("/sys"), "")?;
    let several = groups.iter().any(|hierarchy| !hierarchy.version_2);
    if several {
        mount_new("tmpfs", Path::new("/sys/fs/cgroup"), "mode=755")?;
    }
    for hierarchy in groups {
        if several {
            let path = &hierarchy.mount_point;
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        let kind = if hierarchy.version_2 { "cgroup2" } else { "cgroup" };
        mount_new(kind, &hierarchy.mount_point, &hierarchy.options)?;
    }
    mount_new("bpf", Path::new("/sys/fs/bpf"), "mode=0700")
}

/// The node's own folders over those of the machine. What sources are below comes last.
fn mount_folders(order: &Order) -> Result<()> {
    let folder = &order.folder;
    bind(&folder.join("opt"), Path::new("/opt"))?;
    bind(&order.programs, Path::new(IN_NODES))?;
    mount_flags(Path::new(IN_NODES), MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    let layers = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        folder.join("etc").display(),
        folder.join("etc.work").display()
    );
    mount_new("overlay", Path::new("/etc"), &layers)?;
    let var = Path::new("/var");
    let tmp = folder.join("tmp");
    if tmp.starts_with("/tmp") {
        bind(&folder.join("var"), var)?;
        bind(&tmp, Path::new("/tmp"))?;
    } else {
        bind(&tmp, Path::new("/tmp"))?;
        bind(&folder.join("var"), var)?;
    }
    mount_new("tmpfs", Path::new("/run"), "mode=755")?;
    fs::create_dir_all("/run/lock").context("create /run/lock")
}

fn unified(groups: &[Hierarchy]) -> Result<&Path> {
    let unified = groups.iter().find(|hierarchy| hierarchy.version_2);
    unified.map(|hierarchy| hierarchy.mount_point.as_path()).context("no cgroup2 file system is mounted")
}

fn mount_new(kind: &str, at: &Path, options: &str) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} at {} ({options})", at.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} at {}", from.display(), to.display()))
}

fn mount_flags(at: &Path, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("set {flags:?} of {}", at.display()))
}
