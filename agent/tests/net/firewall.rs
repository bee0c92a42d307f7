//! What the kernel says of real rules of each tool that makes them.
use std::{fmt::Write as _, fs, process::Command, time::Instant};

use agent::net::firewall::{Direction, Firewall, Hook, Packet, State};
use agent_core::model::Family;
use ipnetwork::IpNetwork;

use crate::namespace::inside;

const NOTHING: &str = "";
/// Whatever pods exchange that is forwarded.
const ALL: &str = "new>pods established>pods invalid>pods pods>new pods>established pods>invalid";
const OPENED: &str = "new>pods invalid>pods pods>new pods>invalid";
const INVALID: &str = "invalid>pods pods>invalid";

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("running sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Which kinds of packets are dropped at a hook.
fn dropped(firewall: &mut Firewall, hook: Hook, family: Family) -> String {
    let pod_cidrs: [IpNetwork; 2] = ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    let found = firewall.tables().expect("the tables");
    assert_eq!(found.unread, Vec::<String>::new());
    let mut kinds = Vec::new();
    for direction in [Direction::ToPods, Direction::FromPods] {
        for (state, name) in
            [(State::New, "new"), (State::Established, "established"), (State::Invalid, "invalid")]
        {
            let packet =
                Packet { family, direction, state, pod_cidrs: &pod_cidrs, uplinks: &["eth0".to_owned()] };
            let mut bases = found
                .tables
                .iter()
                .flat_map(|table| table.bases.iter().map(move |base| (table, base)))
                .filter(|(_, base)| base.hook == hook);
            if bases.any(|(table, base)| table.cut(base, &packet).is_some()) {
                kinds.push(match direction {
                    Direction::ToPods => format!("{name}>pods"),
                    Direction::FromPods => format!("pods>{name}"),
                });
            }
        }
    }
    kinds.join(" ")
}

/// In a namespace without rules.
fn after(command: &str, v4: &str, v6: &str) {
    inside(|_| async move {
        run(command);
        let mut firewall = Firewall::default();
        assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V4), v4, "IPv4 after {command}");
        assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V6), v6, "IPv6 after {command}");
    });
}

#[test]
fn chains_of_nftables_are_understood() {
    let answers = "ct state established,related accept";
    for (policy, rules, v4, v6) in [
        ("accept", "", NOTHING, NOTHING),
        ("drop", "", ALL, ALL),
        ("accept", "ct state invalid drop", INVALID, INVALID),
        ("accept", "ct state invalid,untracked counter log drop", INVALID, INVALID),
        ("accept", "ct state == invalid drop", INVALID, INVALID),
        ("accept", &format!("{answers}; ct state invalid counter drop"), INVALID, INVALID),
        ("accept", "ct state != invalid accept; drop", INVALID, INVALID),
        (
            "accept",
            "ct state invalid accept; ct state established accept; ct state related drop",
            NOTHING,
            NOTHING,
        ),
        ("accept", "meta nfproto ipv6 ct state invalid drop", NOTHING, INVALID),
        ("accept", "ip saddr 192.0.2.0/24 ct state invalid drop; tcp dport 22 drop", NOTHING, NOTHING),
        ("accept", "ip ttl 64 drop; ip saddr 10.244.1.0/24 ip daddr 192.0.2.1 drop", NOTHING, NOTHING),
        ("drop", "iifname \"mr*\" accept; oifname \"mr*\" accept; ct state invalid drop", NOTHING, NOTHING),
        ("drop", "iifname \"mr*\" accept; oifname \"docker0\" accept", TO_PODS, TO_PODS),
        ("drop", "iifname \"mr0\" accept; oifname \"mr*\" accept", FROM_PODS, FROM_PODS),
        ("drop", "iifname \"mr*\" tcp dport 80 accept; oifname \"mr*\" accept", FROM_PODS, FROM_PODS),
        ("accept", "iifname \"eth0\" drop", TO_PODS, TO_PODS),
        ("accept", "iifname \"eth1\" drop", NOTHING, NOTHING),
        ("drop", "ip saddr 10.244.0.0/16 accept; ip daddr 10.244.0.0/15 accept", NOTHING, ALL),
        ("drop", "ip6 saddr fd00:1::/60 accept; ip6 daddr fd00:1::/64 accept", ALL, NOTHING),
        ("accept", &format!("{answers}; counter reject with icmpx admin-prohibited"), OPENED, OPENED),
        ("accept", "limit rate 1/second drop", NOTHING, NOTHING),
        ("drop", "ct state { established, related } accept", OPENED, OPENED),
        ("accept", "ct state != { established, related, new } drop", INVALID, INVALID),
        ("accept", "iifname { \"mr0\", \"mr1\" } drop", NOTHING, NOTHING),
        (
            "accept",
            "ct state vmap { established : accept, related : accept, invalid : drop }",
            INVALID,
            INVALID,
        ),
        (
            "drop",
            "ct state vmap { established : accept, new : jump other, invalid : accept }",
            NOTHING,
            NOTHING,
        ),
        ("drop", "tcp dport 80 ct state vmap { established : accept, new : accept }", ALL, ALL),
        ("drop", "counter jump other", NOTHING, NOTHING),
        ("drop", "tcp dport 80 jump other", ALL, ALL),
        ("accept", "iifname \"eth0\" goto closed", TO_PODS, TO_PODS),
    ] {
        let rules = if rules.is_empty() { String::new() } else { format!("{rules};") };
        let chain = format!("type filter hook forward priority 10; policy {policy}; {rules}");
        after(
            &format!(
                "nft 'table inet mine {{ chain closed {{ drop; }}; chain other {{ iifname \"mr*\" accept; oifname \"mr*\" accept; \
                 }}; chain mine {{ {chain} }}; }}'"
            ),
            v4,
            v6,
        );
    }
    // Other families decide about other packets, and a table that sleeps about none.
    let of = |family: &str, flags: &str| {
        format!(
            "nft 'table {family} mine {{ {flags} chain a {{ type filter hook forward priority 0; policy drop; }}; }}'"
        )
    };
    after(&of("ip6", ""), NOTHING, ALL);
    after(&of("ip6", "flags dormant;"), NOTHING, NOTHING);
}

