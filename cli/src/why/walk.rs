//! The walk over the maps that the programs do for the first packet of a flow.
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use agent_core::explain::Explanation;
use anyhow::Result;
use dataplane_common::policy::CLASS_ANY;
use serde::Serialize;

use super::resolve::Flow;
use crate::{
    names::{Isolation, Names},
    node::{
        Node, Proto, endpoint,
        policy::{self, Compiled, Judgement, PeerClasses},
        service,
    },
};

/// What one end of a flow is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A pod here, with its ingress and egress set.
    LocalPod {
        ingress_set: u32,
        egress_set: u32,
    },
    /// This node itself.
    Host,
    Elsewhere,
}

/// What one direction of policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Decision {
    NotIsolated,
    Allowed {
        rule: String,
        catalog_agrees: bool,
    },
    Denied {
        isolated_by: Isolation,
        nearest: Vec<String>,
        catalog_agrees: bool,
    },
    /// Allowed whatever the policies say, or judged by another node.
    NotJudged {
        because: &'static str,
    },
}

impl Decision {
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }
}

/// One destination that the flow may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pod: Option<String>,
    pub(crate) egress: Decision,
    pub(crate) ingress: Decision,
}

impl Target {
    pub(crate) fn is_denied(&self) -> bool {
        self.egress.is_denied() || self.ingress.is_denied()
    }
}

/// The service that a flow meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServiceHop {
    pub(crate) name: String,
    /// Without a backend: `drop` or `reject`, or `no-such-port` where it has no backend because it has no such port.
    pub(crate) when_empty: &'static str,
}

/// What happens to a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Walk {
    pub(crate) source: Option<IpAddr>,
    pub(crate) source_pod: Option<String>,
    pub(crate) destination: SocketAddr,
    pub(crate) destination_pod: Option<String>,
    pub(crate) service: Option<ServiceHop>,
    /// The backends, each as likely as the other; the destination itself without a service.
    pub(crate) targets: Vec<Target>,
}

/// What a walk looks at.
pub(crate) struct Walker<'a> {
    pub(crate) node: &'a Node,
    pub(crate) names: &'a Names,
    pub(crate) proto: Proto,
    /// All rules, to find the nearest ones.
    pub(crate) compiled: Vec<Compiled>,
}

impl Walker<'_> {
    pub(crate) fn walk(&self, flow: &Flow) -> Result<Walk> {
        let source = match flow.source {
            None => Place::Host,
            Some(ip) => self.place(ip)?,
        };
        // The programs look for a frontend only when the destination is no pod of this node.
        let is_local = matches!(self.place(flow.destination.ip())?, Place::LocalPod { .. });
        let frontend = if is_local { None } else { service::find(self.node, flow.destination, self.proto)? };
        let other_port = match &frontend {
            None if !is_local => service::at_address(self.node, flow.destination.ip())?,
            _ => None,
        };
        let addresses = match (&frontend, &other_port) {
            (Some(found), _) => found.backends.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => vec![flow.destination],
        };
        let targets: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        let targets: Result<Vec<Target>> =
            targets.into_iter().map(|address| self.target(flow.source, source, address)).collect();
        let pod = |ip| self.names.pod(ip).map(ToString::to_string);
        Ok(Walk {
            source: flow.source,
            source_pod: flow.source.and_then(pod),
            destination: flow.destination,
            destination_pod: pod(flow.destination.ip()),
            service: frontend.or(other_port).map(|found| ServiceHop {
                name: self.names.service_or_id(found.service_id),
                when_empty: match (
                    found.addr == flow.destination && found.proto == self.proto,
                    found.drops_when_empty,
                ) {
                    (false, _) => "no-such-port",
                    (true, true) => "drop",
                    (true, false) => "reject",
                },
            }),
            targets: targets?,
        })
    }

    fn place(&self, ip: IpAddr) -> Result<Place> {
        Ok(match endpoint::find(self.node, ip)? {
            Some(pod) => Place::LocalPod { ingress_set: pod.ingress_set, egress_set: pod.egress_set },
            // Only an address of this host can be bound to.
            None if UdpSocket::bind((ip, 0)).is_ok() => Place::Host,
            None => Place::Elsewhere,
        })
    }

    fn target(&self, source: Option<IpAddr>, place: Place, target: SocketAddr) -> Result<Target> {
        let pod = self.names.pod(target.ip()).map(ToString::to_string);
        let target_place = self.place(target.ip())?;
        if source == Some(target.ip()) && matches!(place, Place::LocalPod { .. }) {
            let itself = Decision::NotJudged { because: "a pod always reaches itself" };
            return Ok(Target { address: target, pod, egress: itself.clone(), ingress: itself });
        }
        let egress = match place {
            Place::LocalPod { egress_set, .. } => self.decide(egress_set, target.ip(), target.port())?,
            Place::Host => Decision::NotJudged { because: "this node is no subject of policies" },
            Place::Elsewhere => {
                Decision::NotJudged { because: "the node of the source judges it, if it is a pod" }
            }
        };
        let ingress = match (target_place, place, source) {
            (Place::LocalPod { .. }, Place::Host, _) => {
                Decision::NotJudged { because: "a pod's own node always reaches it" }
            }
            (Place::LocalPod { ingress_set, .. }, _, Some(source)) => {
                self.decide(ingress_set, source, target.port())?
            }
            (Place::LocalPod { .. } | Place::Elsewhere, _, _) => {
                Decision::NotJudged { because: "the node of the destination judges it, if it is a pod" }
            }
            (Place::Host, _, _) => Decision::NotJudged { because: "this node is no subject of policies" },
        };
        Ok(Target { address: target, pod, egress, ingress })
    }

    fn decide(&self, set: u32, peer: IpAddr, port: u16) -> Result<Decision> {
        let classes = policy::classes(self.node, peer)?;
        let known: Vec<u32> = [classes.pod, classes.cidr].into_iter().flatten().collect();
        let explained = self.names.explain(set, &known, self.proto.0, port);
        let catalog_agrees =
            |allowed: bool| explained.as_ref().is_none_or(|explained| explained.is_allowed() == allowed);
        Ok(match policy::judge(self.node, set, classes, self.proto, port)? {
            Judgement::NotIsolated => Decision::NotIsolated,
            Judgement::Allowed { rule } => {
                Decision::Allowed { rule: self.names.rule(rule), catalog_agrees: catalog_agrees(true) }
            }
            Judgement::FailedClosed => Decision::Denied {
                isolated_by: self.names.isolation(set),
                nearest: Vec::new(),
                catalog_agrees: true,
            },
            Judgement::Denied => Decision::Denied {
                isolated_by: self.names.isolation(set),
                nearest: match &explained {
                    Some(explained) => nearest_of(explained).into_iter().collect(),
                    None => self.nearest_compiled(set, classes, port),
                },
                catalog_agrees: catalog_agrees(false),
            },
        })
    }

    /// The nearest rules as the maps show them, when the catalog does not know the policies.
    fn nearest_compiled(&self, set: u32, classes: PeerClasses, port: u16) -> Vec<String> {
        let near = nearest_compiled(&self.compiled, set, classes, self.proto, port).into_iter();
        near.map(|(rule, miss)| match miss {
            Miss::Port => format!("{}: the port differs", self.names.rule(rule)),
            Miss::Peer => format!("{}: the peer differs", self.names.rule(rule)),
        })
        .collect()
    }
}

