//! `millrace conntrack list`.
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use dataplane_common::{conntrack::CtState, policy::Direction, verdict::DropReason};
use serde::Serialize;

use super::Report;
use crate::{
    clock::{Clock, spoken_age},
    names::Names,
    node::{
        Proto,
        conntrack::{Ends, Entry},
    },
    table::Table,
};

/// A flow: one entry, or the two halves of a translated one.
#[derive(Debug, Serialize)]
pub(crate) struct FlowRow {
    protocol: Proto,
    source: SocketAddr,
    source_pod: Option<String>,
    /// What the client asked for: a pod, or a frontend.
    destination: SocketAddr,
    destination_pod: Option<String>,
    service: Option<String>,
    /// Where a translated flow goes.
    backend: Option<SocketAddr>,
    backend_pod: Option<String>,
    state: &'static str,
    idle_seconds: Option<u64>,
    /// Why policy drops its packets; `null`: it is allowed.
    denied: Option<&'static str>,
    /// What denies it.
    denied_by: Option<String>,
    /// Rules that allowed it; `null`: not judged.
    egress_rule: Option<String>,
    ingress_rule: Option<String>,
    /// A half whose partner is missing.
    is_half: bool,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct FlowList(Vec<FlowRow>);

impl FlowList {
    /// Takes all entries and keeps those that stand at one of the addresses; all of them without addresses.
    pub(crate) fn new(
        entries: &[Entry],
        addresses: Option<&[IpAddr]>,
        names: &Names,
        clock: Option<Clock>,
    ) -> Self {
        let backend_halves: HashMap<Ends, &Entry> =
            entries.iter().filter(|entry| entry.is_backend_half()).map(|entry| (entry.ends, entry)).collect();
        let clients: HashSet<Ends> = entries
            .iter()
            .filter(|entry| entry.is_translated() && !entry.is_backend_half())
            .map(|entry| entry.nat)
            .collect();
        let shown = |entry: &&Entry| !(entry.is_backend_half() && clients.contains(&entry.ends));
        let wanted = |entry: &&Entry| {
            addresses.is_none_or(|addresses| addresses.iter().any(|&address| entry.contains(address)))
        };
        let mut rows: Vec<(u64, FlowRow)> = entries
            .iter()
            .filter(shown)
            .filter(wanted)
            .map(|entry| {
                let partner = backend_halves.get(&entry.nat).filter(|_| !entry.is_backend_half());
                let last_seen =
                    entry.state.last_seen.max(partner.map_or(0, |partner| partner.state.last_seen));
                let is_half = entry.is_translated() && partner.is_none();
                (last_seen, row(entry, last_seen, is_half, names, clock))
            })
            .collect();
        rows.sort_by_key(|(last_seen, row)| (std::cmp::Reverse(*last_seen), row.source, row.destination));
        Self(rows.into_iter().map(|(_, row)| row).collect())
    }
}

fn row(entry: &Entry, last_seen: u64, is_half: bool, names: &Names, clock: Option<Clock>) -> FlowRow {
    let pod = |addr: SocketAddr| names.pod(addr.ip()).map(ToString::to_string);
    // A backend half turns replies: what it writes is the frontend and the client.
    let (source, destination, backend) = match (entry.is_translated(), entry.is_backend_half()) {
        (true, true) => (entry.nat.destination, entry.nat.source, Some(entry.ends.destination)),
        (true, false) => (entry.ends.source, entry.ends.destination, Some(entry.nat.destination)),
        (false, _) => (entry.ends.source, entry.ends.destination, None),
    };
    let rule = |id: u32| (id != 0).then(|| names.rule_position(id));
    let denied = denied(&entry.state);
    let (egress_rule, ingress_rule) = match denied {
        Some(_) => (None, None),
        None => (rule(entry.state.egress_rule), rule(entry.state.ingress_rule)),
    };
    let service_id = entry.state.service_id;
    FlowRow {
        protocol: entry.ends.proto,
        source,
        source_pod: pod(source),
        destination,
        destination_pod: pod(destination),
        service: (service_id != 0)
            .then(|| names.service(service_id).unwrap_or_else(|| format!("id {service_id:08x}"))),
        backend,
        backend_pod: backend.and_then(pod),
        state: state(entry),
        idle_seconds: clock.map(|clock| clock.age(last_seen).as_secs()),
        denied: denied.map(|(reason, _)| reason.name()),
        denied_by: denied.map(|(_, set)| names.isolation(set).to_string()),
        egress_rule,
        ingress_rule,
        is_half,
    }
}

/// The reason under which the packets of a denied flow are dropped, and the policy set that denied it.
fn denied(state: &CtState) -> Option<(DropReason, u32)> {
    let (reason, set) = match state.denied {
        0 => return None,
        denied if denied == Direction::Egress as u8 => (DropReason::PolicyEgress, state.egress_rule),
        _ => (DropReason::PolicyIngress, state.ingress_rule),
    };
    Some((if state.mid_stream != 0 { DropReason::MidStream } else { reason }, set))
}

fn state(entry: &Entry) -> &'static str {
    let state = &entry.state;
    if state.denied != 0 {
        "denied"
    } else if state.backend_gone != 0 {
        "backend gone"
    } else if state.closed != 0 {
        "closed"
    } else if state.reset != 0 {
        "reset"
    } else if state.fin_original != 0 || state.fin_reply != 0 {
        "closing"
    } else if entry.is_established {
        "established"
    } else if state.replied != 0 {
        "replied"
    } else {
        "new"
    }
}

