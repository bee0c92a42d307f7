//! Texts of selectors, peers, ports and rules: read by people, and hashed into ids. Different objects have
//! different texts: names that could be mistaken for syntax are quoted.
use std::{borrow::Cow, collections::BTreeSet};

use crate::model::{
    policy::{IpBlock, NamespaceMatch, Peer, Peers, PolicyPort, PortMatch, Ports},
    selector::{LabelSelector, Operator, Requirement},
};

/// A selector, or nothing when it selects everything.
#[must_use]
pub fn selector(selector: &LabelSelector) -> String {
    join(selector.requirements.iter().map(requirement), ", ")
}

/// A peer.
#[must_use]
pub fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let pods = match selector(pods) {
                all if all.is_empty() => "all pods".to_owned(),
                some => format!("pods {some}"),
            };
            let namespaces = match namespaces {
                NamespaceMatch::Named(name) => format!("namespace {}", plain(name)),
                NamespaceMatch::Selected(selected) => match selector(selected) {
                    all if all.is_empty() => "all namespaces".to_owned(),
                    some => format!("namespaces {some}"),
                },
            };
            format!("{pods} of {namespaces}")
        }
        Peer::IpBlock(block) => ip_block(block),
    }
}

/// An `ipBlock`.
#[must_use]
pub fn ip_block(block: &IpBlock) -> String {
    let except: BTreeSet<_> = block.except.iter().collect();
    if except.is_empty() {
        return block.cidr.to_string();
    }
    format!("{} except {}", block.cidr, join(except.iter().map(ToString::to_string), ", "))
}

/// The peers of a rule.
#[must_use]
pub fn peers(peers: &Peers) -> String {
    match peers {
        Peers::Any => "anywhere".to_owned(),
        Peers::OneOf(items) if items.is_empty() => "nowhere".to_owned(),
        Peers::OneOf(items) => join(items.iter().map(peer), " or "),
    }
}

/// The ports of a rule.
#[must_use]
pub fn ports(ports: &Ports) -> String {
    match ports {
        Ports::Any => "every port".to_owned(),
        Ports::OneOf(items) if items.is_empty() => "no port".to_owned(),
        Ports::OneOf(items) => join(items.iter().map(port), " or "),
    }
}

fn port(port: &PolicyPort) -> String {
    let protocol = port.protocol;
    match &port.port {
        PortMatch::Any => protocol.to_string(),
        PortMatch::Range { first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Range { first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named(name) => format!("{protocol} {name:?}"),
    }
}

fn requirement(requirement: &Requirement) -> String {
    let key = plain(&requirement.key);
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        Operator::In(values) => format!("{key} in ({})", list(values)),
        Operator::NotIn(values) => format!("{key} not in ({})", list(values)),
        Operator::Exists => key.into_owned(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

fn list(values: &[String]) -> String {
    join(values.iter().map(|value| plain(value).into_owned()), ", ")
}

fn plain(name: &str) -> Cow<'_, str> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    if plain { Cow::Borrowed(name) } else { Cow::Owned(format!("{name:?}")) }
}

fn join(items: impl Iterator<Item = String>, separator: &str) -> String {
    items.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selecting(requirements: &[(&str, Operator)]) -> LabelSelector {
        let requirements = requirements
            .iter()
            .map(|(key, operator)| Requirement { key: (*key).into(), operator: operator.clone() })
            .collect();
        LabelSelector { requirements }
    }

    #[test]
    fn a_peer_reads_like_a_sentence() {
        let pods =
            selecting(&[("app", Operator::In(["web".into()].into())), ("old", Operator::DoesNotExist)]);
        let namespaces = NamespaceMatch::Named("shop".into());
        assert_eq!(peer(&Peer::Pods { namespaces, pods }), "pods app=web, !old of namespace shop");
        let namespaces = NamespaceMatch::Selected(LabelSelector::default());
        let everything = Peer::Pods { namespaces, pods: LabelSelector::default() };
        assert_eq!(peer(&everything), "all pods of all namespaces");
    }

    #[test]
    fn a_value_that_looks_like_syntax_cannot_imitate_another_selector() {
        let honest =
            selecting(&[("a", Operator::In(["b".into()].into())), ("c", Operator::In(["d".into()].into()))]);
        let forged = selecting(&[("a", Operator::In(["b, c=d".into()].into()))]);
        assert_ne!(selector(&honest), selector(&forged));
    }

    #[test]
    fn a_port_name_of_digits_is_not_the_port_number() {
        let of = |port| Ports::OneOf(vec![PolicyPort { protocol: crate::model::Protocol::Tcp, port }]);
        assert_ne!(
            ports(&of(PortMatch::Named("80".into()))),
            ports(&of(PortMatch::Range { first: 80, last: 80 }))
        );
    }
}
