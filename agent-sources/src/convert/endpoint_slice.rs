//! EndpointSlices.
use std::net::IpAddr;

use agent_core::{
    model::{
        Family,
        service::{self, SliceEndpoint, SlicePort},
    },
    update::{Change, Kind, Update},
};
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::{
    Convert, Outcome, PROTOCOL_REMEDY, Problems, address,
    metadata::{self, or_default, resource, slim},
    port, protocol,
};
use crate::source::Trigger;

/// Names the Service that the slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Marks slices of headless Services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// An EndpointSlice, on the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    address_type: String,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<WirePort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: Conditions,
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct WirePort {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<i64>,
}

resource!(EndpointSlice, "discovery.k8s.io", "v1", "endpointslices", NamespaceResourceScope);

impl Convert for EndpointSlice {
    type Model = service::EndpointSlice;
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(&self) -> Outcome<Self::Model> {
        let service = metadata::label(&self.metadata, SERVICE_NAME_LABEL).unwrap_or_default();
        let headless = metadata::label(&self.metadata, HEADLESS_LABEL).is_some();
        if service.is_empty() || headless || self.address_type == "FQDN" {
            return Outcome::Irrelevant;
        }
        let mut problems = Problems::of(self);
        let family = match self.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let problem = format!("is {other:?}, which is no known type");
                problems.note("addressType", problem, "use IPv4 or IPv6");
                return problems.nothing();
            }
        };
        let ports = self.ports(&mut problems);
        let endpoints = self.endpoints(family, &mut problems);
        let name = metadata::object_name(&self.metadata);
        let service = service.to_owned();
        problems.skipped(service::EndpointSlice { name, service, family, ports, endpoints })
    }

    fn trigger(&self) -> Option<Trigger> {
        let family = if self.address_type == "IPv6" { Family::V6 } else { Family::V4 };
        Some(Trigger { family, at: metadata::triggered(&self.metadata)? })
    }

    fn apply(model: Self::Model) -> Update {
        Update::EndpointSlice(Change::Apply(model))
    }
}

impl EndpointSlice {
    fn ports(&self, problems: &mut Problems) -> Vec<SlicePort> {
        let mut ports = Vec::new();
        for (index, wire) in self.ports.iter().enumerate() {
            let at = format!("ports[{index}]");
            let protocol = problems.check(
                &format!("{at}.protocol"),
                protocol(wire.protocol.as_deref()),
                PROTOCOL_REMEDY,
            );
            let number = problems.check(
                &format!("{at}.port"),
                wire.port.map(port).transpose(),
                "set the number that the pods listen on, from 1 to 65535, or leave it out: then all ports are meant",
            );
            if let (Some(protocol), Some(port)) = (protocol, number) {
                ports.push(SlicePort { name: wire.name.clone(), protocol, port });
            }
        }
        ports
    }

    /// The first address of each endpoint: they all reach the same pod.
    fn endpoints(&self, family: Family, problems: &mut Problems) -> Vec<SliceEndpoint> {
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        for (index, wire) in self.endpoints.iter().enumerate() {
            let field = format!("endpoints[{index}].addresses");
            let first = wire.addresses.first().ok_or_else(|| "is empty".to_owned());
            let parsed = first.and_then(|text| address::address(text)).and_then(|ip| backend(ip, family));
            let remedy = "use the address of a pod or server, of the slice's addressType";
            let Some(address) = problems.check(&field, parsed, remedy) else { continue };
            endpoints.push(SliceEndpoint {
                address,
                ready: wire.conditions.ready.unwrap_or(true),
                serving: wire.conditions.serving.unwrap_or(true),
                terminating: wire.conditions.terminating.unwrap_or(false),
                node_name: wire.node_name.clone().filter(|name| !name.is_empty()),
            });
        }
        endpoints
    }
}

