//! Rules as `iptables-save` prints them, and what differs between two sets of them.
use std::collections::{BTreeMap, BTreeSet};

/// The chain whose order is the order of a hash table in kube-proxy; only its last rule has a place.
const UNORDERED: &str = "KUBE-SERVICES";
const LAST: &str = "-j KUBE-NODEPORTS";

/// The match that counts packets into an accounting object of the kernel. It comes after the match that decides, so
/// that only packets in an invalid state meet it.
const ACCOUNTING: &str = " -m nfacct --nfacct-name ";

/// Rules by table and chain, without counters and with one order for equal sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    chains: BTreeMap<(String, String), Vec<String>>,
}

impl Saved {
    /// Reads the output of `iptables-save`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut chains: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                chains.entry((table.clone(), name.to_owned())).or_default();
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                chains.entry((table.clone(), chain.to_owned())).or_default().push(without_accounting(rule));
            }
        }
        for ((_, chain), rules) in &mut chains {
            if chain == UNORDERED {
                let last = rules.last().is_some_and(|rule| rule.ends_with(LAST));
                let end = rules.len() - usize::from(last);
                rules[..end].sort_unstable();
            }
        }
        Self { chains }
    }

    /// How many rules there are in all.
    pub(crate) fn rules(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }

    /// What is only in one of the two, or at another place, chain by chain; empty when they are equal.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.chains.keys().chain(other.chains.keys()).collect();
        let mut found = Vec::new();
        for name in names {
            let (table, chain) = name;
            match (self.chains.get(name), other.chains.get(name)) {
                (Some(ours), Some(theirs)) => {
                    let longest = ours.len().max(theirs.len());
                    let unequal = (0..longest).filter(|at| ours.get(*at) != theirs.get(*at));
                    found.extend(unequal.map(|at| {
                        let rule = |rules: &[String]| rules.get(at).map_or("nothing", |rule| rule).to_owned();
                        format!("{table} {chain} rule {}: {} | {}", at + 1, rule(ours), rule(theirs))
                    }));
                }
                (Some(_), None) => found.push(format!("{table} {chain}: only in the first")),
                (None, _) => found.push(format!("{table} {chain}: only in the second")),
            }
        }
        found
    }
}

fn without_accounting(rule: &str) -> String {
    match rule.split_once(ACCOUNTING) {
        Some((before, after)) => {
            // The program puts two spaces before the name.
            let rest = after.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before} {rest}")
        }
        None => rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "# Generated\n*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SEP-A - [1:2]\n\
        -A KUBE-SERVICES -d 10.96.0.1/32 -j A\n-A KUBE-SERVICES -d 10.96.0.2/32 -j B\n\
        -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n-A KUBE-SEP-A -s 10.0.0.1/32 -j X\n\
        -A KUBE-SEP-A -p tcp -j DNAT\nCOMMIT\n";

    #[test]
    fn the_order_of_services_does_not_matter() {
        let other = RULES.replace("10.96.0.1/32 -j A", "?").replace("10.96.0.2/32 -j B", "10.96.0.1/32 -j A");
        let other = other.replace('?', "10.96.0.2/32 -j B").replace("[1:2]", "[0:0]");
        assert_eq!(Saved::parse(RULES).differences(&Saved::parse(&other)), Vec::<String>::new());
        assert_eq!(Saved::parse(RULES).rules(), 5);
    }

    #[test]
    fn a_rule_at_another_place_or_missing_is_a_difference() {
        let swapped =
            RULES.replace("-s 10.0.0.1/32 -j X", "?").replace("-p tcp -j DNAT", "-s 10.0.0.1/32 -j X");
        let swapped = swapped.replace('?', "-p tcp -j DNAT");
        assert_eq!(Saved::parse(RULES).differences(&Saved::parse(&swapped)).len(), 2);
        let without = RULES.replace("-A KUBE-SERVICES -d 10.96.0.1/32 -j A\n", "");
        let found = Saved::parse(RULES).differences(&Saved::parse(&without));
        assert!(found[0].starts_with("nat KUBE-SERVICES rule 1:"), "{found:?}");
        let without = RULES.replace(":KUBE-SEP-A - [1:2]\n", "").replace("-A KUBE-SEP-A", "-A KUBE-SEP-B");
        assert_eq!(Saved::parse(RULES).differences(&Saved::parse(&without)).len(), 2);
    }

    #[test]
    fn accounting_is_left_out() {
        let rule = "-m conntrack --ctstate INVALID -m nfacct --nfacct-name  invalid -j DROP";
        assert_eq!(without_accounting(rule), "-m conntrack --ctstate INVALID -j DROP");
    }
}