const TO_PODS: &str = "new>pods established>pods invalid>pods";
const FROM_PODS: &str = "pods>new pods>established pods>invalid";

#[test]
fn chains_of_both_kinds_of_iptables_are_understood() {
    let open = "-A MINE -i mr+ -j ACCEPT; -A MINE -o mr+ -j ACCEPT";
    for kind in ["nft", "legacy"] {
        for (rules, expected) in [
            ("-P FORWARD ACCEPT", NOTHING),
            ("-P FORWARD DROP", ALL),
            ("-P FORWARD DROP; -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", OPENED),
            ("-A FORWARD -m conntrack --ctstate INVALID -j DROP", INVALID),
            ("-A FORWARD -m state --state INVALID,UNTRACKED -j DROP", INVALID),
            ("-A FORWARD -m comment --comment why -m state --state INVALID,UNTRACKED -j DROP", INVALID),
            ("-A FORWARD -m conntrack ! --ctstate INVALID -j ACCEPT; -A FORWARD -j DROP", INVALID),
            ("-A FORWARD -p tcp -m conntrack --ctstate INVALID -j DROP", NOTHING),
            ("-A FORWARD -m conntrack --ctstate INVALID --ctproto 6 -j DROP", NOTHING),
            ("-A FORWARD -i eth0 -j DROP", TO_PODS),
            ("-A FORWARD -i eth1 -j DROP", NOTHING),
            ("-A FORWARD -j REJECT", ALL),
            ("-A FORWARD -m comment --comment all -j DROP", ALL),
            ("-A FORWARD -m limit --limit 1/s -j DROP", NOTHING),
            ("-A FORWARD; -A FORWARD -j LOG; -A FORWARD -j DROP", ALL),
            ("-P FORWARD DROP; -I FORWARD -i mr+ -j ACCEPT; -I FORWARD -o mr+ -j ACCEPT", NOTHING),
            ("-P FORWARD DROP; -I FORWARD -i mr -j ACCEPT; -I FORWARD -o mr+ -j ACCEPT", FROM_PODS),
            ("-P FORWARD DROP; -I FORWARD ! -i mr+ -j ACCEPT; -I FORWARD -o mr+ -j ACCEPT", FROM_PODS),
            ("-N MINE; -A MINE -j DROP; -A FORWARD -j MINE; -A FORWARD -j LOG", ALL),
            ("-N MINE; -A MINE -j RETURN; -A MINE -j DROP; -A FORWARD -j MINE", NOTHING),
            ("-N MINE; -A MINE -j DROP; -A FORWARD -p udp -j MINE", NOTHING),
            ("-P FORWARD DROP; -N MINE; OPEN; -A FORWARD -j MINE", NOTHING),
            ("-P FORWARD DROP; -N MINE; -A FORWARD -g MINE; -A FORWARD -j ACCEPT", ALL),
            ("-P FORWARD DROP; -N MINE; -A FORWARD -j MINE; -A FORWARD -j ACCEPT", NOTHING),
            ("-P INPUT DROP; -P OUTPUT DROP", NOTHING),
        ] {
            let rules = rules.replace("OPEN", open);
            for (program, v4, v6) in [("iptables", expected, NOTHING), ("ip6tables", NOTHING, expected)] {
                let commands: Vec<String> =
                    rules.split("; ").map(|rule| format!("{program}-{kind} {rule}")).collect();
                after(&commands.join(" && "), v4, v6);
            }
        }
        let accept = |program: &str, cidr: &str| {
            let program = format!("{program}-{kind}");
            format!(
                "{program} -P FORWARD DROP && {program} -A FORWARD -s {cidr} -j ACCEPT && {program} -A FORWARD -d {cidr} -j \
                 ACCEPT"
            )
        };
        after(&accept("iptables", "10.244.0.0/17"), NOTHING, NOTHING);
        after(&accept("iptables", "10.244.1.0/25"), ALL, NOTHING);
        after(&accept("iptables", "10.0.1.0/255.0.255.0"), ALL, NOTHING);
        after(&accept("ip6tables", "fd00:1::/62"), NOTHING, NOTHING);
        after(&accept("ip6tables", "fd00:2::/64"), NOTHING, ALL);
    }
}

