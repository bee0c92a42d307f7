//! CHECK: the interface is as ADD left it, and the programs are on it.
use agent_api::{Attachment, interface::host_ifname};

use super::{host_link, open_host, refused, require_version};
use crate::{
    agent::Agent,
    config::NetConf,
    environment::Environment,
    kernel::{Link, Netlink, Route},
    netns::Netns,
    spec::{AddResult, Code, Error, IpResult, Version},
};

pub(crate) fn check(environment: &Environment, conf: &NetConf) -> Result<(), Error> {
    require_version(conf, "CHECK", Version::V0_4_0)?;
    let attachment = environment.attachment()?;
    let path = environment.required_netns()?;
    let result = conf.previous_result()?.ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            "prevResult is missing in the network configuration: CHECK compares with it",
        )
    })?;
    let netns = Netns::open(&path).map_err(|_| {
        let message =
            format!("CNI_NETNS is {}: cannot be entered as the pod's network namespace", path.display());
        Error::new(Code::InvalidEnvironment, message)
    })?;

    let ours = addresses_of(&result, &attachment);
    let mut pod = Netlink::open_in(&netns)
        .map_err(|cause| refused("cannot open a netlink socket in the pod", &cause))?;
    check_pod(&mut pod, &attachment, &result, &ours)?;
    check_host(&attachment, &ours)?;
    match &Agent::new(conf).check(&attachment)?[..] {
        [] => Ok(()),
        missing => Err(wrong(missing.join("; "))),
    }
}

fn wrong(message: String) -> Error {
    Error::new(Code::CheckFailed, message)
}

/// The addresses of the result that are on the attachment's interface.
fn addresses_of<'a>(result: &'a AddResult, attachment: &Attachment) -> Vec<&'a IpResult> {
    let is_ours = |index: usize| {
        result
            .interfaces
            .get(index)
            .is_some_and(|interface| interface.name == attachment.ifname && interface.sandbox.is_some())
    };
    result.ips.iter().filter(|ip| ip.interface.is_some_and(is_ours)).collect()
}

fn check_pod(
    pod: &mut Netlink,
    attachment: &Attachment,
    result: &AddResult,
    ips: &[&IpResult],
) -> Result<(), Error> {
    let ifname = &attachment.ifname;
    let link =
        pod.link(ifname).map_err(|cause| refused(format!("cannot look up {ifname} in the pod"), &cause))?;
    let link = running(link, ifname, "the pod")?;
    let addresses =
        pod.addresses(link.index).map_err(|cause| refused("cannot list the pod's addresses", &cause))?;
    let routes =
        pod.routes(Some(link.index)).map_err(|cause| refused("cannot list the pod's routes", &cause))?;
    for ip in ips {
        if !addresses.contains(&ip.address.ip()) {
            return Err(wrong(format!("{ifname} in the pod has lost its address {}", ip.address)));
        }
    }
    // Only the routes through our gateways are ours; plugins after this one may have changed others.
    let gateways: Vec<_> = ips.iter().filter_map(|ip| ip.gateway).collect();
    for route in
        result.routes.iter().filter(|route| route.gw.is_some_and(|gateway| gateways.contains(&gateway)))
    {
        let table = route.table.unwrap_or(Route::MAIN_TABLE);
        let is_it =
            |found: &Route| (found.destination, found.gateway, found.table) == (route.dst, route.gw, table);
        if !routes.iter().any(is_it) {
            return Err(wrong(format!("{ifname} in the pod has lost its route to {}", route.dst)));
        }
        let steered = ips.iter().map(|ip| ip.address.ip()).filter(|ip| ip.is_ipv4() == route.dst.is_ipv4());
        for address in steered.filter(|_| route.table.is_some()) {
            let found = pod.has_rule(address, table);
            if !found.map_err(|cause| refused("cannot list the pod's rules", &cause))? {
                return Err(wrong(format!("{ifname} in the pod has lost the rule for {address}")));
            }
        }
    }
    Ok(())
}

fn check_host(attachment: &Attachment, ips: &[&IpResult]) -> Result<(), Error> {
    let mut host = open_host()?;
    let link = running(host_link(&mut host, attachment)?, &host_ifname(attachment), "the host")?;
    let routes =
        host.routes(Some(link.index)).map_err(|cause| refused("cannot list the host's routes", &cause))?;
    let leads_to = |ip: &IpResult| {
        routes.iter().any(|route| route.destination == ip.address && route.table == Route::MAIN_TABLE)
    };
    match ips.iter().find(|ip| !leads_to(ip)) {
        None => Ok(()),
        Some(ip) => {
            Err(wrong(format!("the host has lost its route to {} through {}", ip.address, link.name)))
        }
    }
}

fn running(link: Option<Link>, name: &str, place: &str) -> Result<Link, Error> {
    match link {
        None => Err(wrong(format!("there is no interface {name} in {place}"))),
        Some(link) if !link.running => Err(wrong(format!("the interface {name} in {place} is down"))),
        Some(link) => Ok(link),
    }
}
