//! What becomes of a kind of packets on its way through the chains.
use agent_api::interface::HOST_IFNAME_PREFIX;
use agent_core::model::Family;
use ipnetwork::IpNetwork;

use super::{Base, Condition, Hook, Interfaces, Rule, Table, Target};

/// A way through more rules than this is given up, and nothing is said of it.
const MOST_STEPS: usize = 100_000;

/// As many chains may lead to each other: the kernel allows no more (`NFT_JUMP_STACK_SIZE`).
const MOST_JUMPS: usize = 16;

/// All packets of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub family: Family,
    pub direction: Direction,
    pub state: State,
    /// Of this node.
    pub pod_cidrs: &'a [IpNetwork],
    /// By which whatever is not on this node comes and goes.
    pub uplinks: &'a [String],
}

/// Seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    FromPods,
    ToPods,
}

/// What connection tracking says of a packet: bits of `ct state`, which are those of `--ctstate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    Invalid = 1,
    Established = 2,
    New = 8,
}

/// Where a packet is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// By the base chain's policy.
    Policy,
    Rule {
        chain: String,
        number: u64,
    },
}

/// What a chain comes to.
enum Fate {
    Accepted,
    Dropped(Cut),
    /// The end of the chain, or a rule that leads back.
    Undecided,
}

struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet<'a>,
    hook: Hook,
    steps: usize,
}

impl Table {
    /// Where packets of this kind are dropped, if all of them are.
    #[must_use]
    pub fn cut(&self, base: &Base, packet: &Packet<'_>) -> Option<Cut> {
        if !self.families.contains(&packet.family) {
            return None;
        }
        let mut walk = Walk { table: self, packet, hook: base.hook, steps: 0 };
        match walk.chain(&base.chain, 0)? {
            Fate::Accepted => None,
            Fate::Dropped(cut) => Some(cut),
            Fate::Undecided => base.policy_drops.then_some(Cut::Policy),
        }
    }
}

impl Walk<'_> {
    /// What a chain comes to. `None`: it is not known.
    fn chain(&mut self, name: &str, depth: usize) -> Option<Fate> {
        if depth > MOST_JUMPS {
            return None;
        }
        for rule in self.table.chains.get(name)? {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return None;
            }
            if !self.holds(rule) {
                continue;
            }
            match &rule.target {
                Target::Accept => return Some(Fate::Accepted),
                Target::Drop => {
                    return Some(Fate::Dropped(Cut::Rule { chain: name.to_owned(), number: rule.number }));
                }
                Target::Jump(to) => match self.chain(to, depth + 1)? {
                    Fate::Undecided => {}
                    decided @ (Fate::Accepted | Fate::Dropped(_)) => return Some(decided),
                },
                Target::Goto(to) => return self.chain(to, depth + 1),
                Target::Return => return Some(Fate::Undecided),
                Target::Other => {}
            }
        }
        Some(Fate::Undecided)
    }

    /// Whether a rule matches every packet of the kind.
    fn holds(&self, rule: &Rule) -> bool {
        rule.conditions.iter().all(|condition| self.is_met(condition))
    }

    fn is_met(&self, condition: &Condition) -> bool {
        let packet = self.packet;
        let (from_pods, to_pods) =
            (packet.direction == Direction::FromPods, packet.direction == Direction::ToPods);
        match condition {
            Condition::Family(family) => *family == packet.family,
            Condition::States(states) => states & packet.state as u32 != 0,
            Condition::From(interfaces) if from_pods => interfaces.hold_pods(),
            Condition::To(interfaces) if to_pods => interfaces.hold_pods(),
            Condition::From(interfaces) | Condition::To(interfaces) => {
                self.hook == Hook::Forward && interfaces.hold_all(packet.uplinks)
            }
            Condition::Source(network) if from_pods => self.holds_pods(*network),
            Condition::Destination(network) if to_pods => self.holds_pods(*network),
            Condition::Source(network) | Condition::Destination(network) => network.prefix() == 0,
            Condition::Other => false,
        }
    }

    fn holds_pods(&self, network: IpNetwork) -> bool {
        let family = |cidr: &&IpNetwork| Family::of(cidr.network()) == self.packet.family;
        let mut cidrs = self.packet.pod_cidrs.iter().filter(family).peekable();
        cidrs.peek().is_some() && cidrs.all(|cidr| is_within(*cidr, network))
    }
}

