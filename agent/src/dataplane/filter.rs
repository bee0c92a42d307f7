//! Programs as filters of the `clsact` qdisc: all that there is on kernels without tcx, and what guards a new pod until
//! its links come.
//!
//! To attach a tcx link the kernel waits until nobody reads the interface's old list of programs (`synchronize_rcu` in
//! `tcx_entry_sync`, v6.6, e420bed02507), and nothing else that concerns interfaces goes on meanwhile: 12 to 20 ms,
//! twice for each pod. A filter takes 0.1 ms. So a new pod starts with filters, and gets its links when no pod is being
//! added. A tcx program runs before the filters and its verdict is final, so each packet meets exactly one of the two.
//!
//! A filter is ours by its name and priority. It keeps its place when its program is replaced, in one step.
use std::io;

use bpf_maps::link::TcxHook;
use nix::net::if_::{if_indextoname, if_nameindex, if_nametoindex};

use super::{
    attach::{AttachError, Interface},
    guard::Place,
    hook::{ON_INTERFACES, PodHook},
    load::Programs,
};
use crate::net::clsact::{self, Direction, Existing, Filter};

/// The first: filters of others come behind, unless they have the same and were added later.
const PRIORITY: u16 = 1;
const HANDLE: u32 = 1;
/// What the names of our filters begin with.
const OWNER: &str = "millrace:";

/// A program that is attached as a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) ifname: String,
    pub(super) ifindex: u32,
    pub(super) program: &'static str,
    pub(super) hook: TcxHook,
}

/// Attaches both programs to a new pod's interface. What was attached stays when the rest cannot be.
pub(super) fn attach_new(programs: &Programs, pod: Interface<'_>) -> Result<(), AttachError> {
    // It may be there already; where it cannot be, adding a filter fails and says so.
    if let Err(error) = clsact::add_qdisc(pod.ifindex) {
        tracing::debug!("clsact on {}: {error}", pod.ifname);
    }
    for hook in PodHook::ALL {
        let (program, place) = (hook.program(), place_of(pod, hook.tcx(), HANDLE));
        clsact::put(place, &name_of(program), programs.fd(program)?, Existing::Refused)
            .map_err(|source| failed(program, pod, source))?;
    }
    Ok(())
}

/// Puts a program into its place, or replaces the one that is there. Whether the qdisc was made for it.
pub(super) fn put(
    programs: &Programs,
    interface: Interface<'_>,
    program: &'static str,
    hook: TcxHook,
) -> Result<bool, AttachError> {
    let failed = |source| failed(program, interface, source);
    let is_new = clsact::add_qdisc(interface.ifindex).map_err(failed)?;
    let there = filters(interface, hook).map_err(failed)?;
    let place = place_of(interface, hook, HANDLE);
    let is_foreign = |filter: &Filter| filter.place.priority == PRIORITY && !is_ours(filter, program);
    if there.iter().any(|filter| filter.place == place && is_foreign(filter)) {
        return Err(occupied(program, interface));
    }
    let added = clsact::put(place, &name_of(program), programs.fd(program)?, Existing::Replaced);
    if added.is_err() && there.iter().any(is_foreign) {
        return Err(occupied(program, interface));
    }
    added.map_err(failed)?;
    // Left by a change of order that was interrupted.
    let mut others = there.iter().filter(|filter| is_ours(filter, program) && filter.place != place);
    others.try_for_each(|filter| clsact::remove(filter.place).map_err(failed))?;
    Ok(is_new)
}

/// Makes a program the first again. Of filters with one priority the last that was added is the first: another one of
/// ours guards the interface until the usual one is back in its place.
pub(super) fn put_first(
    programs: &Programs,
    interface: Interface<'_>,
    program: &'static str,
    hook: TcxHook,
) -> Result<(), AttachError> {
    let failed = |source| failed(program, interface, source);
    let there = filters(interface, hook).map_err(failed)?;
    let is_free = |handle: &u32| there.iter().all(|filter| filter.place.handle != *handle);
    let free = (HANDLE + 1..u32::MAX).find(is_free).unwrap_or(u32::MAX);
    let (usual, guard) = (place_of(interface, hook, HANDLE), place_of(interface, hook, free));
    let add = |place| {
        clsact::put(place, &name_of(program), programs.fd(program)?, Existing::Refused).map_err(failed)
    };
    add(guard)?;
    clsact::remove(usual).map_err(failed)?;
    add(usual)?;
    clsact::remove(guard).map_err(failed)
}

/// Where a program is among the filters of its hook.
pub(super) fn place(
    programs: &Programs,
    interface: Interface<'_>,
    program: &'static str,
    hook: TcxHook,
) -> Result<Place, AttachError> {
    let ours = bpf_maps::program::info(programs.fd(program)?)?.id;
    let there = filters(interface, hook).map_err(|source| failed(program, interface, source))?;
    if there.is_empty() && if_indextoname(interface.ifindex).is_err() {
        return Ok(Place::NoInterface);
    }
    let running: Vec<u32> = there.iter().map(|filter| filter.program_id.unwrap_or(0)).collect();
    Ok(Place::among(&running, ours))
}

