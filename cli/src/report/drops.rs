//! `millrace drops`.
use std::fmt::Write as _;

use dataplane_common::policy::Direction;
use serde::Serialize;

use super::Report;
use crate::{
    clock::{Clock, spoken_age},
    names::{Isolation, Names},
    node::{
        Proto,
        counters::{Denied, Drops, Reason},
    },
    table::{Table, grouped},
};

#[derive(Debug, Serialize)]
struct DropRow {
    hook: &'static str,
    reason: String,
    packets: u64,
    cause: &'static str,
    remedy: &'static str,
}

#[derive(Debug, Serialize)]
struct DeniedRow {
    /// Seconds since the last packet; `null` when the kernel's clock is not readable.
    last_seen_seconds: Option<u64>,
    packets: u64,
    direction: &'static str,
    source: String,
    source_pod: Option<String>,
    destination: String,
    destination_pod: Option<String>,
    port: u16,
    protocol: Proto,
    denied_by: Isolation,
}

#[derive(Debug, Serialize)]
pub(crate) struct DropReport {
    drops: Vec<DropRow>,
    denied_flows: Vec<DeniedRow>,
}

impl DropReport {
    pub(crate) fn new(drops: &[Drops], denied: &[Denied], names: &Names, clock: Option<Clock>) -> Self {
        Self {
            drops: drops.iter().map(drop_row).collect(),
            denied_flows: denied.iter().map(|flow| denied_row(flow, names, clock)).collect(),
        }
    }
}

fn drop_row(drops: &Drops) -> DropRow {
    let (reason, cause, remedy) = match drops.reason {
        Reason::Known(reason) => (reason.name().to_owned(), reason.cause(), reason.remedy()),
        Reason::Unknown(number) => (
            format!("reason-{number}"),
            "The programs are of a newer version than this command.",
            "Use the `millrace` of the agent that runs here.",
        ),
    };
    DropRow { hook: drops.hook.name(), reason, packets: drops.packets, cause, remedy }
}

fn denied_row(flow: &Denied, names: &Names, clock: Option<Clock>) -> DeniedRow {
    let pod = |ip| names.pod(ip).map(ToString::to_string);
    DeniedRow {
        last_seen_seconds: clock.map(|clock| clock.age(flow.last_seen).as_secs()),
        packets: flow.packets,
        direction: match flow.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        },
        source: flow.source.to_string(),
        source_pod: pod(flow.source),
        destination: flow.destination.to_string(),
        destination_pod: pod(flow.destination),
        port: flow.port,
        protocol: flow.proto,
        denied_by: names.isolation(flow.set),
    }
}

impl Report for DropReport {
    fn text(&self) -> String {
        let mut table = Table::new(&["HOOK", "REASON", ">PACKETS"]);
        for row in &self.drops {
            table.row([row.hook.to_owned(), row.reason.clone(), grouped(row.packets)]);
        }
        let mut text = table.text("nothing was dropped");
        let mut reasons: Vec<&DropRow> = Vec::new();
        for row in &self.drops {
            if !reasons.iter().any(|known| known.reason == row.reason) {
                reasons.push(row);
            }
        }
        for row in reasons {
            let _infallible = write!(text, "\n{}\n  {}\n  {}\n", row.reason, row.cause, row.remedy);
        }
        if self.denied_flows.is_empty() {
            return text;
        }
        let mut table =
            Table::new(&["LAST SEEN", ">PACKETS", "DIRECTION", "SOURCE", "DESTINATION", "DENIED BY"]);
        for row in &self.denied_flows {
            let named =
                |pod: &Option<String>, address: &str| pod.clone().unwrap_or_else(|| address.to_owned());
            let to = match row.port {
                0 => format!("{} {}", named(&row.destination_pod, &row.destination), row.protocol),
                port => format!("{} {} {port}", named(&row.destination_pod, &row.destination), row.protocol),
            };
            table.row([
                spoken_age(row.last_seen_seconds),
                grouped(row.packets),
                row.direction.to_owned(),
                named(&row.source_pod, &row.source),
                to,
                row.denied_by.to_string(),
            ]);
        }
        let _infallible = write!(text, "\nFlows that policy denied, latest first\n\n{}", table.text(""));
        text
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::{
        net::proto,
        verdict::{DropReason, Hook},
    };

    use super::*;

    fn drops(hook: Hook, reason: Reason, packets: u64) -> Drops {
        Drops { hook, reason, packets }
    }

    fn denied(source: &str, direction: Direction, set: u32, last_seen: u64) -> Denied {
        Denied {
            source: source.parse().unwrap(),
            destination: "10.1.0.9".parse().unwrap(),
            port: 5432,
            proto: Proto(proto::TCP),
            direction,
            set,
            last_seen,
            packets: 1_200,
        }
    }

    #[test]
    fn drops_are_explained_and_denied_flows_name_their_policies() {
        let names = Names::default().with_pod("10.1.0.9", "shop", "db-0").with_set(
            1,
            Direction::Ingress,
            &["db-access"],
        );
        let names = names.with_former_set(3, "deny-all", 75);
        let drops = [
            drops(Hook::ToPod, Reason::Known(DropReason::PolicyIngress), 40_000),
            drops(Hook::FromPod, Reason::Known(DropReason::PolicyIngress), 7),
            drops(Hook::FromPod, Reason::Unknown(50), 1),
        ];
        let flows = [
            denied("10.1.0.7", Direction::Ingress, 1, 9_750),
            denied("fd00::7", Direction::Egress, 2, 2_500),
            denied("10.1.0.8", Direction::Ingress, 3, 2_500),
        ];
        let report = DropReport::new(&drops, &flows, &names, Some(Clock::at(10_000)));
        assert_eq!(
            report.text(),
            "\
HOOK      REASON          PACKETS
to-pod    policy-ingress   40,000
from-pod  policy-ingress        7
from-pod  reason-50             1

policy-ingress
  No NetworkPolicy lets this flow into its destination pod.
  `millrace why SOURCE -> DESTINATION:PORT` names the policies that isolate the pod and the nearest rule.

reason-50
  The programs are of a newer version than this command.
  Use the `millrace` of the agent that runs here.

Flows that policy denied, latest first

LAST SEEN  PACKETS  DIRECTION  SOURCE    DESTINATION         DENIED BY
1s           1,200  ingress    10.1.0.7  shop/db-0 tcp 5432  shop/db-access
30s          1,200  egress     fd00::7   shop/db-0 tcp 5432  set 00000002
30s          1,200  ingress    10.1.0.8  shop/db-0 tcp 5432  shop/deny-all, as it was until 1m 15s ago
"
        );
    }

    #[test]
    fn a_quiet_node_says_so() {
        let report = DropReport::new(&[], &[], &Names::default(), None);
        assert_eq!(report.text(), "nothing was dropped\n");
    }
}
