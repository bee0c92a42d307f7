//! The programs behind the pinned links.
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
};

use agent_api::interface::HOST_IFNAME_PREFIX;
use anyhow::Result;
use bpf_maps::{
    MillraceDir,
    link::{self, Target},
    obj_get, program,
};
use nix::net::if_::if_nameindex;
use serde::Serialize;

/// In place of a program in the name of a pin that is no link: the agent made the qdisc of an interface.
const QDISC: &str = "clsact";

/// A program and where it is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LoadedProgram {
    pub(crate) name: String,
    /// `None` when the kernel does not show programs to this user.
    pub(crate) verified_instructions: Option<u32>,
    pub(crate) attached_to: Vec<String>,
}

/// The attached programs by name, and what is wrong with their links.
pub(crate) fn attached(dir: &MillraceDir) -> Result<(Vec<LoadedProgram>, Vec<String>)> {
    let mut programs: BTreeMap<String, LoadedProgram> = BTreeMap::new();
    let mut problems = Vec::new();
    for pin in dir.link_names()? {
        let (place, name) = place_and_program(&pin);
        if name == QDISC {
            continue;
        }
        // bpffs refuses the dots in names of interfaces, and no interface has a colon in its name.
        let place = &place.replace(':', ".");
        let link = match obj_get(&dir.link_path(&pin)).and_then(|link| link::info(link.as_fd(), &pin)) {
            Ok(link) => link,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let entry = programs
            .entry(name.to_owned())
            .or_insert_with(|| LoadedProgram { name: name.to_owned(), ..LoadedProgram::default() });
        entry.attached_to.push(described(place, link.target));
        if entry.verified_instructions.is_none() {
            match program::open(link.prog_id).and_then(|program| program::info(program.as_fd())) {
                Ok(info) => entry.verified_instructions = Some(info.verified_insns),
                // The agent may know; the count is then taken from its status.
                Err(error) if error.is_denied() => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    Ok((programs.into_values().collect(), problems))
}

/// The interfaces of the pods by their number: in whichever network namespace they are, where they have links.
pub(crate) fn interfaces(dir: &MillraceDir) -> Result<HashMap<u32, String>> {
    let mut interfaces = HashMap::new();
    for name in dir.link_names()? {
        let (interface, program) = place_and_program(&name);
        // An uplink is the node's own.
        if matches!(program, "from_netdev" | "to_netdev" | QDISC) {
            continue;
        }
        let link = obj_get(&dir.link_path(&name))?;
        if let Target::Interface { ifindex, .. } = link::info(link.as_fd(), &name)?.target {
            interfaces.insert(ifindex, interface.to_owned());
        }
    }
    // Where programs are filters, no pin names a pod's interface.
    for interface in if_nameindex().iter().flatten() {
        let name = interface.name().to_string_lossy();
        if name.starts_with(HOST_IFNAME_PREFIX) {
            interfaces.entry(interface.index()).or_insert_with(|| name.into_owned());
        }
    }
    Ok(interfaces)
}

/// The names of pins are `INTERFACE:PROGRAM` and, on the cgroup, `PROGRAM`.
fn place_and_program(pin: &str) -> (&str, &str) {
    pin.rsplit_once(':').unwrap_or(("", pin))
}

fn described(place: &str, target: Target) -> String {
    match target {
        Target::Interface { ifindex: 0, .. } => format!("{place} (gone)"),
        Target::Cgroup { id: 0, .. } => "cgroup (gone)".to_owned(),
        Target::Cgroup { .. } => "cgroup".to_owned(),
        Target::Interface { .. } | Target::Other { .. } => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_names_its_interface_and_its_program() {
        assert_eq!(place_and_program("mr0a1b:from_pod"), ("mr0a1b", "from_pod"));
        assert_eq!(place_and_program("bond0:42:from_netdev"), ("bond0:42", "from_netdev"));
        assert_eq!(place_and_program("connect4"), ("", "connect4"));
    }

    #[test]
    fn a_link_whose_interface_is_gone_says_so() {
        let gone = Target::Interface { ifindex: 0, attach_type: 46 };
        assert_eq!(described("mr0a1b", gone), "mr0a1b (gone)");
        assert_eq!(described("", Target::Cgroup { id: 7, attach_type: 10 }), "cgroup");
    }
}