/// The nearest rule of the policies, and why it does not match.
fn nearest_of(explained: &Explanation) -> Option<String> {
    let nearest = explained.nearest.as_ref()?;
    let failed = match (nearest.peer_matches, nearest.port_matches) {
        // The maps say otherwise, so they are of another revision.
        (true, true) => return None,
        (true, false) => "the port differs",
        (false, true) => "the peer differs",
        (false, false) => "peer and port differ",
    };
    Some(format!("{nearest}: {failed}"))
}

/// What keeps a rule from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    Port,
    Peer,
}

/// How many of the nearest rules are shown.
const SHOWN: usize = 3;

/// The rules of a set of which only one side does not match: first those for this peer.
fn nearest_compiled(
    compiled: &[Compiled],
    set: u32,
    peer: PeerClasses,
    proto: Proto,
    port: u16,
) -> Vec<(u32, Miss)> {
    let classes = [Some(CLASS_ANY), peer.pod, peer.cidr];
    let miss = |entry: &Compiled| {
        if classes.contains(&Some(entry.class)) {
            Some((Miss::Port, entry.rule))
        } else if entry.ports.holds(proto, port) {
            Some((Miss::Peer, entry.rule))
        } else {
            None
        }
    };
    let misses: BTreeSet<(Miss, u32)> =
        compiled.iter().filter(|entry| entry.set == set).filter_map(miss).collect();
    misses.into_iter().take(SHOWN).map(|(miss, rule)| (rule, miss)).collect()
}

#[cfg(test)]
mod tests {
    use dataplane_common::net::proto;

    use super::*;
    use crate::node::policy::PortRange;

    const TCP: Proto = Proto(proto::TCP);

    fn entry(set: u32, class: u32, port: u16, rule: u32) -> Compiled {
        Compiled { set, class, ports: PortRange::Of(TCP, port, port), rule }
    }

    #[test]
    fn the_nearest_rules_match_the_peer_or_the_port() {
        let compiled =
            [entry(1, 7, 80, 100), entry(1, 8, 5432, 101), entry(1, 8, 90, 102), entry(2, 7, 80, 103)];
        let peer = PeerClasses { pod: Some(7), cidr: None };
        assert_eq!(nearest_compiled(&compiled, 1, peer, TCP, 5432), [(100, Miss::Port), (101, Miss::Peer)]);
    }

    #[test]
    fn a_rule_for_everybody_is_near_to_every_peer() {
        let compiled = [entry(1, CLASS_ANY, 80, 100)];
        assert_eq!(nearest_compiled(&compiled, 1, PeerClasses::default(), TCP, 81), [(100, Miss::Port)]);
    }

    #[test]
    fn a_set_without_a_similar_rule_has_no_nearest_one() {
        let compiled = [entry(1, 8, 90, 102)];
        assert_eq!(nearest_compiled(&compiled, 1, PeerClasses::default(), TCP, 81), []);
    }
}
