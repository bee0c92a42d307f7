//! Attaching the socket programs to the cgroup, by links.
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
};

use aya::programs::{CgroupAttachMode, links::FdLink};
use bpf_maps::link::Target;

use super::{
    attach::{AttachError, Links, Pinned, link_failed},
    hook::CgroupHook,
    load::Programs,
};

impl Links {
    /// Attaches socket programs to the cgroup, unless they are there.
    pub(crate) fn attach_cgroup(
        &self,
        programs: &mut Programs,
        hooks: &[CgroupHook],
    ) -> Result<(), AttachError> {
        hooks.iter().try_for_each(|hook| self.attach_cgroup_hook(programs, *hook))
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

    /// The cgroup, for people.
    pub(crate) fn cgroup_name(&self) -> String {
        self.cgroup.display().to_string()
    }

    pub(super) fn cgroup_failed(&self, source: io::Error) -> AttachError {
        AttachError::Path { operation: "open", path: self.cgroup.clone(), source }
    }
}
