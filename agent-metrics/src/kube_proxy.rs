//! What kube-proxy tells, where it means the same here: dashboards and alerts that were made for it go on.
use crate::families;

families! {
    /// `/metrics` of `--proxy-metrics-address`, in the order of the page.
    KUBE_PROXY {
        SYNC_PROXY_RULES_DURATION: Histogram "kubeproxy_sync_proxy_rules_duration_seconds" {
            ip_family: "`IPv4`, `IPv6`"
        }, "Time to bring changed services of the family into the maps.";
        SYNC_PROXY_RULES_LAST: Gauge "kubeproxy_sync_proxy_rules_last_timestamp_seconds" {
            ip_family: "`IPv4`, `IPv6`"
        }, "When the maps last held all that was seen, in Unix time.";
        SYNC_PROXY_RULES_LAST_QUEUED: Gauge "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds" {
            ip_family: "`IPv4`, `IPv6`"
        }, "When a change of a Service or EndpointSlice was last seen, in Unix time.";
        ENDPOINT_CHANGES: Counter "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "Changes of EndpointSlices that were seen.";
        ENDPOINT_CHANGES_PENDING: Gauge "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "Those that are not in the maps yet.";
        SERVICE_CHANGES: Counter "kubeproxy_sync_proxy_rules_service_changes_total",
            "Changes of Services that were seen.";
        SERVICE_CHANGES_PENDING: Gauge "kubeproxy_sync_proxy_rules_service_changes_pending",
            "Those that are not in the maps yet.";
        NETWORK_PROGRAMMING: Histogram "kubeproxy_network_programming_duration_seconds" {
            ip_family: "`IPv4`, `IPv6`"
        }, "Time from the change of a pod or Service that made an EndpointSlice change until the slice is in the maps.";
        SYNC_PROXY_RULES_NO_LOCAL_ENDPOINTS_TOTAL: Gauge "kubeproxy_sync_proxy_rules_no_local_endpoints_total" {
            ip_family: "`IPv4`, `IPv6`",
            traffic_policy: "`internal`"
        }, "Addresses and ports of services that use only backends of this node, and have none here.";
        PROXY_HEALTHZ: Counter "kubeproxy_proxy_healthz_total" { code: "`200`, `503`" },
            "Answers of /healthz on the health port.";
        PROXY_LIVEZ: Counter "kubeproxy_proxy_livez_total" { code: "`200`, `503`" },
            "Answers of /livez on the health port.";
    }
}
