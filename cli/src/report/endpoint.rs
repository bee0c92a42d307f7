//! `millrace endpoint list`.
use std::{collections::HashMap, net::IpAddr};

use dataplane_common::net::MacAddr;
use serde::Serialize;

use super::Report;
use crate::{
    names::{Isolation, Names},
    node::endpoint::Endpoint,
    table::{Table, joined},
};

#[derive(Debug, Serialize)]
pub(crate) struct EndpointRow {
    /// `null` when the catalog does not know the pod.
    pod: Option<String>,
    addresses: Vec<IpAddr>,
    interface: Option<String>,
    ifindex: u32,
    mac: String,
    ingress: Isolation,
    egress: Isolation,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct EndpointList(Vec<EndpointRow>);

impl EndpointList {
    /// Takes the endpoints by interface, and the names of the interfaces.
    pub(crate) fn new(endpoints: &[Endpoint], names: &Names, interfaces: &HashMap<u32, String>) -> Self {
        let one_pod = |a: &Endpoint, b: &Endpoint| {
            (a.ifindex, a.ingress_set, a.egress_set) == (b.ifindex, b.ingress_set, b.egress_set)
        };
        let row = |pod: &[Endpoint]| {
            let first = pod[0];
            EndpointRow {
                pod: names.pod(first.ip).map(ToString::to_string),
                addresses: pod.iter().map(|endpoint| endpoint.ip).collect(),
                interface: interfaces
                    .get(&first.ifindex)
                    .map(String::as_str)
                    .or_else(|| names.interface(first.ip))
                    .map(str::to_owned),
                ifindex: first.ifindex,
                mac: mac(first.pod_mac),
                ingress: names.isolation(first.ingress_set),
                egress: names.isolation(first.egress_set),
            }
        };
        let mut rows: Vec<EndpointRow> = endpoints.chunk_by(one_pod).map(row).collect();
        rows.sort_by(|a, b| (&a.pod, a.ifindex).cmp(&(&b.pod, b.ifindex)));
        Self(rows)
    }
}

fn mac(octets: MacAddr) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

impl Report for EndpointList {
    fn text(&self) -> String {
        let mut table = Table::new(&["POD", "ADDRESSES", "INTERFACE", "INGRESS", "EGRESS"]);
        for row in &self.0 {
            let interface = row.interface.clone().unwrap_or_else(|| format!("ifindex {}", row.ifindex));
            table.row([
                row.pod.clone().unwrap_or_else(|| "?".to_owned()),
                joined(&row.addresses),
                interface,
                row.ingress.to_string(),
                row.egress.to_string(),
            ]);
        }
        table.text("no pods on this node")
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::policy::{Direction, SET_DENY_ALL};

    use super::*;

    #[test]
    fn the_addresses_of_a_pod_share_a_row_with_its_policies() {
        let endpoint = |ip: &str, ifindex, ingress_set, egress_set| Endpoint {
            ip: ip.parse().unwrap(),
            ifindex,
            ingress_set,
            egress_set,
            pod_mac: [2, 0, 0, 0, 0, 1],
        };
        let endpoints = [
            endpoint("10.1.0.9", 7, 0xa1, 0),
            endpoint("fd00::9", 7, 0xa1, 0),
            endpoint("10.1.0.7", 8, 0xa2, SET_DENY_ALL),
        ];
        let names = Names::default().with_pod("10.1.0.9", "shop", "db-0").with_set(
            0xa1,
            Direction::Ingress,
            &["db-access", "default-deny"],
        );
        let interfaces = HashMap::from([(7, "mr7".to_owned())]);
        assert_eq!(
            EndpointList::new(&endpoints, &names, &interfaces).text(),
            "\
POD        ADDRESSES          INTERFACE  INGRESS                            EGRESS
?          10.1.0.7           ifindex 8  set 000000a2                       everything: its pod is not known, or its policies could not be written
shop/db-0  10.1.0.9, fd00::9  mr7        shop/db-access, shop/default-deny  -
"
        );
    }
}