#[test]
fn each_hook_has_its_own_chains() {
    for command in [
        "iptables-nft -P INPUT DROP",
        "iptables-legacy -P INPUT DROP",
        "nft 'table ip mine { chain mine { type filter hook input priority 0; policy drop; }; }'",
    ] {
        inside(|_| async move {
            run(command);
            let mut firewall = Firewall::default();
            assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V4), NOTHING, "{command}");
            assert_eq!(dropped(&mut firewall, Hook::Output, Family::V4), NOTHING, "{command}");
            assert_eq!(dropped(&mut firewall, Hook::Input, Family::V4), ALL, "{command}");
        });
    }
}

#[test]
fn changes_are_seen_and_looking_makes_no_table() {
    inside(|_| async move {
        let mut firewall = Firewall::default();
        let mut forwarded = || dropped(&mut firewall, Hook::Forward, Family::V4);
        assert_eq!(forwarded(), NOTHING);
        let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        assert_eq!(tables, "");
        for tool in ["iptables-nft", "iptables-legacy"] {
            run(&format!("{tool} -P FORWARD DROP"));
            assert_eq!(forwarded(), ALL, "{tool}");
            run(&format!("{tool} -P FORWARD ACCEPT"));
            assert_eq!(forwarded(), NOTHING, "{tool}");
        }
    });
}

/// What a hundred thousand rules cost, and that they are not believed by half.
#[test]
fn more_rules_than_are_read_are_told_from_few() {
    inside(|_| async move {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("rules").display().to_string();
        let rules = |count: usize, condition: &str| {
            let mut rules =
                "table inet mine {\n chain mine {\n type filter hook forward priority 0; policy drop\n"
                    .to_owned();
            for number in 0..count {
                let (high, low) = (number / 250, number % 250);
                writeln!(rules, "{} accept", condition.replace("HIGH.LOW", &format!("{high}.{low}")))
                    .expect("text");
            }
            fs::write(&file, rules + "}\n}\n").expect("a file");
            run(&format!("nft -f {file}"));
        };
        rules(50_000, "ip saddr 10.HIGH.LOW.7");
        let mut firewall = Firewall::default();
        let begin = Instant::now();
        assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V4), ALL);
        println!("50,000 rules were read in {:?}", begin.elapsed());
        let begin = Instant::now();
        assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V4), ALL);
        println!("and not read again in {:?}", begin.elapsed());
        // Twice as many and one, in the same chain.
        rules(50_001, "ip saddr 11.HIGH.LOW.7");
        let found = firewall.tables().expect("the tables");
        assert_eq!((found.tables.len(), found.unread), (0, vec!["the nftables table inet mine".to_owned()]));
        run("nft delete table inet mine");
        rules(10_001, "ip saddr 11.HIGH.LOW.0/24");
        let found = firewall.tables().expect("the tables");
        assert_eq!((found.tables.len(), found.unread.len()), (0, 1), "more than are kept");
        run("nft delete table inet mine");
        assert_eq!(dropped(&mut firewall, Hook::Forward, Family::V4), NOTHING);
    });
}
