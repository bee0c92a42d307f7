//! Attaching: every link is pinned, so that programs outlive the agent, and a program is replaced by updating its
//! link, so that no packet and no socket call ever misses it.
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use aya::{
    pin::PinError,
    programs::{
        CgroupAttachMode, LinkOrder, ProgramError, TcAttachType,
        links::{FdLink, LinkError},
        tc::TcAttachOptions,
    },
};
use bpf_maps::{
    MillraceDir,
    link::{self, Target},
};

use super::{
    filter,
    hook::{CgroupHook, LinkName, PodHook, UplinkHook},
    load::{LoadError, Programs},
};
use crate::telemetry::chain;

/// Why a program is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error(transparent)]
    Pin(#[from] bpf_maps::Error),
    #[error("cannot attach {program} to {target}")]
    Attach { program: &'static str, target: String, source: Box<ProgramError> },
    #[error("cannot take over the link of {program} on {target}")]
    Link { program: &'static str, target: String, source: LinkError },
    #[error("cannot pin the link of {program} at {}", .path.display())]
    PinLink { program: &'static str, path: PathBuf, source: PinError },
    #[error(
        "{ifname} is interface {found} now, not {expected}: it was replaced; if it is a pod's, delete the pod"
    )]
    ReplacedInterface { ifname: String, expected: u32, found: u32 },
    #[error("cannot {operation} {}", .path.display())]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Where a pod's programs go, or that of an uplink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface<'a> {
    pub(crate) ifname: &'a str,
    pub(crate) ifindex: u32,
}

/// What became of the links of the run before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// They run the new programs.
    pub(crate) updated: usize,
    /// Their interface or cgroup is gone; their pins are removed.
    pub(crate) stale: usize,
}

/// The pinned links.
#[derive(Debug)]
pub(crate) struct Links {
    pub(super) dir: MillraceDir,
    pub(super) cgroup: PathBuf,
}

/// What a pin turned out to be.
enum Pinned {
    /// It is attached where it should be and runs the new program.
    Updated,
    /// Nothing useful is pinned.
    Absent,
    /// It is attached to another cgroup.
    Elsewhere,
}

impl Links {
    pub(crate) fn new(dir: MillraceDir, cgroup: PathBuf) -> Self {
        Self { dir, cgroup }
    }

    /// Puts the new programs into every link of the run before. Comes before anything else changes, so that the
    /// maps are never read by programs of another version.
    pub(crate) fn adopt(&self, programs: &Programs, cgroup: &[CgroupHook]) -> Result<Adopted, AttachError> {
        let mut adopted = Adopted::default();
        for name in self.dir.link_names()? {
            let program = match LinkName::parse(&name) {
                LinkName::Pod { hook, .. } => hook.program(),
                LinkName::Uplink { hook, .. } => hook.program(),
                LinkName::Cgroup(hook) if cgroup.contains(&hook) => hook.program(),
                LinkName::Cgroup(_) | LinkName::Unknown => {
                    tracing::info!("detaching {name}: it is not used any more");
                    self.remove(&name)?;
                    continue;
                }
            };
            if self.update(&name, programs, program)? {
                adopted.updated += 1;
            } else {
                self.remove(&name)?;
                adopted.stale += 1;
            }
        }
        Ok(adopted)
    }

    /// Attaches socket programs to the cgroup, unless they are there.
    pub(crate) fn attach_cgroup(
        &self,
        programs: &mut Programs,
        hooks: &[CgroupHook],
    ) -> Result<(), AttachError> {
        hooks.iter().try_for_each(|hook| self.attach_cgroup_hook(programs, *hook))
    }

    /// Attaches both programs to a pod's interface by links, or updates them where they are.
    pub(crate) fn attach_pod(&self, programs: &mut Programs, pod: Interface<'_>) -> Result<(), AttachError> {
        for hook in PodHook::ALL {
            let (program, name) = (hook.program(), hook.link_name(pod.ifname));
            self.attach_tcx(programs, pod, program, hook.direction(), &name)?;
        }
        filter::remove(pod.ifname);
        Ok(())
    }

    /// Attaches both programs to a new pod's interface in the way that takes least time. Whether links are still to
    /// follow.
    pub(crate) fn attach_new_pod(
        &self,
        programs: &mut Programs,
        pod: Interface<'_>,
    ) -> Result<bool, AttachError> {
        // Links of this name exist where an ADD is repeated, or where those of an earlier pod were left.
        let is_new =
            PodHook::ALL.iter().all(|hook| !self.dir.link_path(&hook.link_name(pod.ifname)).exists());
        if is_new {
            match filter::attach(programs, pod) {
                Ok(()) => return Ok(true),
                Err(error @ AttachError::ReplacedInterface { .. }) => return Err(error),
                // Without `clsact` or its filters in the kernel: links take longer, and do the same.
                Err(error) => tracing::debug!("{}", chain(&error)),
            }
        }
        self.attach_pod(programs, pod).map(|()| false)
    }

