//! Services.
use std::net::IpAddr;

use agent_core::{
    model::{
        Family,
        service::{self, ServicePort, TrafficPolicy},
    },
    update::{Change, Kind, Update},
};
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::{
    Concern, Convert, Outcome, PORT_REMEDY, PROTOCOL_REMEDY, Problems, address,
    metadata::{self, or_default, resource, slim},
    port, protocol,
    unsupported::{self, Row},
};

/// A Service with this label belongs to another service proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// A Service, on the wire.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default, rename = "clusterIP", deserialize_with = "or_default")]
    cluster_ip: String,
    #[serde(default, rename = "clusterIPs", deserialize_with = "or_default")]
    cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    ip_families: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<WirePort>,
    #[serde(default)]
    internal_traffic_policy: Option<String>,
    #[serde(default)]
    external_traffic_policy: Option<String>,
    #[serde(default, rename = "externalIPs", deserialize_with = "or_default")]
    external_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    load_balancer_source_ranges: Vec<String>,
    #[serde(default)]
    session_affinity: Option<String>,
    #[serde(default)]
    traffic_distribution: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct WirePort {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default)]
    protocol: Option<String>,
    port: i64,
}

/// What of a Service this build does not carry out. Defaults that every Service has are not here.
const UNSUPPORTED: &[Row<Spec>] = &[
    Row {
        field: "spec.type",
        concern: Concern::Outside,
        asked: |spec| spec.r#type.clone().filter(|name| name == "NodePort" || name == "LoadBalancer"),
        missing: "only its cluster IP is served, no port of a node and no address of a load balancer",
        remedy: "let clients from outside reach the pods by routes to the pod CIDRs, or a proxy with hostNetwork",
    },
    Row {
        field: "spec.externalIPs",
        concern: Concern::Outside,
        asked: |spec| (!spec.external_ips.is_empty()).then(|| "set".to_owned()),
        missing: "what is sent to these addresses is not translated",
        remedy: "use the cluster IP",
    },
    Row {
        field: "spec.externalTrafficPolicy",
        concern: Concern::Outside,
        asked: |spec| spec.external_traffic_policy.clone().filter(|policy| policy == "Local"),
        missing: "nothing from outside is served, and its healthCheckNodePort does not answer",
        remedy: "use the cluster IP",
    },
    Row {
        field: "spec.loadBalancerSourceRanges",
        concern: Concern::Outside,
        asked: |spec| (!spec.load_balancer_source_ranges.is_empty()).then(|| "set".to_owned()),
        missing: "it keeps nobody away",
        remedy: "say who may reach the pods in a NetworkPolicy",
    },
    Row {
        field: "spec.sessionAffinity",
        concern: Concern::Unsupported,
        asked: |spec| spec.session_affinity.clone().filter(|affinity| affinity == "ClientIP"),
        missing: "each connection of a client chooses its backend by itself",
        remedy: "keep sessions where every backend finds them, and set None",
    },
    Row {
        field: "spec.trafficDistribution",
        concern: Concern::Unsupported,
        asked: |spec| spec.traffic_distribution.clone().filter(|distribution| !distribution.is_empty()),
        missing: "backends of every zone and node are chosen alike",
        remedy: "leave it out",
    },
    Row {
        field: "spec.ports[].protocol",
        concern: Concern::Unsupported,
        asked: |spec| {
            let sctp = spec.ports.iter().any(|port| port.protocol.as_deref() == Some("SCTP"));
            sctp.then(|| "SCTP".to_owned())
        },
        missing: "processes of nodes are not translated, and pods only where port and targetPort are the same number",
        remedy: "give both the same number, and let processes of nodes use the addresses of the pods",
    },
];

resource!(Service, "", "v1", "services", NamespaceResourceScope);

impl Convert for Service {
    type Model = service::Service;
    const KIND: Kind = Kind::Service;