/// Puts the new programs into every filter of the run before. Returns how many.
pub(super) fn adopt(programs: &Programs) -> Result<usize, AttachError> {
    let mut adopted = 0;
    for filter in all().map_err(AttachError::Filters)? {
        let (place, Attached { ifname, ifindex, program, .. }) = filter;
        let interface = Interface { ifname: &ifname, ifindex };
        clsact::put(place, &name_of(program), programs.fd(program)?, Existing::Replaced)
            .map_err(|source| failed(program, interface, source))?;
        adopted += 1;
    }
    Ok(adopted)
}

/// Removes a program from an interface that has its link, or needs it no more. It may never have been there.
pub(super) fn remove(
    interface: Interface<'_>,
    program: &'static str,
    hook: TcxHook,
) -> Result<(), AttachError> {
    let failed = |source| failed(program, interface, source);
    let there = filters(interface, hook).map_err(failed)?;
    let mut ours = there.iter().filter(|filter| is_ours(filter, program));
    ours.try_for_each(|filter| clsact::remove(filter.place).map_err(failed))
}

/// Every program that is attached as a filter in this network namespace.
pub(super) fn attached() -> io::Result<Vec<Attached>> {
    Ok(all()?.into_iter().map(|(_, attached)| attached).collect())
}

/// Removes all of ours. Returns how many there were.
pub(super) fn remove_all() -> io::Result<usize> {
    let all = all()?;
    all.iter().try_for_each(|(place, _)| clsact::remove(*place))?;
    Ok(all.len())
}

fn all() -> io::Result<Vec<(clsact::Place, Attached)>> {
    let mut all = Vec::new();
    for interface in &if_nameindex()? {
        let (ifname, ifindex) = (interface.name().to_string_lossy().into_owned(), interface.index());
        for (program, hook) in ON_INTERFACES {
            let there = filters(Interface { ifname: &ifname, ifindex }, hook)?;
            all.extend(
                there.iter().filter(|filter| is_ours(filter, program)).map(|filter| {
                    (filter.place, Attached { ifname: ifname.clone(), ifindex, program, hook })
                }),
            );
        }
    }
    Ok(all)
}

fn filters(interface: Interface<'_>, hook: TcxHook) -> io::Result<Vec<Filter>> {
    clsact::filters(interface.ifindex, direction(hook))
}

const fn place_of(interface: Interface<'_>, hook: TcxHook, handle: u32) -> clsact::Place {
    clsact::Place { ifindex: interface.ifindex, direction: direction(hook), priority: PRIORITY, handle }
}

const fn direction(hook: TcxHook) -> Direction {
    match hook {
        TcxHook::Ingress => Direction::Ingress,
        TcxHook::Egress => Direction::Egress,
    }
}

fn name_of(program: &str) -> String {
    format!("{OWNER}{program}")
}

/// By its name and priority. Those of earlier releases have the program's name alone.
fn is_ours(filter: &Filter, program: &str) -> bool {
    let Some(name) = filter.name.as_deref() else { return false };
    filter.place.priority == PRIORITY
        && (name.strip_prefix(OWNER) == Some(program) || (name == program && filter.place.handle == HANDLE))
}

fn occupied(program: &'static str, interface: Interface<'_>) -> AttachError {
    AttachError::Occupied { program, ifname: interface.ifname.to_owned(), priority: PRIORITY }
}

fn failed(program: &'static str, interface: Interface<'_>, source: io::Error) -> AttachError {
    let Interface { ifname, ifindex: expected } = interface;
    let ifname = ifname.to_owned();
    match if_nametoindex(ifname.as_str()) {
        // The interface went, and its name is that of another one.
        Ok(found) if found != expected => AttachError::ReplacedInterface { ifname, expected, found },
        Ok(_) | Err(_) => AttachError::Filter { program, ifname, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(name: Option<&str>, priority: u16, handle: u32) -> Filter {
        let place = clsact::Place { ifindex: 7, direction: Direction::Ingress, priority, handle };
        Filter { place, name: name.map(str::to_owned), program_id: Some(3) }
    }

    #[test]
    fn a_filter_is_ours_by_name_and_priority() {
        assert!(is_ours(&filter(Some("millrace:from_pod"), 1, 1), "from_pod"));
        assert!(is_ours(&filter(Some("millrace:from_pod"), 1, 2), "from_pod"));
        assert!(is_ours(&filter(Some("from_pod"), 1, 1), "from_pod"));
        for other in [
            filter(Some("millrace:to_pod"), 1, 1),
            filter(Some("millrace:from_pod"), 2, 1),
            filter(Some("from_pod"), 1, 2),
            filter(Some("cil_from_netdev"), 1, 1),
            filter(None, 1, 1),
        ] {
            assert!(!is_ours(&other, "from_pod"), "{other:?}");
        }
    }
}
