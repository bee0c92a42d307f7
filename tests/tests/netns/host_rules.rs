//! Rules of the host that still decide about pods are named, with what they decide about and the remedy.
use std::{net::IpAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    cluster::PodSpec,
    eventually::eventually,
    kernel,
    probe::wire::{Target, Transport},
    topology::{AgentOptions, CLIENT_V4, CLIENT_V6, Node, Topology},
};

use crate::expect::{answer, becomes_answered, is_silent, target};

const PORT: u16 = 80;

/// The agent looks every ten seconds, and less often on a loaded machine.
const LOOK: Duration = Duration::from_mins(2);

/// Runs commands of a shell on a node.
fn sh(node: &Node, commands: &str) -> Result<()> {
    node.netns().run(|| {
        let output = Command::new("sh").args(["-ec", commands]).output().context("start sh")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { bail!("{commands}: {errors}") }
    })?
}

/// The problem with the host's firewall becomes one with all of these words. Returns it.
fn is_said(node: &Node, words: &[&str]) -> Result<String> {
    eventually(format!("{words:?} are said"), LOOK, || {
        let problems = node.status()?.problems;
        let all = |problem: &&String| words.iter().all(|word| problem.contains(word));
        problems.iter().find(all).cloned().with_context(|| format!("the problems are {problems:?}"))
    })
}

/// The next time that the agent looks at the firewall, it has nothing to say but of a rule that is there to see when that is.
fn only_a_sentinel_is_said(node: &Node) -> Result<()> {
    sh(
        node,
        "nft 'table ip sentinel { chain a { type filter hook forward priority 0; oifname \"mr*\" drop; }; }'",
    )?;
    let said = is_said(node, &["firewall of the host", "table ip sentinel"])?;
    ensure!(
        said.starts_with("firewall of the host: the rule with handle")
            && !said.contains("iptables")
            && !said.contains("mine"),
        "{said}"
    );
    sh(node, "nft delete table ip sentinel")?;
    nothing_is_said(node)
}

fn nothing_is_said(node: &Node) -> Result<()> {
    eventually("nothing is said of the firewall", LOOK, || {
        let problems = node.status()?.problems;
        ensure!(!problems.iter().any(|problem| problem.contains("firewall of the host")), "{problems:?}");
        Ok(())
    })
}

#[test]
fn a_chain_that_drops_what_pods_exchange_with_the_outside_is_named_until_it_lets_them_pass() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let (here, there) = (
        topology.add_pod(PodSpec::new("default", "here"))?,
        topology.add_pod(PodSpec::new("default", "there").on(1))?,
    );
    there.probe().listen(Transport::Tcp, PORT)?;
    topology.client().listen(Transport::Tcp, PORT)?;
    let outside = [IpAddr::from(CLIENT_V4), CLIENT_V6.into()].map(|ip| Target::tcp((ip, PORT).into()));
    let both = |kind: &str, rules: &str| -> String {
        let of = |program: &str| {
            rules.split("; ").map(|rule| format!("{program}-{kind} {rule}\n")).collect::<Vec<_>>().concat()
        };
        of("iptables") + &of("ip6tables")
    };
    let nft = "nft 'table inet mine { chain mine { type filter hook forward priority 0; policy drop; }; }'\n";
    let accept = "-I FORWARD -i mr+ -j ACCEPT; -I FORWARD -o mr+ -j ACCEPT";
    for (name, drop, remedy, end) in [
        (
            "chain mine of the nftables table inet mine",
            nft.to_owned(),
            "nft 'add rule inet mine mine iifname \"mr*\" accept'\nnft 'add rule inet mine mine oifname \"mr*\" accept'"
                .to_owned(),
            "nft delete table inet mine".to_owned(),
        ),
        (
            "chain FORWARD of iptables ",
            both("nft", "-P FORWARD DROP"),
            both("nft", accept),
            both("nft", "-F; -P FORWARD ACCEPT"),
        ),
        (
            "chain FORWARD of iptables-legacy",
            both("legacy", "-P FORWARD DROP"),
            both("legacy", accept),
            both("legacy", "-F; -P FORWARD ACCEPT"),
        ),
    ] {
        sh(node, &drop)?;
        is_said(node, &[name, "by its policy", "what pods exchange with the outside", "mr"])?;
        // What is said is true: of the outside, and of nothing else.
        outside.iter().try_for_each(|to| is_silent(here.probe(), *to))?;
        for to in there.at(PORT) {
            answer(here.probe(), target(Transport::Tcp, to))?;
        }
        sh(node, &remedy)?;
        outside.iter().try_for_each(|to| becomes_answered(here.probe(), *to))?;
        nothing_is_said(node)?;
        sh(node, &end)?;
    }
    topology.close()
}