impl Interfaces {
    /// Whether every pod's interface is among them.
    fn hold_pods(&self) -> bool {
        self.is_prefix && HOST_IFNAME_PREFIX.as_bytes().starts_with(&self.name)
    }

    fn hold_all(&self, names: &[String]) -> bool {
        let holds = |name: &String| {
            if self.is_prefix {
                name.as_bytes().starts_with(&self.name)
            } else {
                name.as_bytes() == self.name
            }
        };
        !names.is_empty() && names.iter().all(holds)
    }
}

fn is_within(inner: IpNetwork, outer: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::{
        super::Tool,
        Target::{Accept, Drop, Other},
        *,
    };

    fn rule(target: Target, conditions: &[Condition]) -> Rule {
        Rule { number: 7, conditions: conditions.to_vec(), target }
    }

    fn interfaces(name: &str, is_prefix: bool) -> Interfaces {
        Interfaces { name: name.as_bytes().to_vec(), is_prefix }
    }

    fn table(policy_drops: bool, chains: &[(&str, Vec<Rule>)]) -> Table {
        Table {
            name: "a table".to_owned(),
            tool: Tool::Nft,
            families: vec![Family::V4, Family::V6],
            bases: vec![Base { hook: Hook::Forward, chain: "base".to_owned(), policy_drops }],
            chains: chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect(),
        }
    }

    fn cut(table: &Table, direction: Direction, state: State) -> Option<Cut> {
        let pod_cidrs = ["10.244.1.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let uplinks = ["eth0".to_owned()];
        let packet =
            Packet { family: Family::V4, direction, state, pod_cidrs: &pod_cidrs, uplinks: &uplinks };
        table.cut(&table.bases[0], &packet)
    }

    /// Whether what is new is dropped from pods, and to pods.
    fn new(policy_drops: bool, rules: Vec<Rule>) -> (bool, bool) {
        let table = table(policy_drops, &[("base", rules)]);
        let is_cut = |direction| cut(&table, direction, State::New).is_some();
        (is_cut(Direction::FromPods), is_cut(Direction::ToPods))
    }

    const NONE: (bool, bool) = (false, false);
    const BOTH: (bool, bool) = (true, true);
    const FROM: (bool, bool) = (true, false);
    const TO: (bool, bool) = (false, true);

    #[test]
    fn what_no_rule_accepts_has_the_policy() {
        assert_eq!(new(false, vec![]), NONE);
        assert_eq!(new(true, vec![]), BOTH);
        assert_eq!(new(true, vec![rule(Accept, &[])]), NONE);
        assert_eq!(new(true, vec![rule(Accept, &[Condition::Other])]), BOTH);
        assert_eq!(new(true, vec![rule(Other, &[])]), BOTH);
        assert_eq!(new(false, vec![rule(Drop, &[])]), BOTH);
        assert_eq!(new(false, vec![rule(Drop, &[Condition::Other])]), NONE);
        assert_eq!(new(false, vec![rule(Drop, &[Condition::Family(Family::V6)])]), NONE);
        assert_eq!(new(false, vec![rule(Drop, &[Condition::States(State::Invalid as u32)])]), NONE);
        let by_rule = table(true, &[("base", vec![rule(Drop, &[])])]);
        let expected = Cut::Rule { chain: "base".to_owned(), number: 7 };
        assert_eq!(cut(&by_rule, Direction::ToPods, State::Established), Some(expected));
    }

    #[test]
    fn pods_are_known_by_interface_and_address() {
        let from = |name, is_prefix| Condition::From(interfaces(name, is_prefix));
        let to = |name, is_prefix| Condition::To(interfaces(name, is_prefix));
        let source = |cidr: &str| Condition::Source(cidr.parse().unwrap());
        let destination = |cidr: &str| Condition::Destination(cidr.parse().unwrap());
        for (conditions, expected) in [
            (vec![from("mr", true)], TO),
            (vec![from("", true)], NONE),
            (vec![from("mr", false)], BOTH),
            (vec![from("mr0", true)], BOTH),
            (vec![to("m", true)], FROM),
            (vec![from("eth0", false)], FROM),
            (vec![from("eth0", false), to("mr", true)], FROM),
            (vec![from("eth1", false)], BOTH),
            (vec![from("mr", true), to("eth", true)], TO),
            (vec![source("10.244.0.0/16")], TO),
            (vec![source("10.244.1.0/25")], BOTH),
            (vec![source("0.0.0.0/0")], NONE),
            (vec![destination("10.244.1.0/24")], FROM),
            (vec![destination("10.244.2.0/24")], BOTH),
            (vec![destination("fd00::/16")], BOTH),
            (vec![source("10.244.0.0/16"), Condition::Other], BOTH),
        ] {
            assert_eq!(new(true, vec![rule(Accept, &conditions)]), expected, "{conditions:?}");
            let dropped = new(false, vec![rule(Drop, &conditions), rule(Accept, &[])]);
            assert_eq!(dropped, (!expected.0, !expected.1), "{conditions:?}");
        }
    }

    #[test]
    fn other_chains_are_followed_and_left_again() {
        let jump = |to: &str| rule(Target::Jump(to.to_owned()), &[]);
        let goto = |to: &str| rule(Target::Goto(to.to_owned()), &[]);
        let state = |base: Vec<Rule>, other: Vec<Rule>| {
            let table = table(true, &[("base", base), ("other", other)]);
            cut(&table, Direction::FromPods, State::New)
        };
        let by_other = Some(Cut::Rule { chain: "other".to_owned(), number: 7 });
        assert_eq!(state(vec![jump("other")], vec![]), Some(Cut::Policy));
        assert_eq!(state(vec![jump("other")], vec![rule(Accept, &[])]), None);
        assert_eq!(state(vec![jump("other")], vec![rule(Drop, &[])]), by_other);
        assert_eq!(state(vec![jump("other"), rule(Accept, &[])], vec![]), None);
        assert_eq!(state(vec![goto("other"), rule(Accept, &[])], vec![]), Some(Cut::Policy));
        let returns = || vec![rule(Target::Return, &[]), rule(Drop, &[])];
        assert_eq!(state(vec![jump("other"), rule(Accept, &[])], returns()), None);
        // What is not known is not said: a chain that was not read, chains that lead to each other for ever.
        assert_eq!(state(vec![jump("none")], vec![]), None);
        assert_eq!(state(vec![jump("other")], vec![jump("other")]), None);
        assert_eq!(state(vec![jump("other")], vec![jump("base"), jump("base")]), None);
        let many = vec![rule(Drop, &[Condition::Family(Family::V6)]); MOST_STEPS];
        assert_eq!(state(vec![jump("other")], many), None);
    }

    #[test]
    fn a_state_that_is_dropped_is_told_from_the_others() {
        let states = |state: State| Condition::States(state as u32);
        let rules = vec![
            rule(Accept, &[states(State::Established)]),
            rule(Drop, &[states(State::Invalid)]),
            rule(Accept, &[states(State::New), Condition::From(interfaces("mr", true))]),
        ];
        let table = table(true, &[("base", rules)]);
        let of = |state| {
            let is_cut = |direction| cut(&table, direction, state).is_some();
            (is_cut(Direction::FromPods), is_cut(Direction::ToPods))
        };
        assert_eq!(of(State::Established), NONE);
        assert_eq!(of(State::Invalid), BOTH);
        assert_eq!(of(State::New), TO);
    }
}
