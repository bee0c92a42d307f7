//! The rules of NetworkPolicies: peers and ports.
use agent_core::model::{
    policy::{IpBlock, NamespaceMatch, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports},
    selector::LabelSelector,
};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::{
    PORT_REMEDY, PROTOCOL_REMEDY, Problems, address,
    metadata::or_default,
    port, protocol,
    selector::{self, Selector, UnknownFields},
};

/// A policy direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A rule of either direction, on the wire.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    #[serde(default)]
    from: Option<Vec<WirePeer>>,
    #[serde(default)]
    to: Option<Vec<WirePeer>>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<WirePort>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePeer {
    #[serde(default)]
    pod_selector: Option<Selector>,
    #[serde(default)]
    namespace_selector: Option<Selector>,
    #[serde(default)]
    ip_block: Option<WireIpBlock>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Debug, Deserialize)]
struct WireIpBlock {
    #[serde(default, deserialize_with = "or_default")]
    cidr: String,
    #[serde(default, deserialize_with = "or_default")]
    except: Vec<String>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<IntOrString>,
    #[serde(default)]
    end_port: Option<i64>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(i64),
    String(String),
}

impl Rule {
    /// Converts the rule. What cannot be honoured matches nothing.
    pub fn convert(
        &self,
        direction: Direction,
        index: usize,
        namespace: &str,
        problems: &mut Problems,
    ) -> PolicyRule {
        let (at, peers_name, peers, misplaced_name, misplaced) = match direction {
            Direction::Ingress => (format!("spec.ingress[{index}]"), "from", &self.from, "to", &self.to),
            Direction::Egress => (format!("spec.egress[{index}]"), "to", &self.to, "from", &self.from),
        };
        let mut understood = !self.unknown.note(&at, problems);
        if misplaced.is_some() {
            let remedy = "use `from` in ingress rules and `to` in egress rules";
            problems.note(format!("{at}.{misplaced_name}"), "is no field of this direction", remedy);
            understood = false;
        }
        let peers = match peers.as_deref() {
            None | Some([]) => Peers::Any,
            Some(peers) => Peers::OneOf(
                peers
                    .iter()
                    .enumerate()
                    .filter_map(|(index, peer)| {
                        peer.convert(&format!("{at}.{peers_name}[{index}]"), namespace, problems)
                    })
                    .collect(),
            ),
        };
        let ports = match self.ports.as_slice() {
            [] => Ports::Any,
            ports => Ports::OneOf(
                ports
                    .iter()
                    .enumerate()
                    .filter_map(|(index, port)| port.convert(&format!("{at}.ports[{index}]"), problems))
                    .collect(),
            ),
        };
        PolicyRule { peers: if understood { peers } else { Peers::OneOf(Vec::new()) }, ports }
    }
}

impl WirePeer {
    fn convert(&self, at: &str, namespace: &str, problems: &mut Problems) -> Option<Peer> {
        if self.unknown.note(at, problems) {
            return None;
        }
        match (&self.pod_selector, &self.namespace_selector, &self.ip_block) {
            (None, None, None) => {
                problems.note(at, "is empty", "set podSelector, namespaceSelector or ipBlock");
                None
            }
            (None, None, Some(block)) => block.convert(&format!("{at}.ipBlock"), problems).map(Peer::IpBlock),
            (_, _, Some(_)) => {
                problems.note(at, "has ipBlock together with a selector", "use two items of the list");
                None
            }
            (pods, namespaces, None) => {
                let pods = pods.as_ref().map_or_else(
                    || Some(LabelSelector::default()),
                    |pods| selector::convert(pods, &format!("{at}.podSelector"), problems),
                );
                let namespaces = match namespaces {
                    None => Some(NamespaceMatch::Named(namespace.to_owned())),
                    Some(wire) => selector::convert(wire, &format!("{at}.namespaceSelector"), problems)
                        .map(NamespaceMatch::Selected),
                };
                Some(Peer::Pods { namespaces: namespaces?, pods: pods? })
            }
        }
    }
}

impl WireIpBlock {
    fn convert(&self, at: &str, problems: &mut Problems) -> Option<IpBlock> {
        let mut usable = !self.unknown.note(at, problems);
        let cidr =
            problems.check(&format!("{at}.cidr"), address::range(&self.cidr), address::RANGE_REMEDY)?;
        let mut except = Vec::with_capacity(self.except.len());
        for (index, text) in self.except.iter().enumerate() {
            let field = format!("{at}.except[{index}]");
            let Some(range) = problems.check(&field, address::range(text), address::RANGE_REMEDY) else {
                usable = false;
                continue;
            };
            if is_strict_subset(range, cidr) {
                except.push(range);
            } else {
                problems.note(
                    field,
                    format!("is {text:?}, which is no part of {cidr}"),
                    "use a smaller range within cidr",
                );
                usable = false;
            }
        }
        usable.then_some(IpBlock { cidr, except })
    }
}

fn is_strict_subset(range: IpNetwork, of: IpNetwork) -> bool {
    range.is_ipv4() == of.is_ipv4() && range.prefix() > of.prefix() && of.contains(range.network())
}

impl WirePort {
    fn convert(&self, at: &str, problems: &mut Problems) -> Option<PolicyPort> {
        if self.unknown.note(at, problems) {
            return None;
        }
        let protocol =
            problems.check(&format!("{at}.protocol"), protocol(self.protocol.as_deref()), PROTOCOL_REMEDY);
        let port = self.matching(at, problems);
        Some(PolicyPort { protocol: protocol?, port: port? })
    }

    fn matching(&self, at: &str, problems: &mut Problems) -> Option<PortMatch> {
        let end = format!("{at}.endPort");
        match (&self.port, self.end_port) {
            (None, None) => Some(PortMatch::Any),
            (None, Some(_)) => {
                problems.note(end, "is set without port", "set port to the first port of the range");
                None
            }
            (Some(IntOrString::String(name)), None) => {
                let remedy = "use a name of small letters, digits and '-', or a number without quotes";
                problems.check(&format!("{at}.port"), port_name(name), remedy).map(PortMatch::Named)
            }
            (Some(IntOrString::String(_)), Some(_)) => {
                problems.note(end, "is set with a named port", "set port to a number");
                None
            }
            (Some(IntOrString::Int(first)), last) => {
                let first = problems.check(&format!("{at}.port"), port(*first), PORT_REMEDY);
                let last = match last {
                    None => first,
                    Some(last) => problems.check(&end, port(last), PORT_REMEDY),
                };
                let (first, last) = (first?, last?);
                if last < first {
                    let problem = format!("is {last}, below port {first}");
                    problems.note(end, problem, "swap them: port is the first of the range");
                    return None;
                }
                Some(PortMatch::Range { first, last })
            }
        }
    }
}

/// The name of a container port: `[a-z0-9-]`, a letter in it, 15 characters at most.
fn port_name(name: &str) -> Result<String, String> {
    let well_formed = name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if well_formed { Ok(name.to_owned()) } else { Err(format!("is {name:?}, which is no port name")) }
}