    fn convert(&self) -> Outcome<Self::Model> {
        let other_proxy = metadata::label(&self.metadata, PROXY_NAME_LABEL).is_some();
        if other_proxy
            || self.spec.r#type.as_deref() == Some("ExternalName")
            || self.spec.cluster_ip == "None"
        {
            return Outcome::Irrelevant;
        }
        let mut problems = Problems::of(self);
        unsupported::note(UNSUPPORTED, &self.spec, &mut problems);
        let cluster_ips = self.spec.cluster_ips(&mut problems);
        let ports = self.spec.ports(&mut problems);
        let internal_traffic_policy = match self.spec.internal_traffic_policy.as_deref() {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                let problem = format!("is {other:?}, which is no known policy");
                problems.note("spec.internalTrafficPolicy", problem, "use Cluster or Local");
                TrafficPolicy::Cluster
            }
        };
        if cluster_ips.is_empty() || ports.is_empty() {
            return problems.nothing();
        }
        let name = metadata::object_name(&self.metadata);
        problems.stand_in(service::Service { name, cluster_ips, ports, internal_traffic_policy })
    }

    fn apply(model: Self::Model) -> Update {
        Update::Service(Change::Apply(model))
    }
}

impl Spec {
    /// The cluster IP of each family: `ipFamilies` says which of `clusterIPs` it is.
    fn cluster_ips(&self, problems: &mut Problems) -> Vec<IpAddr> {
        let listed = match self.cluster_ips.as_slice() {
            [] if self.cluster_ip.is_empty() => {
                problems.note(
                    "spec.clusterIP",
                    "is missing",
                    "set it: only the API server allocates one, a directory of manifests does not",
                );
                return Vec::new();
            }
            [] => std::slice::from_ref(&self.cluster_ip),
            listed => listed,
        };
        let mut ips: Vec<IpAddr> = Vec::new();
        for (index, text) in listed.iter().enumerate() {
            let field = format!("spec.clusterIPs[{index}]");
            let Some(ip) = problems.check(&field, address::address(text), address::ADDRESS_REMEDY) else {
                continue;
            };
            let family = Family::of(ip);
            match self.ip_families.get(index) {
                Some(name) if *name != family.to_string() => {
                    let problem = format!("is {text:?}, but spec.ipFamilies[{index}] is {name:?}");
                    problems.note(field, problem, "list clusterIPs and ipFamilies in the same order");
                }
                None if !self.ip_families.is_empty() => {
                    problems.note(field, "has no entry in spec.ipFamilies", "list a family for each address");
                }
                _ if ips.iter().any(|other| Family::of(*other) == family) => {
                    problems.note(
                        field,
                        "is the second address of its family",
                        "list one address per family",
                    );
                }
                _ => ips.push(ip),
            }
        }
        ips
    }

