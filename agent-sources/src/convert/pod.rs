//! Pods.
use agent_core::{
    model::workload::{self, ContainerPort},
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

/// A Pod, on the wire. One that is being deleted is still a pod: its containers may run for a long time yet.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    host_network: bool,
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<WirePort>,
    #[serde(default)]
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    container_port: i64,
    #[serde(default)]
    host_port: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default, rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "or_default")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: Option<String>,
}

/// What of a pod this build does not carry out.
const UNSUPPORTED: &[Row<Spec>] = &[Row {
    field: "spec.containers[].ports[].hostPort",
    concern: Concern::Unsupported,
    asked: Spec::host_ports,
    missing: "nobody listens on these ports of the node",
    remedy: "use hostNetwork, or the address of the pod, or chain the CNI plugin portmap behind millrace-cni",
}];

impl Spec {
    /// The ports of the node that the pod wants to have. On the host's network it has them already.
    fn host_ports(&self) -> Option<String> {
        let containers = self.containers.iter().chain(&self.init_containers);
        let mut wanted: Vec<i64> =
            containers.flat_map(|it| &it.ports).filter_map(|port| port.host_port).collect();
        wanted.retain(|port| *port != 0);
        wanted.sort_unstable();
        wanted.dedup();
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        (!wanted.is_empty() && !self.host_network).then(|| wanted.join(", "))
    }
}

resource!(Pod, "", "v1", "pods", NamespaceResourceScope);

impl Convert for Pod {
    type Model = workload::Pod;
    const KIND: Kind = Kind::Pod;

    fn convert(&self) -> Outcome<Self::Model> {
        let mut problems = Problems::of(self);
        let completed = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if !completed {
            unsupported::note(UNSUPPORTED, &self.spec, &mut problems);
        }
        let ports = self.ports(&mut problems);
        let mut ips = Vec::new();
        let listed = self.status.pod_ips.iter().filter_map(|entry| entry.ip.as_deref());
        for text in listed.chain(self.status.pod_ip.as_deref()).filter(|text| !text.is_empty()) {
            let parsed = problems.check("status.podIPs", address::address(text), address::ADDRESS_REMEDY);
            ips.extend(parsed.filter(|ip| !ips.contains(ip)));
        }
        problems.skipped(workload::Pod {
            name: metadata::object_name(&self.metadata),
            uid: self.metadata.uid.clone().unwrap_or_default(),
            static_uids: metadata::static_uids(&self.metadata),
            labels: metadata::labels(&self.metadata),
            node_name: self.spec.node_name.clone().filter(|name| !name.is_empty()),
            host_network: self.spec.host_network,
            ips,
            completed,
            ports,
        })
    }

    fn apply(model: Self::Model) -> Update {
        Update::Pod(Change::Apply(model))
    }
}