impl Report for FlowList {
    fn text(&self) -> String {
        let mut table = Table::new(&["PROTO", "SOURCE", "DESTINATION", "STATE", ">IDLE", "BY"]);
        for row in &self.0 {
            let named = |pod: &Option<String>, addr: SocketAddr| match pod {
                Some(pod) => format!("{pod}:{}", addr.port()),
                None => addr.to_string(),
            };
            let mut destination =
                row.service.clone().unwrap_or_else(|| named(&row.destination_pod, row.destination));
            if let Some(backend) = row.backend {
                destination = format!("{destination} at {}", named(&row.backend_pod, backend));
            }
            let half = if row.is_half { " (half)" } else { "" };
            let rules = [&row.egress_rule, &row.ingress_rule, &row.denied_by];
            let rules = rules.into_iter().flatten().cloned().collect::<Vec<_>>();
            let state =
                row.denied.map_or_else(|| row.state.to_owned(), |reason| format!("denied ({reason})"));
            table.row([
                row.protocol.to_string(),
                named(&row.source_pod, row.source),
                destination,
                format!("{state}{half}"),
                spoken_age(row.idle_seconds),
                crate::table::joined(rules),
            ]);
        }
        table.text("no tracked flows")
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::{conntrack::half, net::proto};

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        let [source, destination] = [source, destination].map(|end| end.parse().unwrap());
        Ends { proto: Proto(proto::TCP), source, destination }
    }

    fn entry(half: u8, ends: Ends, nat: Ends, last_seen: u64) -> Entry {
        let state = CtState {
            tag: 0,
            service_id: if half == half::PLAIN { 0 } else { 9 },
            last_seen,
            epoch: 1,
            denied: 0,
            mid_stream: 0,
            half,
            origin_high: 0,
            egress_rule: 0,
            ingress_rule: if half == half::PLAIN { 100 } else { 0 },
            from_host: 0,
            replied: 1,
            fin_original: 0,
            fin_reply: 0,
            closed: 0,
            reset: 0,
            backend_gone: 0,
            client_zone: 0,
        };
        Entry { ends, nat, state, is_established: true }
    }

    fn none() -> Ends {
        ends("0.0.0.0:0", "0.0.0.0:0")
    }

    /// A plain flow, a translated one with both halves, and one that lost its client half.
    fn entries() -> Vec<Entry> {
        let backend = ends("10.1.0.7:4000", "10.1.0.9:8080");
        let orphan = ends("10.1.0.7:4002", "10.1.0.9:8080");
        vec![
            entry(half::PLAIN, ends("10.1.0.7:4001", "10.1.0.9:5432"), none(), 9_000),
            entry(half::CLIENT, ends("10.1.0.7:4000", "10.96.0.1:80"), backend, 8_000),
            entry(half::BACKEND, backend, ends("10.96.0.1:80", "10.1.0.7:4000"), 9_500),
            entry(half::BACKEND, orphan, ends("10.96.0.1:80", "10.1.0.7:4002"), 1_000),
        ]
    }

    fn names() -> Names {
        Names::default()
            .with_pod("10.1.0.9", "shop", "db-0")
            .with_service(9, "shop", "web", "http")
            .with_rule(100, "db-access", "pods app=web", "TCP 5432")
    }

    #[test]
    fn a_translated_flow_is_one_row_and_a_lost_half_is_marked() {
        let list = FlowList::new(&entries(), None, &names(), Some(Clock::at(10_000)));
        assert_eq!(
            list.text(),
            "\
PROTO  SOURCE         DESTINATION                      STATE               IDLE  BY
tcp    10.1.0.7:4000  shop/web:http at shop/db-0:8080  established           2s  -
tcp    10.1.0.7:4001  shop/db-0:5432                   established           4s  shop/db-access ingress rule 1
tcp    10.1.0.7:4002  shop/web:http at shop/db-0:8080  established (half)   36s  -
"
        );
    }

    #[test]
    fn a_flow_is_found_by_either_end_and_by_its_backend() {
        let found = |ip: &str| {
            let list = FlowList::new(&entries(), Some(&[ip.parse().unwrap()]), &names(), None);
            list.0.iter().map(|row| row.source.port()).collect::<Vec<_>>()
        };
        assert_eq!(found("10.1.0.7"), [4000, 4001, 4002]);
        assert_eq!(found("10.1.0.9"), [4000, 4001, 4002]);
        assert_eq!(found("10.96.0.1"), [4000, 4002]);
        assert_eq!(found("10.1.0.1"), Vec::<u16>::new());
    }

    #[test]
    fn the_state_is_the_latest_thing_that_happened() {
        let with = |change: fn(&mut Entry)| {
            let mut entry = entries()[0];
            change(&mut entry);
            state(&entry)
        };
        assert_eq!(with(|entry| entry.is_established = false), "replied");
        assert_eq!(with(|entry| (entry.is_established, entry.state.replied) = (false, 0)), "new");
        assert_eq!(with(|entry| entry.state.fin_reply = 1), "closing");
        assert_eq!(with(|entry| (entry.state.fin_reply, entry.state.closed) = (1, 1)), "closed");
        assert_eq!(with(|entry| entry.state.backend_gone = 1), "backend gone");
    }
}
