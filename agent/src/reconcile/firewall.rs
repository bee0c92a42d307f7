//! What the host's own firewall drops of what still crosses the host's stack: said, because `drops` does not see it.
use std::{
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agent_core::{
    entry::Way,
    model::{Family, node::Services},
};
use ipnetwork::IpNetwork;

use super::Reconciler;
use crate::{
    net::firewall::{Base, Cut, Direction, Firewall, Hook, Packet, State, Table, Tables, Tool},
    telemetry::chain,
};

/// A change of the rules is noticed within this.
const INTERVAL: Duration = Duration::from_secs(10);

/// Large tables are read less often: the next look waits this many times as long as the last one took.
const LEISURE: u32 = 50;

/// A look that is not over yet is asked about again after this.
const PATIENCE: Duration = Duration::from_millis(100);

/// What problems with it are filed under.
const SUBJECT: &str = "firewall of the host";

/// When the rules are looked at: on a thread of its own, because a large firewall takes a second.
#[derive(Debug)]
pub(super) struct FirewallWatch {
    pub(super) due: Instant,
    /// Who looks.
    at_work: Option<JoinHandle<Look>>,
    /// Who has looked.
    firewall: Option<Firewall>,
}

/// What a look came to.
#[derive(Debug)]
struct Look {
    firewall: Firewall,
    sentences: io::Result<Vec<String>>,
    took: Duration,
}

impl FirewallWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, at_work: None, firewall: None }
    }

    fn start(&mut self, crossing: Crossing, now: Instant) -> io::Result<()> {
        let mut firewall = self.firewall.take().unwrap_or_default();
        let look = move || {
            let start = Instant::now();
            let sentences = firewall.tables().map(|found| in_words(&found, &crossing));
            Look { firewall, sentences, took: start.elapsed() }
        };
        self.at_work = Some(thread::Builder::new().name("firewall".to_owned()).spawn(look)?);
        self.due = now + PATIENCE;
        Ok(())
    }

    /// What the last look came to, when it is over.
    fn finish(&mut self, now: Instant) -> Option<io::Result<Vec<String>>> {
        let at_work = self.at_work.take_if(|at_work| at_work.is_finished())?;
        let look = at_work.join().ok()?;
        self.firewall = Some(look.firewall);
        self.due = now + INTERVAL + look.took * LEISURE;
        Some(look.sentences)
    }
}

/// What of the pods' traffic crosses the host's firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Crossing {
    pod_cidrs: Vec<IpNetwork>,
    uplinks: Vec<String>,
    /// Everything beyond the node does: a kube-proxy must see it.
    everything: bool,
    /// Both directions with pods of some other nodes do, because the host's routes lead there.
    some_nodes: bool,
    /// Uplinks by which other nodes' pods reach ours through the stack, while the other direction passes it.
    half: Vec<String>,
}

