//! How a pod's packets find the interface they belong to.
//!
//! An interface's packets pass only from its own addresses. With one interface in the pod, a default route in the main
//! table does. With several (Multus), the main table's default route can be one interface's only: another one gets a
//! table with a default route of its own, and rules that send what comes from its addresses there. Routes and rules of
//! other attachments are never changed.
use std::io;

use agent_api::{
    Network,
    interface::{Label, POD_ROUTE_PROTOCOL, fnv1a},
};
use ipnetwork::IpNetwork;
use serde_json::Map;

use super::refused;
use crate::{
    kernel::{Link, Netlink, Route, Rule, Subject},
    spec::{Code, Error, RouteResult},
};

/// `RTPROT_STATIC`: the routes that one sees in the pod are its own.
const STATIC_ROUTE_PROTOCOL: u8 = 4;

/// Metric of a default route that nobody asked for: what the kernel gives IPv6 routes.
const METRIC: u32 = 1024;

/// Metric of a default route that the configuration asks for. That of another interface stays, to be used again.
const PREFERRED_METRIC: u32 = 512;

/// Before the main table (32766), so that its more specific routes take no packets of other interfaces' addresses.
const FROM_PRIORITY: u32 = 20_000;

/// After the main table: a socket that is bound to an interface has its way there, too.
const OUT_PRIORITY: u32 = 32_800;

/// Number of the table of an interface: of those that nobody else counts up to.
pub(super) fn own_table(ifname: &str) -> u32 {
    let [high, low @ ..] = u32::try_from(fnv1a(&[ifname.as_bytes()]) >> 32).unwrap_or_default().to_be_bytes();
    let [second, third, fourth] = low;
    u32::from_be_bytes([(high & 0x3f) | 0x40, second, third, fourth])
}

/// Where the default route of one family goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Main { metric: u32 },
    OwnTable,
}

/// `None`: it was asked for and cannot be had.
fn place(asked: Option<bool>, lowest_other: Option<u32>) -> Option<Place> {
    match (asked, lowest_other) {
        (Some(true), Some(metric)) if metric <= PREFERRED_METRIC => None,
        (Some(true), _) => Some(Place::Main { metric: PREFERRED_METRIC }),
        (None, None) => Some(Place::Main { metric: METRIC }),
        (Some(false), _) | (None, Some(_)) => Some(Place::OwnTable),
    }
}

/// Sets the routes of a new interface, which is up. `asked`: whether the configuration wants its default route in the
/// main table.
pub(super) fn set(
    pod: &mut Netlink,
    link: &Link,
    network: &Network,
    asked: Option<bool>,
) -> Result<Vec<RouteResult>, Error> {
    let refused = |cause: io::Error| refused("cannot set the routes of the pod's interface", &cause);
    let others = pod.routes(None).map_err(refused)?;
    let mut results = Vec::new();
    let mut takes_main = false;
    for gateway in &network.gateways {
        let destination = super::default_of(*gateway);
        let rivals = others
            .iter()
            .filter(|route| route.destination == destination && route.table == Route::MAIN_TABLE);
        let lowest = rivals.map(|route| route.metric).min();
        let place = place(asked, lowest).ok_or_else(|| no_room(&link.name, lowest.unwrap_or_default()))?;
        let (table, metric) = match place {
            Place::Main { metric } => (Route::MAIN_TABLE, metric),
            Place::OwnTable => (own_table(&link.name), METRIC),
        };
        if place == Place::OwnTable {
            steer(pod, link, &network.addresses, destination).map_err(refused)?;
        }
        takes_main |= place != Place::OwnTable;
        let route = Route { destination, gateway: Some(*gateway), ifindex: link.index, table, metric };
        pod.add_route(route, STATIC_ROUTE_PROTOCOL).map_err(refused)?;
        results.push(RouteResult {
            dst: destination,
            gw: Some(*gateway),
            table: (place == Place::OwnTable).then_some(table),
            priority: Some(metric),
            other: Map::new(),
        });
    }
    if takes_main {
        keep_others(pod, link, network).map_err(refused)?;
    }
    Ok(results)
}

