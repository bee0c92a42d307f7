//! What is attached where, and the names of the pins.
use aya::programs::TcAttachType;
use bpf_maps::link::TcxHook;

/// Between the interface and the program in the name of a link's pin: an interface name never holds it, and bpffs
/// refuses names with a dot.
const SEPARATOR: char = ':';

/// In place of a program in the name of a pin: see [`LinkName::Qdisc`].
const QDISC: &str = "clsact";

/// The programs on the host side of each pod's veth pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodHook {
    FromPod,
    ToPod,
}

impl PodHook {
    pub(crate) const ALL: [Self; 2] = [Self::FromPod, Self::ToPod];

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
        }
    }

    /// What leaves the pod enters the host side of the pair.
    pub(crate) const fn direction(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod => TcAttachType::Egress,
        }
    }

    /// The same, for the kernel's list of what is attached.
    pub(crate) const fn tcx(self) -> TcxHook {
        match self {
            Self::FromPod => TcxHook::Ingress,
            Self::ToPod => TcxHook::Egress,
        }
    }

    /// Name of the pinned link.
    pub(crate) fn link_name(self, host_ifname: &str) -> String {
        link_name(host_ifname, self.program())
    }
}

/// The programs on each uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UplinkHook {
    FromNetdev,
    ToNetdev,
}

impl UplinkHook {
    /// In the order of attaching: what takes the answers comes before what sends the questions.
    pub(crate) const ALL: [Self; 2] = [Self::FromNetdev, Self::ToNetdev];

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::FromNetdev => "from_netdev",
            Self::ToNetdev => "to_netdev",
        }
    }

    /// What comes in, and what leaves.
    pub(crate) const fn direction(self) -> TcAttachType {
        match self {
            Self::FromNetdev => TcAttachType::Ingress,
            Self::ToNetdev => TcAttachType::Egress,
        }
    }

    /// The same, for the kernel's list of what is attached.
    pub(crate) const fn tcx(self) -> TcxHook {
        match self {
            Self::FromNetdev => TcxHook::Ingress,
            Self::ToNetdev => TcxHook::Egress,
        }
    }

    /// Name of the pinned link.
    pub(crate) fn link_name(self, ifname: &str) -> String {
        link_name(ifname, self.program())
    }

    /// Name of the pin that says that the interface's qdisc was made for our filters.
    pub(crate) fn qdisc_name(ifname: &str) -> String {
        link_name(ifname, QDISC)
    }
}

/// Name of the pinned link of a program on an interface. bpffs refuses dots, which names of interfaces may hold, and
/// interfaces never have a colon in theirs.
pub(crate) fn link_name(ifname: &str, program: &str) -> String {
    format!("{}{SEPARATOR}{program}", ifname.replace('.', ":"))
}

/// Every program that runs on interfaces, and on which of their packets.
pub(crate) const ON_INTERFACES: [(&str, TcxHook); 4] = [
    (PodHook::FromPod.program(), PodHook::FromPod.tcx()),
    (PodHook::ToPod.program(), PodHook::ToPod.tcx()),
    (UplinkHook::FromNetdev.program(), UplinkHook::FromNetdev.tcx()),
    (UplinkHook::ToNetdev.program(), UplinkHook::ToNetdev.tcx()),
];

/// The programs on the cgroup, which run when a process uses a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupHook {
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Recvmsg4,
    Recvmsg6,
    Getpeername4,
    Getpeername6,
}

impl CgroupHook {
    /// In the order of attaching: what undoes a translation comes before what translates, so that no process ever
    /// sees a backend's address in place of the one it asked for.
    pub(crate) const ALL: [Self; 8] = [
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Those that show sockets the address that they asked for.
    pub(crate) const UNDOING: [Self; 4] =
        [Self::Recvmsg4, Self::Recvmsg6, Self::Getpeername4, Self::Getpeername6];

    /// Name of the program and of its pinned link.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }
}

/// What a pinned link is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkName {
    Pod {
        host_ifname: String,
        hook: PodHook,
    },
    Uplink {
        ifname: String,
        hook: UplinkHook,
    },
    /// No link: the qdisc of this interface was made for our filters.
    Qdisc {
        ifname: String,
    },
    Cgroup(CgroupHook),
    /// Left by an interrupted start, or by another version.
    Unknown,
}

impl LinkName {
    pub(crate) fn parse(name: &str) -> Self {
        if let Some(hook) = CgroupHook::ALL.into_iter().find(|hook| hook.program() == name) {
            return Self::Cgroup(hook);
        }
        let Some((host_ifname, program)) = name.rsplit_once(SEPARATOR) else { return Self::Unknown };
        let ifname = || host_ifname.replace(SEPARATOR, ".");
        if let Some(hook) = UplinkHook::ALL.into_iter().find(|hook| hook.program() == program) {
            return Self::Uplink { ifname: ifname(), hook };
        }
        if program == QDISC {
            return Self::Qdisc { ifname: ifname() };
        }
        match PodHook::ALL.into_iter().find(|hook| hook.program() == program) {
            Some(hook) => Self::Pod { host_ifname: host_ifname.to_owned(), hook },
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_recognised_by_its_name() {
        for hook in PodHook::ALL {
            let parsed = LinkName::parse(&hook.link_name("mr0a1b"));
            assert_eq!(parsed, LinkName::Pod { host_ifname: "mr0a1b".to_owned(), hook });
        }
        for (ifname, hook) in [("eth0", UplinkHook::FromNetdev), ("bond0.42", UplinkHook::ToNetdev)] {
            let name = hook.link_name(ifname);
            assert!(!name.contains('.'), "bpffs refuses {name}");
            assert_eq!(LinkName::parse(&name), LinkName::Uplink { ifname: ifname.to_owned(), hook });
            let qdisc = LinkName::parse(&UplinkHook::qdisc_name(ifname));
            assert_eq!(qdisc, LinkName::Qdisc { ifname: ifname.to_owned() });
        }
        for hook in CgroupHook::ALL {
            assert_eq!(LinkName::parse(hook.program()), LinkName::Cgroup(hook));
        }
    }

    #[test]
    fn what_is_not_ours_is_unknown() {
        for name in ["", "connect", "veth0", "veth0:from_host", "connect4:moving"] {
            assert_eq!(LinkName::parse(name), LinkName::Unknown, "{name}");
        }
    }
}