/// An address that may be a backend: a hand-made slice must not reach what only the node itself may reach.
fn backend(ip: IpAddr, family: Family) -> Result<IpAddr, String> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if Family::of(ip) != family {
        Err(format!("is {ip}, which is not {family}"))
    } else if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        Err(format!("is {ip}, a loopback, link-local, multicast or unspecified address"))
    } else {
        Ok(ip)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{EndpointSlice, Family, Trigger};
    use crate::convert::{Convert, Outcome, outcome_text};

    const LABELS: &str = "{kubernetes.io/service-name: web}";

    fn check(labels: &str, body: &str, expected: &str) {
        let yaml = format!("{{metadata: {{name: web-1, namespace: shop, labels: {labels}}}, {body}}}");
        let outcome = serde_saphyr::from_str::<EndpointSlice>(&yaml).unwrap().convert();
        let text = outcome_text(outcome, |slice| {
            let number = |port: Option<u16>| port.map_or("all".to_owned(), |port| port.to_string());
            let ports = slice.ports.iter().map(|p| format!("{}:{}/{}", p.name, number(p.port), p.protocol));
            let endpoints = slice.endpoints.iter().map(|e| {
                let flags = [(e.ready, "r"), (e.serving, "s"), (e.terminating, "t")];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
                format!("{}={flags}@{}", e.address, e.node_name.as_deref().unwrap_or("?"))
            });
            ports.chain(endpoints).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(text, expected, "{labels} {body}");
    }

    #[test]
    fn endpoints_and_ports_are_read_with_their_defaults() {
        for (body, expected) in [
            (
                "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]",
                ":80/TCP 10.0.0.1=rs@?",
            ),
            (
                "addressType: IPv6, endpoints: [{addresses: ['FD00::1', 'fd00::2'], nodeName: n1, conditions: \
                 {ready: false, serving: true, terminating: true}}], ports: [{name: dns, port: 53, protocol: UDP}]",
                "dns:53/UDP fd00::1=st@n1",
            ),
            ("addressType: IPv4, endpoints: null, ports: null", ""),
            (
                "addressType: IPv4, ports: [{name: a}, {name: b, port: null, protocol: UDP}]",
                "a:all/TCP b:all/UDP",
            ),
            (
                "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: null}}]",
                "10.0.0.1=rs@?",
            ),
        ] {
            check(LABELS, body, expected);
        }
    }

    #[test]
    fn what_cannot_be_a_backend_is_skipped_and_the_rest_is_used() {
        for (bad, problem) in [
            ("[]", "is empty"),
            ("[web]", "is \"web\", which is no IP address"),
            ("['fd00::1']", "is fd00::1, which is not IPv4"),
            ("[127.0.0.1]", "is 127.0.0.1, a loopback, link-local, multicast or unspecified address"),
            (
                "[169.254.169.254]",
                "is 169.254.169.254, a loopback, link-local, multicast or unspecified address",
            ),
        ] {
            let body =
                format!("addressType: IPv4, endpoints: [{{addresses: {bad}}}, {{addresses: [10.0.0.2]}}]");
            check(LABELS, &body, &format!("10.0.0.2=rs@?: endpoints[0].addresses {problem}"));
        }
        check(
            LABELS,
            "addressType: IPv4, ports: [{name: a, port: 0}, {port: 80}]",
            ":80/TCP: ports[0].port is 0, which is no port number",
        );
    }

    #[test]
    fn a_slice_says_when_its_change_began() {
        let trigger = |annotations: &str| {
            let yaml = format!(
                "{{metadata: {{name: s, labels: {LABELS}, annotations: {annotations}}}, addressType: IPv6}}"
            );
            serde_saphyr::from_str::<EndpointSlice>(&yaml).unwrap().trigger()
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_600_000_000_500);
        assert_eq!(
            trigger("{endpoints.kubernetes.io/last-change-trigger-time: '2020-09-13T12:26:40.5Z'}"),
            Some(Trigger { family: Family::V6, at })
        );
        for none in ["null", "{a: b}", "{endpoints.kubernetes.io/last-change-trigger-time: yesterday}"] {
            assert_eq!(trigger(none), None);
        }
    }

    #[test]
    fn slices_of_no_service_or_of_a_headless_one_are_irrelevant() {
        let body = "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]";
        for labels in [
            "{}",
            "null",
            "{kubernetes.io/service-name: ''}",
            "{kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}",
        ] {
            check(labels, body, "irrelevant");
        }
        check(LABELS, "addressType: FQDN, endpoints: [{addresses: [example.org]}]", "irrelevant");
        check(LABELS, "endpoints: []", "nothing: addressType is \"\", which is no known type");
    }

    #[test]
    fn a_slice_with_only_bad_endpoints_is_an_empty_slice() {
        let yaml = "{metadata: {name: s, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, \
                    endpoints: [{addresses: [x]}]}";
        let outcome = serde_saphyr::from_str::<EndpointSlice>(yaml).unwrap().convert();
        assert!(matches!(outcome, Outcome::Usable { model, .. } if model.endpoints.is_empty()));
    }
}