impl Reconciler {
    /// Looks at the rules, if it is time.
    pub(super) fn watch_firewall(&mut self, now: Instant) {
        if self.firewall.due > now {
            return;
        }
        let is_over = self.firewall.at_work.as_ref().is_none_or(JoinHandle::is_finished);
        self.firewall.due = now + if is_over { INTERVAL } else { PATIENCE };
        let sentences = match self.firewall.finish(now) {
            Some(sentences) => sentences,
            None if self.firewall.at_work.is_some() || !self.uplinks_chosen => return,
            None => match self.firewall.start(self.crossing(), now) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        let sentences = match sentences {
            Ok(sentences) => sentences,
            // Somebody changes it at this moment.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => vec![format!("cannot be read: {}", chain(&error))],
        };
        if sentences.is_empty() {
            self.problems.resolve(SUBJECT);
        } else {
            self.problems.report(SUBJECT, &sentences.join("; "));
        }
    }

    fn crossing(&self) -> Crossing {
        let everything = self.dataplane.services() != Services::Millrace;
        Crossing {
            pod_cidrs: self.own.as_ref().map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            uplinks: self.network.uplink_names(),
            everything,
            some_nodes: self.node.detours.values().any(|way| *way == Way::Stack),
            half: if everything { Vec::new() } else { self.network.half_open() },
        }
    }
}

fn in_words(found: &Tables, crossing: &Crossing) -> Vec<String> {
    let unread = found
        .unread
        .iter()
        .map(|name| format!("{name} has more rules than are read: whether it lets pods pass is not known"));
    found.tables.iter().flat_map(|table| sentences(table, crossing)).chain(unread).collect()
}

/// What is to be said about a table: the rule, what it decides about, and the remedy.
fn sentences(table: &Table, crossing: &Crossing) -> Vec<String> {
    table.bases.iter().flat_map(|base| of_base(table, base, crossing)).collect()
}

fn of_base(table: &Table, base: &Base, crossing: &Crossing) -> Vec<String> {
    let cut = |direction, state| {
        let mut families: Vec<Family> =
            crossing.pod_cidrs.iter().map(|cidr| Family::of(cidr.network())).collect();
        families.dedup();
        families.into_iter().find_map(|family| {
            let (pod_cidrs, uplinks) = (&crossing.pod_cidrs, &crossing.uplinks);
            table.cut(base, &Packet { family, direction, state, pod_cidrs, uplinks })
        })
    };
    let from = |state| cut(Direction::FromPods, state);
    let to = |state| cut(Direction::ToPods, state);
    let sentence = |cut: &Cut, what: &str| {
        format!("{} {what}; to let pods pass, {}", who(table, base, cut), remedy(table, base))
    };
    let whole = || from(State::Established).or_else(|| to(State::Established));
    match base.hook {
        // What pods may ask of their node is for its owner to say, but not whether they may answer it.
        Hook::Input => from(State::Established)
            .map(|cut| sentence(&cut, "what pods answer to processes of this node, probes among them"))
            .into_iter()
            .collect(),
        Hook::Output => to(State::New)
            .or_else(|| to(State::Established))
            .map(|cut| sentence(&cut, "what processes of this node send to pods, probes among them"))
            .into_iter()
            .collect(),
        Hook::Forward => {
            let (out, into) = (from(State::New), to(State::New));
            let rest = match (out, into, whole()) {
                (Some(cut), Some(_), _) | (_, _, Some(cut)) => Some((cut, "what pods exchange")),
                (Some(cut), None, None) => Some((cut, "connections that pods open")),
                (None, Some(cut), None) => Some((cut, "connections that are opened to pods,")),
                (None, None, None) => None,
            };
            let rest = rest.map(|(cut, what)| sentence(&cut, &format!("{what} {}", crosses(crossing))));
            // Where whatever is new is dropped, that is what matters.
            let invalid = (rest.is_none() && !crossing.half.is_empty()).then(|| to(State::Invalid)).flatten();
            let invalid = invalid.map(|cut| {
                let what = format!(
                    "what is invalid to connection tracking (ct state invalid), which the answers of other nodes' pods by {} \
                     are, because what is sent to them does not cross it",
                    crossing.half.join(" and ")
                );
                sentence(&cut, &what)
            });
            rest.into_iter().chain(invalid).collect()
        }
    }
}

/// Who drops it.
fn who(table: &Table, base: &Base, cut: &Cut) -> String {
    match cut {
        Cut::Policy => format!("chain {} of {} drops by its policy", base.chain, table.name),
        Cut::Rule { chain, number } => {
            let count = match table.tool {
                Tool::Iptables => "rule",
                Tool::Nft => "the rule with handle",
            };
            format!("{count} {number} in chain {chain} of {} drops", table.name)
        }
    }
}

fn crosses(crossing: &Crossing) -> String {
    if crossing.everything {
        return "with other nodes and with the outside (not what stays on this node)".to_owned();
    }
    let mut ends = vec!["with the outside", "with processes of other nodes"];
    if crossing.some_nodes {
        ends.push("with pods that the host's routes lead to by another interface or router");
    }
    let half = if crossing.half.is_empty() {
        String::new()
    } else {
        format!(", and what pods of other nodes send by {}", crossing.half.join(" and "))
    };
    format!("{}{half} (no other traffic between pods, and none with their own node)", ends.join(" and "))
}

/// The rules that let pass what was dropped, and no more.
fn remedy(table: &Table, base: &Base) -> String {
    let rules: &[(&str, &str)] = match base.hook {
        Hook::Input => {
            &[("-i mr+ -m conntrack --ctstate ESTABLISHED", "iifname \"mr*\" ct state established")]
        }
        Hook::Forward => &[("-i mr+", "iifname \"mr*\""), ("-o mr+", "oifname \"mr*\"")],
        Hook::Output => &[("-o mr+", "oifname \"mr*\"")],
    };
    let (name, chain) = (&table.name, &base.chain);
    let rules: Vec<String> = rules
        .iter()
        .map(|(iptables, nft)| match table.tool {
            Tool::Iptables => format!("`{name} -I {chain} {iptables} -j ACCEPT`"),
            Tool::Nft => format!("`{nft} accept`"),
        })
        .collect();
    let rules = rules.join(" and ");
    match table.tool {
        Tool::Iptables => format!("run {rules}, and keep it so"),
        Tool::Nft => format!("put {rules} before the other rules of chain {chain}, and keep it so"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::net::firewall::{Condition, Interfaces, Rule, Target};

    fn table(hook: Hook, policy_drops: bool, rules: Vec<Rule>) -> Table {
        let chain = match hook {
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
        }
        .to_owned();
        Table {
            name: "iptables".to_owned(),
            tool: Tool::Iptables,
            families: vec![Family::V4],
            bases: vec![Base { hook, chain: chain.clone(), policy_drops }],
            chains: BTreeMap::from([(chain, rules)]),
        }
    }

    fn rule(target: Target, conditions: &[Condition]) -> Rule {
        Rule { number: 3, conditions: conditions.to_vec(), target }
    }

    fn crossing() -> Crossing {
        let pod_cidrs = vec!["10.244.1.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let uplinks = vec!["eth0".to_owned()];
        Crossing { pod_cidrs, uplinks, everything: false, some_nodes: false, half: Vec::new() }
    }

    fn states(state: State) -> Condition {
        Condition::States(state as u32)
    }

    fn pods() -> Interfaces {
        Interfaces { name: b"mr".to_vec(), is_prefix: true }
    }

    #[test]
    fn what_a_chain_decides_about_is_said_and_no_more() {
        assert!(sentences(&table(Hook::Forward, false, vec![]), &crossing()).is_empty());
        let dropping = table(Hook::Forward, true, vec![]);
        let of = |crossing: &Crossing| sentences(&dropping, crossing).pop().unwrap();
        assert_eq!(
            of(&crossing()),
            "chain FORWARD of iptables drops by its policy what pods exchange with the outside and with processes of other \
             nodes (no other traffic between pods, and none with their own node); to let pods pass, run \
             `iptables -I FORWARD -i mr+ -j ACCEPT` and `iptables -I FORWARD -o mr+ -j ACCEPT`, and keep it so"
        );
        assert!(of(&Crossing { everything: true, ..crossing() }).contains("exchange with other nodes"));
        assert!(
            of(&Crossing { some_nodes: true, ..crossing() }).contains("pods that the host's routes lead to")
        );
        assert!(
            of(&Crossing { half: vec!["wg0".into()], ..crossing() })
                .contains("pods of other nodes send by wg0")
        );
        let v6_only = Crossing { pod_cidrs: vec!["fd00::/64".parse().unwrap()], ..crossing() };
        assert!(sentences(&dropping, &v6_only).is_empty(), "another family");
    }

    #[test]
    fn a_direction_that_is_dropped_is_told_from_the_other() {
        let established = || rule(Target::Accept, &[states(State::Established)]);
        let from = || rule(Target::Accept, &[Condition::From(pods())]);
        let to = || rule(Target::Accept, &[Condition::To(pods())]);
        let of = |rules| sentences(&table(Hook::Forward, true, rules), &crossing()).pop();
        assert!(
            of(vec![established(), from()]).unwrap().contains("connections that are opened to pods, with")
        );
        assert!(of(vec![established(), to()]).unwrap().contains("connections that pods open with"));
        assert!(of(vec![from()]).unwrap().contains("what pods exchange with"), "answers are dropped");
        assert_eq!(of(vec![from(), to()]), None);
        let closed = table(Hook::Forward, false, vec![established(), rule(Target::Drop, &[])]);
        let sentence = sentences(&closed, &crossing()).pop().unwrap();
        assert!(sentence.starts_with("rule 3 in chain FORWARD of iptables drops what pods"), "{sentence}");
    }

    #[test]
    fn between_a_node_and_its_pods_only_what_breaks_probes_is_said() {
        let established = || rule(Target::Accept, &[states(State::Established)]);
        let of = |hook, rules| sentences(&table(hook, true, rules), &crossing()).pop();
        let remedy = "run `iptables -I INPUT -i mr+ -m conntrack --ctstate ESTABLISHED -j ACCEPT`, and";
        assert!(of(Hook::Input, vec![]).unwrap().contains(remedy));
        assert_eq!(of(Hook::Input, vec![established()]), None, "what pods ask of it is for its owner to say");
        assert!(of(Hook::Output, vec![established()]).unwrap().contains("-I OUTPUT -o mr+ -j ACCEPT`, and"));
        assert_eq!(of(Hook::Output, vec![rule(Target::Accept, &[Condition::To(pods())])]), None);
    }

    #[test]
    fn what_is_not_read_is_said() {
        let found = Tables { tables: Vec::new(), unread: vec!["iptables-legacy".to_owned()] };
        let [sentence] = in_words(&found, &crossing()).try_into().unwrap();
        assert!(sentence.starts_with("iptables-legacy has more rules than are read"), "{sentence}");
    }

    #[test]
    fn a_rule_for_what_is_invalid_matters_where_connections_are_seen_by_half() {
        let invalid = table(Hook::Forward, false, vec![rule(Target::Drop, &[states(State::Invalid)])]);
        assert!(sentences(&invalid, &crossing()).is_empty());
        let half = Crossing { half: vec!["wg0".into()], ..crossing() };
        let [sentence] = sentences(&invalid, &half).try_into().unwrap();
        assert!(sentence.contains("ct state invalid") && sentence.contains("by wg0"), "{sentence}");
    }
}
