//! Routes to the pods of other nodes: the host's own, and what the maps may promise.
use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use agent_core::{
    entry::{Route, Way},
    model::Family,
    render::{self, NodeConfig},
};
use ipnetwork::IpNetwork;

use super::Reconciler;
use crate::{
    health::Problems,
    net::{
        NetError, Netlink,
        next_hop::NextHop,
        route::{NodeRoute, Scope, Step},
    },
    telemetry::chain,
};

/// What problems with routes are filed under.
const SUBJECT: &str = "routes";
const PREFIXES: &str = "map PREFIXES";

/// The ways to pod CIDRs whose node is not on the uplink's link.
type Detours = BTreeMap<IpNetwork, Way>;

impl Reconciler {
    /// Makes the host's routes those to the nodes that are known, and the maps' routes those of the host: a packet that
    /// passes the host's stack goes where the stack would have sent it. Comes before the maps are written.
    pub(super) async fn follow_routes(&mut self) {
        if !self.state.is_synced() {
            return;
        }
        self.routes_due = false;
        self.host_paths.look_again();
        let every_route = self.every_route();
        let plain = NodeConfig { detours: Detours::new(), ..self.node.clone() };
        let desired = render::render(&self.state, &plain, &every_route).routes;
        let wanted: BTreeMap<IpNetwork, Route> =
            desired.into_iter().filter_map(|(cidr, route)| Some((cidr, route?))).collect();
        let own = self.own.as_ref().map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        let Synced { detours, direct, left, unmet, is_refused } =
            match sync(&self.netlink, &wanted, own, &self.problems).await {
                Ok(synced) => synced,
                Err(error) => {
                    self.upkeep.try_again(Instant::now());
                    return self.problems.report(SUBJECT, &chain(&error));
                }
            };
        self.upkeep.routes_set(direct, left, unmet);
        if is_refused {
            self.upkeep.try_again(Instant::now());
        }
        let known = &self.node.detours;
        let changed: Vec<IpNetwork> =
            wanted.keys().copied().filter(|cidr| known.get(cidr) != detours.get(cidr)).collect();
        for cidr in &changed {
            match detours.get(cidr) {
                Some(Way::Gateway(router)) => {
                    tracing::info!(
                        "the pods in {cidr} are behind the router {router}, which must know the way to them"
                    );
                }
                Some(Way::Direct(_) | Way::Stack | Way::Service) => {
                    tracing::info!("packets to the pods in {cidr} go through the host's stack");
                }
                None => tracing::info!("the pods in {cidr} are behind their node"),
            }
        }
        self.pending.routes.extend(changed);
        self.node.detours = detours;
    }

    /// Tells the programs where an address may be nobody's.
    pub(super) fn tell_prefixes(&self) {
        let pods = self.own.as_ref().map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        let services: Vec<IpNetwork> = self.state.service_prefixes().collect();
        match self.dataplane.set_prefixes(pods, &services) {
            Ok(()) => self.problems.resolve(PREFIXES),
            Err(error) => self.problems.report(PREFIXES, &chain(&error)),
        }
    }
}

/// What became of the host's routes.
struct Synced {
    detours: Detours,
    /// The routes that the host is to have.
    direct: Vec<NodeRoute>,
    /// What of them could not be set.
    left: Vec<Step>,
    /// What keeps packets from other nodes' pods, as far as it is this node's fault.
    unmet: Vec<String>,
    /// The kernel did not do what it should.
    is_refused: bool,
}