impl Pod {
    /// The named ports of all containers that run as long as the pod, sidecars included.
    fn ports(&self, problems: &mut Problems) -> Vec<ContainerPort> {
        let containers = self.spec.containers.iter().enumerate().map(|(index, c)| ("containers", index, c));
        let sidecars =
            self.spec.init_containers.iter().enumerate().map(|(index, c)| ("initContainers", index, c));
        let sidecars = sidecars.filter(|(_, _, c)| c.restart_policy.as_deref() == Some("Always"));
        let mut ports = Vec::new();
        for (list, container, wire) in containers.chain(sidecars) {
            for (index, wire) in wire.ports.iter().enumerate() {
                let Some(name) = wire.name.as_deref().filter(|name| !name.is_empty()) else { continue };
                let at = format!("spec.{list}[{container}].ports[{index}]");
                let protocol = problems.check(
                    &format!("{at}.protocol"),
                    protocol(wire.protocol.as_deref()),
                    PROTOCOL_REMEDY,
                );
                let number =
                    problems.check(&format!("{at}.containerPort"), port(wire.container_port), PORT_REMEDY);
                if let (Some(protocol), Some(port)) = (protocol, number) {
                    ports.push(ContainerPort { name: name.to_owned(), protocol, port });
                }
            }
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::workload;

    use super::Pod;
    use crate::convert::{Convert, Outcome};

    fn convert(yaml: &str) -> (workload::Pod, Vec<String>) {
        let pod: Pod = serde_saphyr::from_str(yaml).unwrap();
        let Outcome::Usable { model, skipped } = pod.convert() else { panic!("{yaml}") };
        (model, skipped.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn named_ports_come_from_containers_and_sidecars_but_not_from_init_containers() {
        let (pod, skipped) = convert(
            "metadata: {name: web, namespace: shop}
spec:
  containers:
  - ports: [{name: http, containerPort: 80}, {containerPort: 81}, {name: dns, containerPort: 53, protocol: UDP}]
  - {}
  initContainers:
  - {restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  - {ports: [{name: gone, containerPort: 9091}]}",
        );
        let ports: Vec<_> =
            pod.ports.iter().map(|p| format!("{} {}/{}", p.name, p.port, p.protocol)).collect();
        assert_eq!(ports, ["http 80/TCP", "dns 53/UDP", "metrics 9090/TCP"]);
        assert!(skipped.is_empty(), "{skipped:?}");
    }

    #[test]
    fn addresses_are_the_list_and_the_single_one_without_repetition() {
        for (status, expected) in [
            ("{}", "[]"),
            ("{podIP: 10.0.0.1}", "[10.0.0.1]"),
            ("{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'FD00::1'}]}", "[10.0.0.1, fd00::1]"),
            ("{podIP: '', podIPs: null}", "[]"),
        ] {
            let (pod, _) =
                convert(&format!("{{metadata: {{name: web, namespace: shop}}, status: {status}}}"));
            assert_eq!(format!("{:?}", pod.ips), expected, "{status}");
        }
    }

    #[test]
    fn a_mirror_is_known_by_the_hash_of_its_static_pod() {
        for (annotations, expected) in [
            ("null", &[][..]),
            ("{a: b}", &[]),
            (
                "{kubernetes.io/config.hash: h, kubernetes.io/config.mirror: h, kubernetes.io/config.seen: s}",
                &["h"],
            ),
            // Mirrors of old kubelets say no more than that they are mirrors.
            ("{kubernetes.io/config.hash: h, kubernetes.io/config.mirror: mirror}", &["mirror", "h"]),
            ("{kubernetes.io/config.mirror: h}", &["h"]),
            // Anybody may write this on a pod of their own: it makes no mirror.
            ("{kubernetes.io/config.hash: h}", &[]),
            ("{kubernetes.io/config.hash: h, kubernetes.io/config.mirror: ''}", &[]),
        ] {
            let (pod, skipped) = convert(&format!(
                "{{metadata: {{name: web, namespace: shop, uid: u, annotations: {annotations}}}}}"
            ));
            assert_eq!(pod.static_uids, expected, "{annotations}");
            assert!(skipped.is_empty(), "{skipped:?}");
        }
    }

    #[test]
    fn only_a_finished_pod_is_completed() {
        for (pod, completed) in [
            ("{metadata: {name: p}, status: {phase: Running}}", false),
            ("{metadata: {name: p}, status: {phase: Pending}}", false),
            ("{metadata: {name: p}}", false),
            (
                "{metadata: {name: p, deletionTimestamp: '2026-01-01T00:00:00Z'}, status: {phase: Running}}",
                false,
            ),
            ("{metadata: {name: p}, status: {phase: Succeeded}}", true),
            ("{metadata: {name: p}, status: {phase: Failed}}", true),
        ] {
            assert_eq!(convert(pod).0.completed, completed, "{pod}");
        }
    }

    #[test]
    fn a_port_of_the_node_that_a_pod_does_not_get_is_named() {
        for (pod, expected) in [
            (
                "spec: {containers: [{ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 0}]}]}",
                Some("is 8080: "),
            ),
            (
                "spec: {containers: [{ports: [{containerPort: 80, hostPort: 9}]}, {ports: [{containerPort: 80, hostPort: 8, \
                 protocol: UDP}]}]}",
                Some("is 8, 9: "),
            ),
            ("spec: {containers: [{ports: [{containerPort: 80}]}]}", None),
            ("spec: {hostNetwork: true, containers: [{ports: [{containerPort: 80, hostPort: 80}]}]}", None),
            (
                "spec: {containers: [{ports: [{containerPort: 80, hostPort: 80}]}]}, status: {phase: Failed}",
                None,
            ),
        ] {
            let (_, skipped) = convert(&format!("{{metadata: {{name: web, namespace: shop}}, {pod}}}"));
            assert_eq!(skipped.len(), usize::from(expected.is_some()), "{skipped:?}");
            if let (Some(expected), Some(sentence)) = (expected, skipped.first()) {
                assert!(sentence.contains("hostPort") && sentence.contains(expected), "{sentence}");
            }
        }
    }

    #[test]
    fn a_port_that_cannot_be_is_skipped_and_named() {
        let (pod, skipped) = convert(
            "{metadata: {name: web, namespace: shop}, spec: {hostNetwork: true, nodeName: n1, containers: [
            {ports: [{name: a, containerPort: 70000}, {name: b, containerPort: 80, protocol: tcp}]}]}}",
        );
        assert!(pod.ports.is_empty());
        assert!(pod.host_network);
        assert_eq!(pod.node_name.as_deref(), Some("n1"));
        assert_eq!(
            skipped,
            [
                "Pod shop/web: spec.containers[0].ports[0].containerPort is 70000, which is no port number; \
                 use a number from 1 to 65535",
                "Pod shop/web: spec.containers[0].ports[1].protocol is \"tcp\", which is no known protocol; \
                 use TCP, UDP or SCTP, in capitals",
            ]
        );
    }
}
