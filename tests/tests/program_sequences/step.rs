//! What happens in a sequence. A step says all of itself, so that any of them can be left out of a failing sequence.
use std::fmt;

use agent_core::{
    model::{
        Family, ObjectName, Protocol,
        policy::{
            IpBlock, NamespaceMatch, NetworkPolicy, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports,
        },
        selector::{LabelSelector, Operator, Requirement},
        small_set::SmallSet,
    },
    update::{Change, Update},
};
use dataplane_common::net::proto;
use harness::packet::flag;
use ipnetwork::IpNetwork;

use crate::cast::{Actor, NAMESPACE, TCP_PORTS, UDP_PORTS};

/// A connection: who calls whom, from which port. The client is who is meant to open it; either may speak first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) family: Family,
    pub(crate) means: Means,
    pub(crate) client: Actor,
    /// Tells calls between the same ends apart: an offset of the source port.
    pub(crate) slot: u8,
    pub(crate) server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Means {
    Tcp,
    Udp,
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Direct(Actor),
    Service(u8),
}

/// An end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Call {
    pub(crate) const fn protocol(&self) -> u8 {
        match (self.means, self.family) {
            (Means::Tcp, _) => proto::TCP,
            (Means::Udp, _) => proto::UDP,
            (Means::Echo, Family::V4) => proto::ICMP,
            (Means::Echo, Family::V6) => proto::ICMPV6,
        }
    }

    /// The port that a pod listens on.
    pub(crate) const fn server_port(&self) -> u16 {
        match self.means {
            Means::Tcp => TCP_PORTS.1,
            Means::Udp => UDP_PORTS.1,
            Means::Echo => 0,
        }
    }

    /// The port that the client asks for.
    pub(crate) const fn asked_port(&self) -> u16 {
        match (self.server, self.means) {
            (Server::Service(_), Means::Tcp) => TCP_PORTS.0,
            (Server::Service(_), Means::Udp) => UDP_PORTS.0,
            _ => self.server_port(),
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One side of a call sends a packet; the flags are TCP's.
    Say {
        call: Call,
        from: Side,
        flags: u8,
    },
    /// Somebody sends somebody an ICMP error that quotes what one side of a call sent.
    Error {
        call: Call,
        quoted: Side,
        from: Actor,
        to: Actor,
    },
    /// A policy of this number is there, or gone.
    Policy(u8, Option<Policy>),
    Role {
        pod: u8,
        role: u8,
    },
    /// The backends of a service, as a set of bits.
    Backends {
        service: u8,
        pods: u8,
    },
    /// The agent starts again, and remembers nothing.
    Restart,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) pods: Whom,
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Everybody,
    Pod(u8),
    Role(u8),
    /// By its address.
    Block(Actor),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) peer: Whom,
    pub(crate) ports: Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    Any,
    /// Those that pods listen on.
    Served,
    Other,
}

impl Policy {
    pub(crate) fn update(number: u8, policy: Option<&Self>) -> Update {
        let name = ObjectName::new(NAMESPACE, format!("np{number}"));
        let Some(policy) = policy else { return Update::NetworkPolicy(Change::Delete(name)) };
        let rules = |rules: &Option<Vec<Rule>>| {
            rules.as_ref().map(|rules| rules.iter().map(Rule::compiled).collect::<Vec<_>>())
        };
        Update::NetworkPolicy(Change::Apply(NetworkPolicy {
            name,
            pod_selector: policy.pods.selector(),
            ingress: rules(&policy.ingress),
            egress: rules(&policy.egress),
        }))
    }
}

impl Whom {
    fn selector(self) -> LabelSelector {
        let (key, value) = match self {
            Self::Everybody | Self::Block(_) => return LabelSelector::default(),
            Self::Pod(n) => ("name", format!("p{n}")),
            Self::Role(n) => ("role", format!("r{n}")),
        };
        let operator = Operator::In(SmallSet::from([value]));
        LabelSelector { requirements: SmallSet::from([Requirement { key: key.to_owned(), operator }]) }
    }
}

impl Rule {
    fn compiled(&self) -> PolicyRule {
        let peers = match self.peer {
            Whom::Everybody => Peers::Any,
            Whom::Block(actor) => {
                let block = |family| {
                    let cidr = IpNetwork::from(actor.addr(family));
                    Peer::IpBlock(IpBlock { cidr, except: Vec::new() })
                };
                Peers::OneOf([Family::V4, Family::V6].map(block).to_vec())
            }
            Whom::Pod(_) | Whom::Role(_) => Peers::OneOf(vec![Peer::Pods {
                namespaces: NamespaceMatch::Named(NAMESPACE.to_owned()),
                pods: self.peer.selector(),
            }]),
        };
        let ports = |tcp: (u16, u16), udp: (u16, u16)| {
            let port =
                |protocol, (first, last)| PolicyPort { protocol, port: PortMatch::Range { first, last } };
            Ports::OneOf(vec![port(Protocol::Tcp, tcp), port(Protocol::Udp, udp)])
        };
        let ports = match self.ports {
            Range::Any => Ports::Any,
            Range::Served => ports((TCP_PORTS.1, TCP_PORTS.1), (UDP_PORTS.1, UDP_PORTS.1)),
            Range::Other => ports((1, 1), (1, 1)),
        };
        PolicyRule { peers, ports }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say { call, from, flags } => {
                let who = if *from == Side::Client { "client" } else { "server" };
                write!(f, "{call}: {who} sends")?;
                if call.means != Means::Tcp {
                    return f.write_str(" a datagram");
                }
                for (bit, name) in
                    [(flag::SYN, "SYN"), (flag::ACK, "ACK"), (flag::FIN, "FIN"), (flag::RST, "RST")]
                {
                    if flags & bit != 0 {
                        write!(f, " {name}")?;
                    }
                }
                Ok(())
            }
            Self::Error { call, quoted, from, to } => {
                write!(f, "{from} sends {to} an ICMP error that quotes the {quoted:?} of {call}")
            }
            Self::Policy(n, None) => write!(f, "policy {n} is deleted"),
            Self::Policy(n, Some(policy)) => {
                write!(f, "policy {n} selects {:?}", policy.pods)?;
                for (name, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
                    let Some(rules) = rules else { continue };
                    write!(f, "; {name}:")?;
                    if rules.is_empty() {
                        f.write_str(" none")?;
                    }
                    for rule in rules {
                        write!(f, " {:?} ports {:?}", rule.peer, rule.ports)?;
                    }
                }
                Ok(())
            }
            Self::Role { pod, role } => write!(f, "pod {pod} gets role {role}"),
            Self::Backends { service, pods } => write!(f, "service {service} has the backends {pods:#07b}"),
            Self::Restart => f.write_str("the agent restarts"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, means, client, slot, server } = self;
        write!(f, "{family:?} {means:?} {client}#{slot} > ")?;
        match server {
            Server::Direct(actor) => write!(f, "{actor}"),
            Server::Service(n) => write!(f, "service{n}"),
        }
    }
}