#[test]
fn a_rule_in_another_chain_is_named_and_rules_about_others_are_not() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let here = topology.add_pod(PodSpec::new("default", "here"))?;
    topology.client().listen(Transport::Tcp, PORT)?;
    let outside = Target::tcp((CLIENT_V4, PORT).into());
    // Of one protocol, one peer, one interface, what is invalid, what others ask of the node; and the same again in a chain that
    // nothing leads to.
    let beside = "iptables-nft -A FORWARD -p tcp --dport 22 -j DROP
                  iptables-nft -A FORWARD -s 192.0.2.1 -j DROP
                  iptables-nft -A FORWARD -i docker0 -j DROP
                  iptables-nft -A FORWARD -m state --state INVALID -j DROP
                  iptables-nft -N MINE
                  iptables-nft -A MINE -m comment --comment everything -j REJECT
                  iptables-nft -P INPUT DROP
                  iptables-nft -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
                  iptables-legacy -A FORWARD -m state --state INVALID,UNTRACKED -j DROP";
    sh(node, beside)?;
    answer(here.probe(), outside)?;
    only_a_sentinel_is_said(node)?;
    for kind in ["nft", "legacy"] {
        sh(
            node,
            &format!(
                "iptables-{kind} -N THEIRS\niptables-{kind} -A THEIRS -j DROP\niptables-{kind} -A FORWARD -j THEIRS"
            ),
        )?;
        let name = if kind == "nft" { "of iptables " } else { "of iptables-legacy " };
        is_said(node, &["rule 1 in chain THEIRS", name, "what pods exchange with the outside"])?;
        is_silent(here.probe(), outside)?;
        sh(node, &format!("iptables-{kind} -I THEIRS -i mr+ -j ACCEPT"))?;
        if kind == "nft" {
            // The owner of the host accepts what pods open: answers are dropped until they are accepted as well.
            is_said(node, &["rule 2 in chain THEIRS", "what pods exchange"])?;
            sh(node, &format!("iptables-{kind} -I THEIRS -m state --state ESTABLISHED -j ACCEPT"))?;
            is_said(node, &["rule 3 in chain THEIRS", "connections that are opened to pods"])?;
            becomes_answered(here.probe(), outside)?;
        }
        sh(node, &format!("iptables-{kind} -I THEIRS -o mr+ -j ACCEPT"))?;
        nothing_is_said(node)?;
    }
    topology.close()
}

#[test]
fn rules_that_break_probes_are_named() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let here = topology.add_pod(PodSpec::new("default", "here"))?;
    here.probe().listen(Transport::Tcp, PORT)?;
    let pod = Target::tcp(here.at(PORT)[0]);
    answer(node.host(), pod)?;
    for (drop, name, remedy, end) in [
        (
            "iptables-nft -P INPUT DROP",
            "chain INPUT of iptables drops by its policy what pods answer",
            "iptables-nft -I INPUT -i mr+ -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "iptables-nft -F\niptables-nft -P INPUT ACCEPT",
        ),
        (
            "nft 'table ip mine { chain out { type filter hook output priority 0; oifname \"eth*\" accept; drop; }; }'",
            "in chain out of the nftables table ip mine drops what processes of this node send to pods",
            "nft 'insert rule ip mine out oifname \"mr*\" accept'",
            "nft delete table ip mine",
        ),
    ] {
        sh(node, drop)?;
        is_said(node, &[name, "probes"])?;
        is_silent(node.host(), pod)?;
        sh(node, remedy)?;
        becomes_answered(node.host(), pod)?;
        nothing_is_said(node)?;
        sh(node, end)?;
    }
    topology.close()
}

#[test]
fn a_rule_for_what_is_invalid_is_named_where_answers_alone_cross_the_stack() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let invalid = "-A FORWARD -m comment --comment why -m state --state INVALID,UNTRACKED -j DROP";
    let rules = [
        (
            "nft 'table inet mine { chain mine { type filter hook forward priority 0; ct state invalid drop; }; }'"
                .to_owned(),
            "nft delete table inet mine",
            "nftables table inet mine",
        ),
        (format!("iptables-nft {invalid}"), "iptables-nft -F", "chain FORWARD of iptables "),
        (format!("iptables-legacy {invalid}"), "iptables-legacy -F", "chain FORWARD of iptables-legacy"),
    ];
    for (rule, _, _) in &rules {
        sh(node, rule)?;
    }
    // Both directions of all that crosses the stack cross it: nothing is invalid, and nothing is to be said.
    only_a_sentinel_is_said(node)?;
    node.stop_agent()?;
    sh(node, "ip tuntap add dev wan0 mode tun\nip link set wan0 up")?;
    node.spawn_agent(&AgentOptions { uplink: "wan0", ..AgentOptions::default() })?;
    node.await_agent()?;
    for (_, end, name) in &rules {
        is_said(node, &[name, "ct state invalid", "wan0"])?;
        sh(node, end)?;
    }
    nothing_is_said(node)?;
    topology.close()
}
