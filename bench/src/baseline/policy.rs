//! Rules of a NetworkPolicy implementation on iptables, after the two in wide use (kube-router and Calico): one chain
//! for each pod, one for each policy, and the peers of a policy either in an ipset or as a rule each.
use std::{
    io::{self, Write},
    net::Ipv4Addr,
};

/// How a policy names its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Peers {
    /// One rule that looks into a set of the kernel.
    Ipset,
    /// One rule for each: what a policy costs where nobody folded its peers.
    Linear,
}

/// A pod that one policy isolates for ingress.
#[derive(Clone, Debug)]
pub(crate) struct IsolatedPod {
    address: Ipv4Addr,
    /// May reach all of its ports.
    allowed: Vec<Ipv4Addr>,
}

impl IsolatedPod {
    /// A pod that `peers` addresses may reach that nobody has, and `client`, which is found last.
    pub(crate) fn with_peers(address: Ipv4Addr, peers: usize, client: Ipv4Addr) -> Self {
        let first = Ipv4Addr::new(172, 16, 0, 0).to_bits();
        let others = (first..).map(Ipv4Addr::from_bits).take(peers);
        Self { address, allowed: others.chain([client]).collect() }
    }

    /// Input of `ipset restore`; empty for [`Peers::Linear`].
    pub(crate) fn sets(pods: &[Self], peers: Peers, out: &mut impl Write) -> io::Result<()> {
        if peers == Peers::Linear {
            return Ok(());
        }
        for (number, pod) in pods.iter().enumerate() {
            let most = pod.allowed.len().max(1024).next_power_of_two();
            writeln!(out, "create policy-{number} hash:ip family inet hashsize {most} maxelem {most}")?;
            pod.allowed.iter().try_for_each(|peer| writeln!(out, "add policy-{number} {peer}"))?;
        }
        Ok(())
    }

    /// Input of `iptables-restore --noflush`, to be loaded after the sets.
    pub(crate) fn rules(pods: &[Self], peers: Peers, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "*filter\n:POLICIES - [0:0]")?;
        for number in 0..pods.len() {
            writeln!(out, ":POD-{number} - [0:0]\n:POLICY-{number} - [0:0]")?;
        }
        // Before the rules of kube-proxy, as both implementations put theirs.
        writeln!(out, "-I FORWARD 1 -j POLICIES")?;
        for (number, Self { address, allowed }) in pods.iter().enumerate() {
            let accept = format!("-j MARK --set-xmark {MARK}");
            writeln!(out, "-A POLICIES -d {address} -j POD-{number}")?;
            writeln!(out, "-A POD-{number} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")?;
            writeln!(out, "-A POD-{number} -m conntrack --ctstate INVALID -j DROP")?;
            writeln!(out, "-A POD-{number} -j POLICY-{number}")?;
            match peers {
                Peers::Ipset => {
                    writeln!(out, "-A POLICY-{number} -m set --match-set policy-{number} src {accept}")?;
                }
                Peers::Linear => allowed
                    .iter()
                    .try_for_each(|peer| writeln!(out, "-A POLICY-{number} -s {peer} {accept}"))?,
            }
            // What a policy allowed goes on to the rules after these.
            writeln!(out, "-A POD-{number} -m mark --mark {MARK} -j RETURN")?;
            writeln!(out, "-A POD-{number} -j REJECT")?;
        }
        writeln!(out, "COMMIT")
    }
}

/// Says that a policy allowed the packet; not the bit that kube-proxy uses.
const MARK: &str = "0x10000/0x10000";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut text = Vec::new();
        write(&mut text).expect("memory takes everything");
        String::from_utf8(text).expect("rules are text")
    }

    #[test]
    fn peers_are_one_rule_with_a_set_and_a_rule_each_without() {
        let client = Ipv4Addr::new(10, 244, 1, 2);
        let pods = [IsolatedPod::with_peers(Ipv4Addr::new(10, 244, 1, 3), 1_000, client)];
        let rules = |peers| text(|out| IsolatedPod::rules(&pods, peers, out));
        let count = |peers| rules(peers).lines().filter(|line| line.starts_with("-A POLICY-0")).count();
        assert_eq!((count(Peers::Ipset), count(Peers::Linear)), (1, 1_001));
        let sets = text(|out| IsolatedPod::sets(&pods, Peers::Ipset, out));
        assert_eq!(sets.lines().last(), Some("add policy-0 10.244.1.2"));
        assert_eq!(text(|out| IsolatedPod::sets(&pods, Peers::Linear, out)), "");
    }
}