    /// The ports; (name, protocol) and (port, protocol) are unique.
    fn ports(&self, problems: &mut Problems) -> Vec<ServicePort> {
        if self.ports.is_empty() {
            problems.note(
                "spec.ports",
                "is empty",
                "list a port, or set clusterIP: None for a headless Service",
            );
        }
        let mut ports: Vec<ServicePort> = Vec::new();
        for (index, wire) in self.ports.iter().enumerate() {
            let at = format!("spec.ports[{index}]");
            let protocol = problems.check(
                &format!("{at}.protocol"),
                protocol(wire.protocol.as_deref()),
                PROTOCOL_REMEDY,
            );
            let number = problems.check(&format!("{at}.port"), port(wire.port), PORT_REMEDY);
            let (Some(protocol), Some(number)) = (protocol, number) else { continue };
            let same_protocol = || ports.iter().filter(|other| other.protocol == protocol);
            if same_protocol().any(|other| other.name == wire.name) {
                let problem = format!("repeats {:?} for {protocol}", wire.name);
                problems.note(format!("{at}.name"), problem, "give each port its own name");
            } else if same_protocol().any(|other| other.port == number) {
                let problem = format!("repeats {number}/{protocol}");
                problems.note(format!("{at}.port"), problem, "list each port and protocol once");
            } else {
                ports.push(ServicePort { name: wire.name.clone(), protocol, port: number });
            }
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::service::TrafficPolicy;

    use super::Service;
    use crate::convert::{Convert, Outcome, outcome_text};

    fn convert(metadata: &str, spec: &str) -> Outcome<agent_core::model::service::Service> {
        let yaml = format!("{{metadata: {{name: web, namespace: shop{metadata}}}, spec: {spec}}}");
        serde_saphyr::from_str::<Service>(&yaml).unwrap().convert()
    }

    fn check(spec: &str, expected: &str) {
        let text = outcome_text(convert("", spec), |service| {
            let ports: Vec<_> =
                service.ports.iter().map(|p| format!("{}:{}/{}", p.name, p.port, p.protocol)).collect();
            format!("{:?} {}", service.cluster_ips, ports.join(" "))
        });
        assert_eq!(text, expected, "{spec}");
    }

    #[test]
    fn cluster_ips_follow_the_families() {
        for (ips, expected) in [
            ("clusterIP: 10.96.0.10", "[10.96.0.10] :80/TCP"),
            ("clusterIP: 010.096.0.10", "[10.96.0.10] :80/TCP"),
            ("clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ipFamilies: [IPv4]", "[10.96.0.10] :80/TCP"),
            (
                "clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'FD00::10'], ipFamilies: [IPv4, IPv6]",
                "[10.96.0.10, fd00::10] :80/TCP",
            ),
            ("clusterIPs: ['fd00::10', 10.96.0.10]", "[fd00::10, 10.96.0.10] :80/TCP"),
            ("clusterIP: ''", "nothing: spec.clusterIP is missing"),
            ("clusterIP: web", "nothing: spec.clusterIPs[0] is \"web\", which is no IP address"),
            (
                "clusterIP: 10.96.0.10, ipFamilies: [IPv6]",
                "nothing: spec.clusterIPs[0] is \"10.96.0.10\", but spec.ipFamilies[0] is \"IPv6\"",
            ),
            (
                "clusterIPs: [10.96.0.10, 10.96.0.11]",
                "stand-in [10.96.0.10] :80/TCP: spec.clusterIPs[1] is the second address of its family",
            ),
        ] {
            check(&format!("{{{ips}, ports: [{{port: 80}}]}}"), expected);
        }
    }

    #[test]
    fn ports_are_identified_by_name_and_protocol() {
        for (ports, expected) in [
            ("[{port: 80}, {port: 80, protocol: UDP}]", "[10.96.0.10] :80/TCP :80/UDP"),
            ("[{name: a, port: 80}, {name: b, port: 81}]", "[10.96.0.10] a:80/TCP b:81/TCP"),
            ("[]", "nothing: spec.ports is empty"),
            ("null", "nothing: spec.ports is empty"),
            ("[{port: 0}]", "nothing: spec.ports[0].port is 0, which is no port number"),
            (
                "[{port: 80}, {name: b, port: 81, protocol: tcp}]",
                "stand-in [10.96.0.10] :80/TCP: spec.ports[1].protocol is \"tcp\", which is no known protocol",
            ),
            (
                "[{name: a, port: 80}, {name: a, port: 81}]",
                "stand-in [10.96.0.10] a:80/TCP: spec.ports[1].name repeats \"a\" for TCP",
            ),
            (
                "[{name: a, port: 80}, {name: b, port: 80}]",
                "stand-in [10.96.0.10] a:80/TCP: spec.ports[1].port repeats 80/TCP",
            ),
        ] {
            check(&format!("{{clusterIP: 10.96.0.10, ports: {ports}}}"), expected);
        }
    }

    #[test]
    fn what_is_not_carried_out_is_named_and_the_rest_is_used() {
        for (fields, field, value) in [
            ("type: NodePort", "spec.type", "NodePort"),
            ("type: LoadBalancer, allocateLoadBalancerNodePorts: false", "spec.type", "LoadBalancer"),
            ("externalIPs: [203.0.113.1]", "spec.externalIPs", "set"),
            ("externalTrafficPolicy: Local", "spec.externalTrafficPolicy", "Local"),
            ("loadBalancerSourceRanges: [10.0.0.0/8]", "spec.loadBalancerSourceRanges", "set"),
            ("sessionAffinity: ClientIP", "spec.sessionAffinity", "ClientIP"),
            ("trafficDistribution: PreferClose", "spec.trafficDistribution", "PreferClose"),
        ] {
            let spec = format!("{{clusterIP: 10.96.0.10, ports: [{{port: 80, nodePort: 30080}}], {fields}}}");
            let Outcome::Usable { skipped, .. } = convert("", &spec) else { panic!("{spec}") };
            let found: Vec<_> = skipped.iter().map(|found| found.field.as_str()).collect();
            assert_eq!(found, [field], "{spec}");
            assert!(skipped[0].problem.starts_with(&format!("is {value}: ")), "{}", skipped[0]);
            assert!(skipped[0].to_string().starts_with("Service shop/web: spec."), "{}", skipped[0]);
        }
        let sctp = "{clusterIP: 10.96.0.10, ports: [{name: a, port: 80}, {name: b, port: 81, protocol: SCTP}, {name: c, \
                    port: 82, protocol: SCTP}]}";
        let Outcome::Usable { model, skipped } = convert("", sctp) else { panic!("{sctp}") };
        assert_eq!((model.ports.len(), skipped.len()), (3, 1), "once for the object: {skipped:?}");
    }

    #[test]
    fn what_every_service_has_is_no_problem() {
        let defaults = "{type: ClusterIP, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ipFamilies: [IPv4], \
                        ipFamilyPolicy: SingleStack, internalTrafficPolicy: Cluster, sessionAffinity: None, \
                        externalIPs: [], externalTrafficPolicy: Cluster, publishNotReadyAddresses: true, \
                        loadBalancerSourceRanges: null, trafficDistribution: null, \
                        ports: [{port: 80, targetPort: http, appProtocol: http, protocol: TCP}]}";
        check(defaults, "[10.96.0.10] :80/TCP");
        check(
            &defaults.replace("internalTrafficPolicy: Cluster", "internalTrafficPolicy: Local"),
            "[10.96.0.10] :80/TCP",
        );
    }

    #[test]
    fn an_error_beside_what_is_not_carried_out_is_still_one() {
        let spec = "{type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80}, {name: b, port: 0}]}";
        assert!(matches!(convert("", spec), Outcome::Invalid { stand_in: Some(_), .. }));
    }

    #[test]
    fn services_that_are_not_ours_are_irrelevant() {
        let ports = "ports: [{port: 80}]";
        for (metadata, spec) in [
            ("", format!("{{clusterIP: None, {ports}}}")),
            ("", "{clusterIP: None}".to_owned()),
            ("", "{type: ExternalName, externalName: example.org, sessionAffinity: ClientIP}".to_owned()),
            (
                ", labels: {service.kubernetes.io/service-proxy-name: ''}",
                format!("{{clusterIP: 10.96.0.10, {ports}}}"),
            ),
        ] {
            assert_eq!(convert(metadata, &spec), Outcome::Irrelevant, "{metadata} {spec}");
        }
        // On a Service, the headless label does nothing.
        let labelled = convert(
            ", labels: {service.kubernetes.io/headless: ''}",
            "{clusterIP: 10.96.0.10, ports: [{port: 80}]}",
        );
        assert!(matches!(labelled, Outcome::Usable { .. }));
    }

    #[test]
    fn the_internal_traffic_policy_defaults_to_cluster() {
        for (policy, expected) in [
            ("null", TrafficPolicy::Cluster),
            ("Cluster", TrafficPolicy::Cluster),
            ("Local", TrafficPolicy::Local),
        ] {
            let spec =
                format!("{{clusterIP: 10.96.0.10, ports: [{{port: 80}}], internalTrafficPolicy: {policy}}}");
            let Outcome::Usable { model, .. } = convert("", &spec) else { panic!("{policy}") };
            assert_eq!(model.internal_traffic_policy, expected, "{policy}");
        }
        check(
            "{clusterIP: 10.96.0.10, ports: [{port: 80}], internalTrafficPolicy: local}",
            "stand-in [10.96.0.10] :80/TCP: spec.internalTrafficPolicy is \"local\", which is no known policy",
        );
    }
}