    /// Attaches the programs to each uplink, or updates them where they are, and detaches them from every other interface.
    pub(crate) fn attach_uplinks(
        &self,
        programs: &mut Programs,
        uplinks: &[Interface<'_>],
    ) -> Result<(), AttachError> {
        for uplink in uplinks {
            UplinkHook::ALL.into_iter().try_for_each(|hook| self.attach_uplink(programs, *uplink, hook))?;
        }
        for name in self.dir.link_names()? {
            if let LinkName::Uplink { ifname, hook } = LinkName::parse(&name)
                && !uplinks.iter().any(|uplink| uplink.ifname == ifname)
            {
                tracing::info!("detaching {} from {ifname}: it is no uplink any more", hook.program());
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Attaches one program to one uplink, or updates it where it is.
    pub(super) fn attach_uplink(
        &self,
        programs: &mut Programs,
        uplink: Interface<'_>,
        hook: UplinkHook,
    ) -> Result<(), AttachError> {
        self.attach_tcx(programs, uplink, hook.program(), hook.direction(), &hook.link_name(uplink.ifname))
    }

    /// Removes a pod's links. They may be gone already, with their interface.
    pub(crate) fn detach_pod(&self, host_ifname: &str) -> Result<(), AttachError> {
        // Both are tried, whatever becomes of the first.
        let [from_pod, to_pod] = PodHook::ALL.map(|hook| self.remove(&hook.link_name(host_ifname)));
        from_pod.and(to_pod)
    }

    fn attach_tcx(
        &self,
        programs: &mut Programs,
        interface: Interface<'_>,
        program: &'static str,
        direction: TcAttachType,
        name: &str,
    ) -> Result<(), AttachError> {
        let Interface { ifname, ifindex: expected } = interface;
        let wanted = |target| matches!(target, Target::Interface { ifindex, .. } if ifindex == expected);
        match self.pinned(name, wanted, programs, program)? {
            Pinned::Updated => return Ok(()),
            Pinned::Absent => {}
            // An earlier interface by this name.
            Pinned::Elsewhere => self.remove(name)?,
        }
        let failed =
            |source| AttachError::Attach { program, target: ifname.to_owned(), source: Box::new(source) };
        let classifier = programs.classifier(program)?;
        let head = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = classifier.attach_with_options(ifname, direction, head).map_err(failed)?;
        let link = classifier.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|source| link_failed(program, ifname, source))?;
        self.pin(link, name, program)?;
        // aya finds the interface by its name; the name may have moved to another interface since somebody looked.
        match link::info(self.open(name)?.as_fd(), name)?.target {
            Target::Interface { ifindex, .. } if ifindex != expected => {
                self.remove(name)?;
                let ifname = ifname.to_owned();
                Err(AttachError::ReplacedInterface { ifname, expected, found: ifindex })
            }
            Target::Interface { .. } | Target::Cgroup { .. } | Target::Other { .. } => Ok(()),
        }
    }

    fn attach_cgroup_hook(&self, programs: &mut Programs, hook: CgroupHook) -> Result<(), AttachError> {
        let program = hook.program();
        let cgroup = File::open(&self.cgroup).map_err(|source| self.cgroup_failed(source))?;
        let inode = cgroup.metadata().map_err(|source| self.cgroup_failed(source))?.ino();
        let wanted = |target| matches!(target, Target::Cgroup { id, .. } if id == inode);
        let pinned = self.pinned(program, wanted, programs, program)?;
        if matches!(pinned, Pinned::Updated) {
            return Ok(());
        }
        let target = self.cgroup_name();
        let failed =
            |source| AttachError::Attach { program, target: target.clone(), source: Box::new(source) };
        let sock_addr = programs.sock_addr(program)?;
        // A cgroup link shares its hook with others whatever the mode; the kernel refuses the flags of the others.
        let id = sock_addr.attach(&cgroup, CgroupAttachMode::Single).map_err(failed)?;
        let link = sock_addr.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|source| link_failed(program, &target, source))?;
        if matches!(pinned, Pinned::Absent) {
            return self.pin(link, program, program);
        }
        // The cgroup root was moved: the new link is in place before the old one ends.
        let moving = format!("{program}:moving");
        self.pin(link, &moving, program)?;
        let (from, to) = (self.dir.link_path(&moving), self.dir.link_path(program));
        fs::rename(&from, &to).map_err(|source| AttachError::Path { operation: "rename", path: from, source })
    }

    /// Looks at a pin, and puts the new program into its link when it is attached to the wanted target.
    fn pinned(
        &self,
        name: &str,
        wanted: impl Fn(Target) -> bool,
        programs: &Programs,
        program: &'static str,
    ) -> Result<Pinned, AttachError> {
        let link = match bpf_maps::obj_get(&self.dir.link_path(name)) {
            Ok(link) => link,
            Err(error) if error.is_missing() => return Ok(Pinned::Absent),
            Err(error) => return Err(error.into()),
        };
        if !wanted(link::info(link.as_fd(), name)?.target) {
            return Ok(Pinned::Elsewhere);
        }
        if self.update(name, programs, program)? { Ok(Pinned::Updated) } else { Ok(Pinned::Elsewhere) }
    }

    /// Puts the new program into a pinned link. `false` when what it was attached to is gone.
    fn update(&self, name: &str, programs: &Programs, program: &'static str) -> Result<bool, AttachError> {
        match link::update(self.open(name)?.as_fd(), programs.fd(program)?, name) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOLINK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: &str) -> Result<OwnedFd, AttachError> {
        Ok(bpf_maps::obj_get(&self.dir.link_path(name))?)
    }

    fn pin(&self, link: FdLink, name: &str, program: &'static str) -> Result<(), AttachError> {
        let path = self.dir.link_path(name);
        match link.pin(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(AttachError::PinLink { program, path, source }),
        }
    }

    fn remove(&self, name: &str) -> Result<(), AttachError> {
        let path = self.dir.link_path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AttachError::Path { operation: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The cgroup, for people.
    pub(crate) fn cgroup_name(&self) -> String {
        self.cgroup.display().to_string()
    }

    pub(super) fn cgroup_failed(&self, source: io::Error) -> AttachError {
        AttachError::Path { operation: "open", path: self.cgroup.clone(), source }
    }
}

fn link_failed(program: &'static str, target: &str, source: LinkError) -> AttachError {
    AttachError::Link { program, target: target.to_owned(), source }
}
