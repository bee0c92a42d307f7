//! Routes to the pods of other nodes, and the addresses that lead nowhere else.
use ipnetwork::IpNetwork;

use super::{Desired, NodeConfig};
use crate::{
    entry::{Route, Way},
    model::{Family, node::Node},
    problem::{Problem, Scope},
    state::{Changed, ClusterState},
};

pub(super) fn render(state: &ClusterState, config: &NodeConfig, changed: &Changed, desired: &mut Desired) {
    for cidr in &changed.routes {
        let route = route(state, config, *cidr, &mut desired.problems);
        desired.routes.insert(*cidr, route);
    }
}

fn route(
    state: &ClusterState,
    config: &NodeConfig,
    cidr: IpNetwork,
    problems: &mut Vec<Problem>,
) -> Option<Route> {
    if state.services.has_address(cidr) {
        return Some(Route { ifindex: 0, way: Way::Service });
    }
    let mut claimants: Vec<&Node> = state.nodes.claimants(cidr).collect();
    // A pod CIDR of this node never leads elsewhere; of other nodes the lowest name wins.
    claimants.sort_by_key(|node| (node.name != config.node_name, &node.name));
    let (owner, losers) = claimants.split_first()?;
    let mut report = |node: &Node, text: String| {
        problems.push(Problem { scope: Scope::Route(cidr), object: format!("Node {}", node.name), text });
    };
    for loser in losers {
        report(loser, format!("its pod CIDR {cidr} belongs to Node {}: correct one of them", owner.name));
    }
    if owner.name == config.node_name {
        return None;
    }
    let family = Family::of(cidr.network());
    let ifindex = config.uplink(family)?;
    let next_hop = owner.addresses.iter().copied().find(|addr| Family::of(*addr) == family);
    if next_hop.is_none() {
        report(
            owner,
            format!("has no InternalIP of the family of its pod CIDR {cidr}: its pods are unreachable"),
        );
    }
    let direct = Way::Direct(next_hop?);
    Some(Route { ifindex, way: config.detours.get(&cidr).copied().unwrap_or(direct) })
}
