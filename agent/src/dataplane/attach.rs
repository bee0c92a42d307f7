//! Attaching: every link is pinned, so that programs outlive the agent, and a program is replaced by updating its
//! link, so that no packet and no socket call ever misses it. Where the kernel has no links for interfaces, filters take
//! their place: see [`filter`].
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::{
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, TcAttachType,
        links::{FdLink, LinkError},
        tc::TcAttachOptions,
    },
};
use bpf_maps::{
    MillraceDir,
    link::{self, Target},
};
use nix::net::if_::if_nametoindex;

use super::{
    filter,
    hook::{CgroupHook, LinkName, PodHook, UplinkHook, link_name},
    load::{LoadError, Programs},
};
use crate::{net::clsact, telemetry::chain};

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
    #[error("cannot attach {program} to {ifname} as a filter of clsact")]
    Filter { program: &'static str, ifname: String, source: io::Error },
    #[error(
        "cannot attach {program} to {ifname}: another owner has a filter of priority {priority} there, the first, which it \
         needs; give that one another (`tc filter show dev {ifname} ingress` and `egress` list them)"
    )]
    Occupied { program: &'static str, ifname: String, priority: u16 },
    #[error("cannot list the filters of the interfaces")]
    Filters(#[source] io::Error),
    #[error("cannot remove the qdisc clsact, which was made for {program}, from {ifname}")]
    Qdisc { program: &'static str, ifname: String, source: io::Error },
    #[error("cannot {operation} {}", .path.display())]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By links of tcx.
    Tcx,
    /// As filters of the `clsact` qdisc.
    Clsact,
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
    pub(super) by: By,
}

/// What a pin turned out to be.
pub(super) enum Pinned {
    /// It is attached where it should be and runs the new program.
    Updated,
    /// Nothing useful is pinned.
    Absent,
    /// It is attached to another cgroup.
    Elsewhere,
}

impl Links {
    pub(super) fn new(dir: MillraceDir, cgroup: PathBuf, by: By) -> Self {
        Self { dir, cgroup, by }
    }

    /// Names of the links, and of what stands for them where there are filters.
    pub(super) fn names(&self) -> Result<BTreeSet<String>, AttachError> {
        let mut names: BTreeSet<String> = self.dir.link_names()?.into_iter().collect();
        if self.by == By::Clsact {
            let attached = filter::attached().map_err(AttachError::Filters)?;
            names.extend(attached.iter().map(|filter| link_name(&filter.ifname, filter.program)));
        }
        Ok(names)
    }

    /// Puts the new programs into every link and filter of the run before. Comes before anything else changes, so that the
    /// maps are never read by programs of another version.
    pub(crate) fn adopt(&self, programs: &Programs, cgroup: &[CgroupHook]) -> Result<Adopted, AttachError> {
        let mut adopted = Adopted::default();
        for name in self.dir.link_names()? {
            let program = match LinkName::parse(&name) {
                LinkName::Pod { hook, .. } => hook.program(),
                LinkName::Uplink { hook, .. } => hook.program(),
                LinkName::Cgroup(hook) if cgroup.contains(&hook) => hook.program(),
                LinkName::Qdisc { ifname } if if_nametoindex(ifname.as_str()).is_ok() => continue,
                // It went with its interface.
                LinkName::Qdisc { .. } => {
                    self.remove(&name)?;
                    continue;
                }
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
        adopted.updated += filter::adopt(programs)?;
        Ok(adopted)
    }

    /// Attaches both programs to a pod's interface for good, or updates them where they are.
    pub(crate) fn attach_pod(&self, programs: &mut Programs, pod: Interface<'_>) -> Result<(), AttachError> {
        for hook in PodHook::ALL {
            let (program, name) = (hook.program(), hook.link_name(pod.ifname));
            match self.by {
                By::Tcx => self.attach_tcx(programs, pod, program, hook.direction(), &name)?,
                By::Clsact => _ = filter::put(programs, pod, program, hook.tcx())?,
            }
        }
        match self.by {
            // One that stays runs no more.
            By::Tcx => detach_filters(pod).unwrap_or_else(|error| tracing::debug!("{}", chain(&error))),
            By::Clsact => self.detach_links(pod.ifname)?,
        }
        Ok(())
    }

    /// Attaches both programs to a new pod's interface in the way that takes least time. Whether links are still to
    /// follow.
    pub(crate) fn attach_new_pod(
        &self,
        programs: &mut Programs,
        pod: Interface<'_>,
    ) -> Result<bool, AttachError> {
        if self.by == By::Clsact {
            return self.attach_pod(programs, pod).map(|()| false);
        }
        // Links of this name exist where an ADD is repeated, or where those of an earlier pod were left.
        let is_new =
            PodHook::ALL.iter().all(|hook| !self.dir.link_path(&hook.link_name(pod.ifname)).exists());
        if is_new {
            match filter::attach_new(programs, pod) {
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
        for filter in filter::attached().map_err(AttachError::Filters)? {
            let is_wanted = uplinks.iter().any(|uplink| uplink.ifindex == filter.ifindex);
            let hook = UplinkHook::ALL.into_iter().find(|hook| hook.program() == filter.program);
            if let Some(hook) = hook.filter(|_| !is_wanted) {
                tracing::info!(
                    "detaching {} from {}: it is no uplink any more",
                    filter.program,
                    filter.ifname
                );
                let uplink = Interface { ifname: &filter.ifname, ifindex: filter.ifindex };
                self.detach_uplink_filter(uplink, hook)?;
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
        let (program, name) = (hook.program(), hook.link_name(uplink.ifname));
        if self.by == By::Tcx {
            self.attach_tcx(programs, uplink, program, hook.direction(), &name)?;
            // The qdisc stays: to take it away, the kernel stops the interface's queues for a moment (`qdisc_graft`).
            return filter::remove(uplink, program, hook.tcx());
        }
        if filter::put(programs, uplink, program, hook.tcx())? {
            self.note_qdisc(programs, uplink.ifname)?;
        }
        self.remove(&name)
    }

    /// Notes that the qdisc of an interface was made for our filters.
    fn note_qdisc(&self, programs: &mut Programs, ifname: &str) -> Result<(), AttachError> {
        let name = UplinkHook::qdisc_name(ifname);
        self.remove(&name)?;
        let path = self.dir.link_path(&name);
        programs.pin_clock(&path)?.map_err(|source| AttachError::PinLink { program: "clsact", path, source })
    }

    /// Removes a program of uplinks from an interface, and its qdisc if it was made for us and nobody uses it any more.
    fn detach_uplink_filter(&self, uplink: Interface<'_>, hook: UplinkHook) -> Result<(), AttachError> {
        let (program, name) = (hook.program(), UplinkHook::qdisc_name(uplink.ifname));
        filter::remove(uplink, program, hook.tcx())?;
        if !self.dir.link_path(&name).exists() {
            return Ok(());
        }
        let ifname = uplink.ifname.to_owned();
        clsact::remove_qdisc_if_empty(uplink.ifindex).map_err(|source| AttachError::Qdisc {
            program,
            ifname,
            source,
        })?;
        // Whoever uses it now keeps it.
        self.remove(&name)
    }

    /// Takes the programs off a pod's interface. It may be gone already.
    pub(crate) fn detach_pod(&self, pod: Interface<'_>) -> Result<(), AttachError> {
        // Both are tried, whatever becomes of the first.
        let links = self.detach_links(pod.ifname);
        if self.by == By::Clsact { detach_filters(pod).and(links) } else { links }
    }

    /// Removes a pod's links.
    pub(super) fn detach_links(&self, host_ifname: &str) -> Result<(), AttachError> {
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

    /// Looks at a pin, and puts the new program into its link when it is attached to the wanted target.
    pub(super) fn pinned(
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

    pub(super) fn pin(&self, link: FdLink, name: &str, program: &'static str) -> Result<(), AttachError> {
        let path = self.dir.link_path(name);
        match link.pin(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(AttachError::PinLink { program, path, source }),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), AttachError> {
        let path = self.dir.link_path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AttachError::Path { operation: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn detach_filters(pod: Interface<'_>) -> Result<(), AttachError> {
    let [from_pod, to_pod] = PodHook::ALL.map(|hook| filter::remove(pod, hook.program(), hook.tcx()));
    from_pod.and(to_pod)
}

pub(super) fn link_failed(program: &'static str, target: &str, source: LinkError) -> AttachError {
    AttachError::Link { program, target: target.to_owned(), source }
}
