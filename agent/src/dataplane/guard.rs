//! Whether every program is where it must be, and putting back what is not: anybody with the capability may detach a
//! link or attach a program before ours, and the kernel tells nobody.
use std::{
    fs, mem,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use agent_core::model::endpoint::Endpoint;
use bpf_maps::link::{self, LinkInfo, Target, TcxHook};

use super::{
    Dataplane,
    attach::{AttachError, By, Interface, Links},
    filter,
    hook::{CgroupHook, PodHook, UplinkHook},
    load::Programs,
};
use crate::telemetry::chain;

/// Where our program is among those on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    /// Another program comes before it: one that passes a packet ends its way, and ours never sees it.
    Behind,
    Missing,
    /// The interface is gone, and with it what could reach the pod.
    NoInterface,
}

impl Place {
    pub(super) fn among(running: &[u32], ours: u32) -> Self {
        match running.iter().position(|id| *id == ours) {
            Some(0) => Self::First,
            Some(_) => Self::Behind,
            None => Self::Missing,
        }
    }
}

/// What a look at the hooks came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guarded {
    /// One sentence for each interface, or for the sockets, that was put right.
    pub(crate) repaired: Vec<String>,
    /// One for each that could not be.
    pub(crate) failed: Vec<String>,
}

impl Guarded {
    fn note(&mut self, found: &str, repair: Result<(), AttachError>) {
        match repair {
            Ok(()) => self.repaired.push(found.to_owned()),
            Err(error) => self.failed.push(format!("{found}: {}", chain(&error))),
        }
    }
}

impl Dataplane {
    /// Looks at every hook of the endpoints, of the uplinks and of the sockets, and puts back what is not in its place.
    pub(crate) fn guard<'a>(&mut self, endpoints: impl Iterator<Item = &'a Endpoint>) -> Guarded {
        if self.leaves_links_alone() {
            return Guarded::default();
        }
        let mut guarded = Guarded { repaired: mem::take(&mut self.repaired), failed: Vec::new() };
        self.guard_sockets(&mut guarded);
        self.guard_uplinks(&mut guarded);
        for endpoint in endpoints {
            self.guard_pod(endpoint, &mut guarded);
        }
        guarded
    }

    /// The programs of an endpoint that are not in their places: a sentence each.
    pub(crate) fn misplaced(&self, endpoint: &Endpoint) -> Vec<String> {
        if self.leaves_links_alone() {
            return Vec::new();
        }
        let sentence = |hook: PodHook| {
            let at = format!("pod {}: {} on {}", endpoint.pod, hook.program(), endpoint.host_ifname);
            match self.place_on_pod(endpoint, hook) {
                Ok(Place::First) => None,
                Ok(Place::Behind) => Some(format!("{at} is behind the program of another owner")),
                Ok(Place::Missing) => Some(format!("{at} is not attached")),
                Ok(Place::NoInterface) => Some(format!("{at} is not attached: the interface is gone")),
                Err(error) => Some(format!("{at}: {}", chain(&error))),
            }
        };
        PodHook::ALL.into_iter().filter_map(sentence).collect()
    }

    /// An interface whose links are still to come is guarded by its filters, as long as no link is there.
    fn place_on_pod(&self, endpoint: &Endpoint, hook: PodHook) -> Result<Place, AttachError> {
        let pod = Interface { ifname: &endpoint.host_ifname, ifindex: endpoint.host_ifindex };
        let place = self.links.place(&self.programs, pod, hook.program(), hook.tcx())?;
        let is_unlinked = self.unlinked.iter().any(|(ifname, _)| *ifname == endpoint.host_ifname);
        if place == Place::Missing && is_unlinked && link::tcx_programs(pod.ifindex, hook.tcx())?.is_empty() {
            return filter::place(&self.programs, pod, hook.program(), hook.tcx());
        }
        Ok(place)
    }

    /// Attaches the programs of an endpoint for good. Its links have come, then.
    fn attach_again(&mut self, pod: Interface<'_>) -> Result<(), AttachError> {
        self.links.attach_pod(&mut self.programs, pod)?;
        self.unlinked.retain(|(ifname, _)| ifname != pod.ifname);
        Ok(())
    }

    fn guard_sockets(&mut self, guarded: &mut Guarded) {
        let hooks = self.options.cgroup_hooks();
        let detached: Vec<&str> = hooks
            .iter()
            .filter(|hook| !self.links.is_on_cgroup(&self.programs, **hook).unwrap_or(false))
            .map(|hook| hook.program())
            .collect();
        if !detached.is_empty() {
            let found = format!("sockets: {} was detached from the cgroup", detached.join(", "));
            guarded.note(&found, self.links.attach_cgroup(&mut self.programs, hooks));
        }
    }

    pub(super) fn guard_uplinks(&mut self, guarded: &mut Guarded) {
        let hooks = self
            .uplinks
            .iter()
            .flat_map(|uplink| UplinkHook::ALL.into_iter().map(move |hook| (uplink, hook)));
        for ((ifname, ifindex), hook) in hooks {
            let uplink = Interface { ifname, ifindex: *ifindex };
            let at = format!("uplink: {} on {ifname}", hook.program());
            match self.links.place(&self.programs, uplink, hook.program(), hook.tcx()) {
                Ok(Place::First | Place::NoInterface) => {}
                Ok(Place::Missing) => {
                    let repair = self.links.attach_uplink(&mut self.programs, uplink, hook);
                    guarded.note(&format!("{at} was detached"), repair);
                }
                Ok(Place::Behind) => {
                    let repair = self.links.put_uplink_first(&mut self.programs, uplink, hook);
                    guarded.note(&format!("{at} was behind the program of another owner"), repair);
                }
                Err(error) => guarded.note(&at, Err(error)),
            }
        }
    }

    fn guard_pod(&mut self, endpoint: &Endpoint, guarded: &mut Guarded) {
        let pod = Interface { ifname: &endpoint.host_ifname, ifindex: endpoint.host_ifindex };
        // A repair is of both: what each was is found out before.
        for (hook, place) in PodHook::ALL.map(|hook| (hook, self.place_on_pod(endpoint, hook))) {
            let at = format!("pod {}: {} on {}", endpoint.pod, hook.program(), endpoint.host_ifname);
            match place {
                Ok(Place::First | Place::NoInterface) => {}
                Ok(Place::Missing) => {
                    let repair = self.attach_again(pod);
                    guarded.note(&format!("{at} was detached"), repair);
                }
                Ok(Place::Behind) => {
                    let repair = self.links.put_pod_first(&mut self.programs, pod);
                    if repair.is_ok() {
                        self.unlinked.retain(|(ifname, _)| ifname != pod.ifname);
                    }
                    guarded.note(&format!("{at} was behind the program of another owner"), repair);
                }
                Err(error) => guarded.note(&at, Err(error)),
            }
        }
    }
}