/// Sets the host's routes, those to nobody in the pod CIDRs of this node among them, and finds out about the pod CIDRs whose node is not on the uplink's link.
async fn sync(
    netlink: &Netlink,
    wanted: &BTreeMap<IpNetwork, Route>,
    own: &[IpNetwork],
    problems: &Problems,
) -> Result<Synced, NetError> {
    let mut direct: Vec<NodeRoute> =
        own.iter().map(|cidr| NodeRoute { destination: *cidr, via: None }).collect();
    let mut others = Vec::new();
    for (cidr, route) in wanted {
        let Some(node) = route.way.next_hop() else { continue };
        let found = netlink.next_hop(node).await?;
        // On the link of another interface, too: the stack sends there, and the maps leave it to the stack.
        if found.is_some_and(|hop| hop.gateway.is_none()) {
            direct.push(NodeRoute { destination: *cidr, via: Some(node) });
        }
        if !found.is_some_and(|hop| hop == NextHop { ifindex: route.ifindex, gateway: None }) {
            others.push((*cidr, node, route.ifindex));
        }
    }
    let report = netlink.sync_node_routes(&direct, &Scope::All).await?;
    if report.written + report.removed > 0 {
        tracing::info!("{} routes to other nodes set, {} removed", report.written, report.removed);
    }
    let refused = report.refused.iter().filter(|cidr| others.iter().all(|(other, ..)| other != *cidr));
    let refused: Vec<_> = refused
        .filter_map(|cidr| {
            let route = wanted.get(cidr)?;
            Some((*cidr, route.way.next_hop()?, route.ifindex))
        })
        .collect();
    let is_taken = |error: &NetError| error.errno() == Some(libc::EEXIST);
    let (taken, failed): (Vec<&NetError>, Vec<&NetError>) =
        report.errors.iter().partition(|error| is_taken(error));
    let mut unmet: Vec<String> = failed.iter().map(|error| chain(error)).collect();
    let mut sentences: Vec<String> = taken.iter().map(|error| chain(error)).collect();
    let mut detours = Detours::new();
    let mut lost: Vec<IpNetwork> = Vec::new();
    for (cidr, node, uplink) in others.into_iter().chain(refused) {
        let found = netlink.next_hop(first_host(cidr)).await?;
        let is_near = direct.iter().any(|route| route.destination == cidr);
        match (found, is_near) {
            (None, true) => unmet.push(format!(
                "another route leads the pods in {cidr} nowhere, whose node {node} is on a link of this node: remove it"
            )),
            (None, false) => {
                lost.push(cidr);
                sentences.push(format!(
                    "no route leads to the pods in {cidr}: their node {node} is on no link of this node; give the host a \
                     route to {cidr}, or a default route by a router that has one"
                ));
            }
            (Some(_), _) => {}
        }
        detours.insert(cidr, way(found, uplink));
    }
    let pods: Vec<IpNetwork> = wanted.keys().copied().collect();
    unmet.extend(cut_off(&pods, &lost));
    sentences.extend(unmet.iter().cloned());
    if sentences.is_empty() {
        problems.resolve(SUBJECT);
    } else {
        problems.report(SUBJECT, &sentences.join("; "));
    }
    let is_refused = !failed.is_empty();
    Ok(Synced { detours, direct, left: report.left, unmet, is_refused })
}

/// A sentence for each family of which no other node's pods can be reached. One node that cannot be is not this node's
/// fault: a wrong address in one object would make every node of the cluster unready at once.
fn cut_off(wanted: &[IpNetwork], lost: &[IpNetwork]) -> Vec<String> {
    let of = |family| {
        let mut pods = wanted.iter().filter(|cidr| Family::of(cidr.network()) == family).peekable();
        let is_cut_off = pods.peek().is_some() && pods.all(|cidr| lost.contains(cidr));
        is_cut_off.then(|| format!("no route leads to any other node's pods of {family}"))
    };
    [Family::V4, Family::V6].into_iter().filter_map(of).collect()
}

/// What the programs may do on their own: send to the gateway that the stack would send to, on the uplink.
fn way(found: Option<NextHop>, uplink: u32) -> Way {
    match found {
        Some(NextHop { ifindex, gateway: Some(gateway) }) if ifindex == uplink => Way::Gateway(gateway),
        _ => Way::Stack,
    }
}

/// An address that may be a pod's.
fn first_host(cidr: IpNetwork) -> IpAddr {
    cidr.iter().nth(1).unwrap_or_else(|| cidr.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: u32 = 2;

    #[test]
    fn only_a_gateway_on_the_uplink_is_sent_to_past_the_stack() {
        let gateway: IpAddr = [192, 0, 2, 1].into();
        let hop = |ifindex, gateway| Some(NextHop { ifindex, gateway });
        assert_eq!(way(hop(UPLINK, Some(gateway)), UPLINK), Way::Gateway(gateway));
        assert_eq!(way(hop(UPLINK + 1, Some(gateway)), UPLINK), Way::Stack, "another interface");
        assert_eq!(way(hop(UPLINK, None), UPLINK), Way::Stack, "the stack asks for each pod's neighbour");
        assert_eq!(way(None, UPLINK), Way::Stack, "nowhere");
    }

    #[test]
    fn a_node_is_cut_off_when_no_other_node_of_a_family_can_be_reached() {
        let cidrs =
            |texts: &[&str]| -> Vec<IpNetwork> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let wanted = cidrs(&["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"]);
        let sentences = |lost: &[&str]| cut_off(&wanted, &cidrs(lost));
        assert_eq!(sentences(&[]), [""; 0]);
        assert_eq!(sentences(&["10.1.0.0/24"]), [""; 0]);
        assert!(matches!(&sentences(&["fd01::/64", "10.1.0.0/24"])[..], [v6] if v6.ends_with("IPv6")));
        assert!(matches!(&sentences(&["10.2.0.0/24", "10.1.0.0/24"])[..], [v4] if v4.ends_with("IPv4")));
        assert_eq!(cut_off(&[], &[]), [""; 0], "a node alone");
    }

    #[test]
    fn the_way_to_a_cidr_is_asked_for_an_address_in_it() {
        for (cidr, host) in
            [("10.2.0.0/24", "10.2.0.1"), ("10.2.0.9/32", "10.2.0.9"), ("fd02::/64", "fd02::1")]
        {
            assert_eq!(first_host(cidr.parse().unwrap()), host.parse::<IpAddr>().unwrap());
        }
    }
}
