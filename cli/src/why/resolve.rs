//! Which addresses a question means.
use std::net::{IpAddr, SocketAddr};

use agent_core::model::{Family, ObjectName};
use anyhow::{Result, bail};

use super::question::{Party, Question};
use crate::{names::Names, node::service::Frontend};

/// One new connection, by addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// `None`: this node, from whichever of its addresses.
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: SocketAddr,
}

/// The flows that the question means: one per family that both ends have.
pub(crate) fn flows(question: &Question, names: &Names, frontends: &[Frontend]) -> Result<Vec<Flow>> {
    let destinations = destinations(question, names, frontends)?;
    let sources = match &question.source {
        Party::Host => None,
        Party::Addr(addr) => Some(vec![*addr]),
        Party::Pod(pod) => Some(pod_addresses(pod, names)?),
        Party::Service(name) => bail!("svc/{name} is a service: connections come from pods or addresses"),
    };
    let flow = |destination: &IpAddr| {
        let source = match &sources {
            None => None,
            Some(sources) => Some(*sources.iter().find(|ip| Family::of(**ip) == Family::of(*destination))?),
        };
        Some(Flow { source, destination: (*destination, question.port).into() })
    };
    let mut flows: Vec<Flow> = destinations.iter().filter_map(flow).collect();
    flows.sort_by_key(|flow| flow.destination);
    if flows.is_empty() {
        bail!("{} and {} have no address family in common", question.source, question.destination);
    }
    Ok(flows)
}

fn destinations(question: &Question, names: &Names, frontends: &[Frontend]) -> Result<Vec<IpAddr>> {
    match &question.destination {
        Party::Host => bail!("name the address of the host that you mean: a connection goes to an address"),
        Party::Addr(addr) => Ok(vec![*addr]),
        Party::Pod(pod) => pod_addresses(pod, names),
        Party::Service(name) => {
            let ours = |frontend: &&Frontend| names.is_of_service(frontend.service_id, name);
            let of_service: Vec<&Frontend> = frontends.iter().filter(ours).collect();
            if of_service.is_empty() {
                bail!(
                    "no service {name} is known on this node{}: `millrace service list` shows them",
                    names.excuse()
                );
            }
            let asked = |frontend: &&&Frontend| {
                (frontend.proto, frontend.addr.port()) == (question.proto, question.port)
            };
            let addrs: Vec<IpAddr> =
                of_service.iter().filter(asked).map(|frontend| frontend.addr.ip()).collect();
            if addrs.is_empty() {
                let ports: Vec<String> =
                    of_service.iter().map(|f| format!("{}/{}", f.addr.port(), f.proto)).collect();
                bail!(
                    "service {name} has no port {}/{}, but {}",
                    question.port,
                    question.proto,
                    ports.join(", ")
                );
            }
            Ok(addrs)
        }
    }
}

fn pod_addresses(pod: &ObjectName, names: &Names) -> Result<Vec<IpAddr>> {
    match names.addresses(pod) {
        addrs if addrs.is_empty() => {
            bail!("no pod {pod} is known on this node{}: name it by its address", names.excuse())
        }
        addrs => Ok(addrs),
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::net::proto;

    use super::*;
    use crate::node::Proto;

    fn flows_of(question: &str) -> String {
        let names = Names::default()
            .with_pod("10.1.0.7", "shop", "web")
            .with_pod("fd00::7", "shop", "web")
            .with_pod("10.1.0.9", "shop", "db")
            .with_pod("fd00::5", "shop", "six")
            .with_service(1, "shop", "db", "pg");
        let frontend = |addr: &str| Frontend {
            addr: addr.parse().unwrap(),
            proto: Proto(proto::TCP),
            service_id: 1,
            drops_when_empty: false,
            backends: Vec::new(),
            kept: Vec::new(),
        };
        let frontends = [frontend("[fd00:96::1]:5432"), frontend("10.96.0.1:5432")];
        let question = Question::parse(&[question.to_owned()]).unwrap();
        match flows(&question, &names, &frontends) {
            Err(error) => format!("error: {error}"),
            Ok(flows) => {
                let source = |flow: &Flow| flow.source.map_or("host".to_owned(), |ip| ip.to_string());
                let texts = flows.iter().map(|flow| format!("{} > {}", source(flow), flow.destination));
                texts.collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn a_flow_is_asked_for_in_each_family_that_both_ends_have() {
        assert_eq!(
            flows_of("shop/web -> svc/shop/db:5432"),
            "10.1.0.7 > 10.96.0.1:5432, fd00::7 > [fd00:96::1]:5432"
        );
        assert_eq!(flows_of("shop/web -> shop/db:80"), "10.1.0.7 > 10.1.0.9:80");
        assert_eq!(flows_of("host -> shop/web:80"), "host > 10.1.0.7:80, host > [fd00::7]:80");
        assert_eq!(flows_of("192.0.2.1 -> shop/web:80"), "192.0.2.1 > 10.1.0.7:80");
    }

    #[test]
    fn what_cannot_be_resolved_is_named() {
        for (question, expected) in [
            ("shop/six -> shop/db:80", "shop/six and shop/db have no address family in common"),
            ("shop/nobody -> shop/db:80", "no pod shop/nobody is known on this node"),
            ("shop/web -> svc/shop/nothing:80", "no service shop/nothing is known on this node"),
            ("shop/web -> svc/shop/db:80", "service shop/db has no port 80/tcp, but 5432/tcp"),
            ("shop/web -> host:80", "name the address of the host"),
        ] {
            let answer = flows_of(question);
            assert!(answer.contains(expected), "{question}: {answer}");
        }
    }
}