impl Links {
    /// Where a program is among those that run on a hook of an interface.
    fn place(
        &self,
        programs: &Programs,
        interface: Interface<'_>,
        program: &'static str,
        hook: TcxHook,
    ) -> Result<Place, AttachError> {
        if self.by == By::Clsact {
            return filter::place(programs, interface, program, hook);
        }
        let ours = bpf_maps::program::info(programs.fd(program)?)?.id;
        match link::tcx_programs(interface.ifindex, hook) {
            Ok(running) => Ok(Place::among(&running, ours)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Place::NoInterface),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the programs of a pod's interface come first again. The kernel takes a program only once on each hook, so
    /// the new link cannot be made before the old one goes: filters guard the interface in between.
    fn put_pod_first(&self, programs: &mut Programs, pod: Interface<'_>) -> Result<(), AttachError> {
        if self.by == By::Clsact {
            return PodHook::ALL
                .into_iter()
                .try_for_each(|hook| filter::put_first(programs, pod, hook.program(), hook.tcx()));
        }
        if let Err(error) = filter::attach_new(programs, pod) {
            tracing::debug!("{}", chain(&error));
        }
        for name in PodHook::ALL.map(|hook| hook.link_name(pod.ifname)) {
            self.end_link(&name)?;
        }
        self.detach_links(pod.ifname)?;
        self.attach_pod(programs, pod)
    }

    /// Makes the program of an uplink come first again. Without it packets go through the host's stack, and are judged
    /// where they enter a pod: nothing needs to guard the moment between the links.
    fn put_uplink_first(
        &self,
        programs: &mut Programs,
        uplink: Interface<'_>,
        hook: UplinkHook,
    ) -> Result<(), AttachError> {
        if self.by == By::Clsact {
            return filter::put_first(programs, uplink, hook.program(), hook.tcx());
        }
        self.end_link(&hook.link_name(uplink.ifname))?;
        self.attach_uplink(programs, uplink, hook)
    }

    /// Takes the program of a pinned link off its hook at once: a link whose pin is removed ends later, in a queue of the
    /// kernel.
    fn end_link(&self, name: &str) -> Result<(), AttachError> {
        match bpf_maps::obj_get(&self.dir.link_path(name)) {
            Ok(pinned) => Ok(link::detach(pinned.as_fd(), name)?),
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a socket program is attached to the cgroup, and no other one by its link.
    fn is_on_cgroup(&self, programs: &Programs, hook: CgroupHook) -> Result<bool, AttachError> {
        let program = hook.program();
        let ours = bpf_maps::program::info(programs.fd(program)?)?.id;
        let inode = fs::metadata(&self.cgroup).map_err(|source| self.cgroup_failed(source))?.ino();
        match bpf_maps::obj_get(&self.dir.link_path(program)) {
            Ok(link) => {
                let LinkInfo { prog_id, target, .. } = link::info(link.as_fd(), program)?;
                Ok(prog_id == ours && matches!(target, Target::Cgroup { id, .. } if id == inode))
            }
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_program_of_a_hook_decides() {
        assert_eq!(Place::among(&[7, 9], 7), Place::First);
        assert_eq!(Place::among(&[9, 7], 7), Place::Behind);
        assert_eq!(Place::among(&[9], 7), Place::Missing);
        assert_eq!(Place::among(&[], 7), Place::Missing);
    }
}