fn no_room(ifname: &str, metric: u32) -> Error {
    Error::new(
        Code::InvalidConfig,
        format!(
            "defaultRoute is true for {ifname}, but another interface of the pod has a default route of metric {metric}, \
             which is preferred to one of metric {PREFERRED_METRIC}: take that route away, or remove defaultRoute"
        ),
    )
}

/// Sends what comes from an interface's addresses, and what a socket sends out of it, to its own table.
fn steer(pod: &mut Netlink, link: &Link, addresses: &[IpNetwork], destination: IpNetwork) -> io::Result<()> {
    let is_ipv6 = destination.is_ipv6();
    let from = addresses.iter().filter(|address| address.is_ipv6() == is_ipv6);
    let from = from.map(|address| (Subject::From(address.ip()), FROM_PRIORITY));
    for (subject, priority) in from.chain([(Subject::Out { ifname: &link.name, is_ipv6 }, OUT_PRIORITY)]) {
        let table = own_table(&link.name);
        pod.add_rule(Rule { subject, table, priority, protocol: POD_ROUTE_PROTOCOL })?;
    }
    Ok(())
}

/// The main table's default route is a new interface's now: what our other interfaces answer keeps its way.
fn keep_others(pod: &mut Netlink, new: &Link, network: &Network) -> io::Result<()> {
    let links = pod.links()?;
    let is_ours = |link: &&Link| link.index != new.index && link.alias.parse::<Label>().is_ok();
    for link in links.iter().filter(is_ours) {
        let addresses: Vec<_> = pod.addresses(link.index)?.into_iter().map(IpNetwork::from).collect();
        let table = own_table(&link.name);
        let has_table = pod.routes(Some(link.index))?.iter().any(|route| route.table == table);
        for gateway in network.gateways.iter().filter(|_| !has_table && link.running) {
            let destination = super::default_of(*gateway);
            let (ifindex, metric) = (link.index, METRIC);
            let route = Route { destination, gateway: Some(*gateway), ifindex, table, metric };
            pod.add_route(route, STATIC_ROUTE_PROTOCOL)?;
            steer(pod, link, &addresses, destination)?;
        }
    }
    Ok(())
}

/// Removes what outlives an interface that is gone: its routes go with it, its rules do not.
pub(super) fn forget(pod: &mut Netlink, ifname: &str) -> io::Result<()> {
    pod.delete_rules(own_table(ifname), POD_ROUTE_PROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_table_has_one_default_route_unless_another_is_asked_for() {
        let main = |metric| Some(Place::Main { metric });
        let cases = [
            (None, None, main(METRIC)),
            (None, Some(0), Some(Place::OwnTable)),
            (None, Some(METRIC), Some(Place::OwnTable)),
            (Some(false), None, Some(Place::OwnTable)),
            (Some(true), None, main(PREFERRED_METRIC)),
            (Some(true), Some(METRIC), main(PREFERRED_METRIC)),
            // An older plugin's, or another's: ours would not be used.
            (Some(true), Some(0), None),
            (Some(true), Some(PREFERRED_METRIC), None),
        ];
        for (asked, lowest, expected) in cases {
            assert_eq!(place(asked, lowest), expected, "{asked:?} beside {lowest:?}");
        }
    }

    #[test]
    fn tables_are_none_that_people_or_other_plugins_count_up_to() {
        let tables: Vec<u32> = ["eth0", "net1", "net2", "net10"].map(own_table).to_vec();
        assert!(tables.iter().all(|table| (0x4000_0000..0x8000_0000).contains(table)), "{tables:x?}");
        assert!(tables.windows(2).all(|pair| pair[0] != pair[1]), "{tables:x?}");
    }
}
