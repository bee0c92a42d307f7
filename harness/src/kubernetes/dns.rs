//! The cluster's DNS: CoreDNS behind a Service, as every cluster has it.
use std::net::IpAddr;

use super::address::Families;

/// The image made from the built program.
pub const IMAGE: &str = "localhost/millrace/coredns:test";

/// Its namespace, and the name of its Deployment.
pub const NAMESPACE: &str = "kube-system";
pub const DEPLOYMENT: &str = "coredns";

/// The objects that make it run.
pub(super) fn manifest(families: Families) -> String {
    let addresses: Vec<IpAddr> = families.each().iter().map(|family| family.dns_service()).collect();
    let list = addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ");
    let names = match families {
        Families::V4 => "IPv4",
        Families::V6 => "IPv6",
        Families::Dual => "IPv4, IPv6",
    };
    let policy = if families == Families::Dual { "RequireDualStack" } else { "SingleStack" };
    let first = addresses.first().map(ToString::to_string).unwrap_or_default();
    OBJECTS
        .replace("IMAGE", IMAGE)
        .replace("ADDRESSES", &list)
        .replace("FIRST", &first)
        .replace("FAMILIES", names)
        .replace("POLICY", policy)
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
      errors
      health
      ready
      kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
      }
      cache 5
    }
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: "FIRST"
  clusterIPs: [ADDRESSES]
  ipFamilies: [FAMILIES]
  ipFamilyPolicy: POLICY
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 1
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      terminationGracePeriodSeconds: 1
      containers:
      - name: coredns
        image: IMAGE
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes: [{name: config, configMap: {name: coredns}}]
"#;
