//! What the agent tells of itself and of its node.
use crate::families;

families! {
    /// `/metrics` of `--metrics-address`, in the order of the page.
    AGENT {
        BUILD_INFO: Gauge "millrace_build_info" {
            version: "of the agent",
            kernel: "release of the running kernel"
        }, "Always 1; the labels say what runs.";
        PROCESS_CPU: Counter "process_cpu_seconds_total", "CPU time that the agent's process has had.";
        PROCESS_MEMORY: Gauge "process_resident_memory_bytes", "Memory of the agent's process, without the maps.";
        PROCESS_START: Gauge "process_start_time_seconds", "When the agent started, in Unix time.";
        PROCESS_FDS: Gauge "process_open_fds", "Open file descriptors of the agent's process.";
        SCRAPES: Counter "millrace_scrapes_total", "Pages of metrics that were written.";
        SCRAPE_SECONDS: Counter "millrace_scrape_seconds_total", "Time that writing them took.";

        HEARTBEAT_AGE: Gauge "millrace_loop_heartbeat_age_seconds",
            "Time since the agent's loop last took up work or looked whether there is any: at most ten seconds while it is well.";
        LOOP_PHASE: Histogram "millrace_loop_phase_duration_seconds" {
            phase: "`take` (changes into the state), `render`, `plan`, `apply` (writing maps), `rest` (hooks, routes, files, answers)"
        }, "How long one pass of the agent's loop spends in each phase.";
        LOOP_QUEUE: Gauge "millrace_loop_queue_length" { queue: "`source`, `cni`" },
            "Events that wait for the agent's loop; at 256 their senders wait as well.";

        SYNCED: Gauge "millrace_synced" { kind: "the six kinds of objects" },
            "Whether the first list of this kind is complete.";
        OBJECTS: Gauge "millrace_objects" { kind: "the six kinds of objects" },
            "Objects of this kind that the agent knows.";
        WATCH_FAILING: Gauge "millrace_watch_failing" { kind: "the six kinds of objects" },
            "Whether the last thing that the watch of this kind did was to fail; only with an API server.";
        WATCH_AGE: Gauge "millrace_watch_last_event_age_seconds" { kind: "the six kinds of objects" },
            "Time since the watch of this kind last heard something; a kind that does not change is quiet. Only with an API server.";
        WATCH_ERRORS: Counter "millrace_watch_errors_total" { kind: "the six kinds of objects" },
            "Failures of the watch of this kind; only with an API server.";
        WATCH_LISTS: Counter "millrace_watch_lists_total" { kind: "the six kinds of objects" },
            "Lists of this kind that were begun; only with an API server.";

        PROGRAMMING: Histogram "millrace_programming_duration_seconds" {
            kind: "`services` (Services, EndpointSlices), `policies` (NetworkPolicies, Pods, Namespaces)"
        }, "Time from when a change reached the agent until it is in the maps; the first lists do not count.";
        MAP_WRITES: Counter "millrace_map_writes_total", "Entries of rendered maps that were written.";
        MAP_DELETES: Counter "millrace_map_deletes_total", "Entries of rendered maps that were deleted.";
        MAP_WRITE_ERRORS: Counter "millrace_map_write_errors_total" {
            map: "rendered maps that ever failed",
            errno: "as errno(3) names it"
        }, "Writes that the kernel refused; they are tried again. `E2BIG` and `ENOSPC` say that the map is full.";
        MAP_ENTRIES: Gauge "millrace_map_entries" {
            map: "rendered maps (as the agent wrote them) and maps of flows (as the last sweep met them)"
        }, "Entries of a map.";
        MAP_CAPACITY: Gauge "millrace_map_capacity" { map: "as millrace_map_entries" },
            "Entries that a map has room for, as the kernel says.";

        HOOKS: Gauge "millrace_hooks" { state: "`in_place`, `missing`" },
            "Places for programs on pods, uplinks and sockets. Missing: what could not be put back at the last look, every ten seconds; the node is not ready then.";
        HOOK_REPAIRS: Counter "millrace_hook_repairs_total",
            "Programs that somebody took off their hook, or got in front of, and that were put back.";
        PACKETS: Counter "millrace_packets_total" {
            hook: "see [packet-path.md](../packet-path.md)",
            verdict: "`passed` to the host's stack, `delivered` to a pod, `forwarded` to an uplink, `rejected`, `translated` (a socket), `answered`, `held` (a fragment)"
        }, "Packets, and calls of sockets, that were not dropped. Survives the agent.";
        DROPS: Counter "millrace_drops_total" {
            hook: "as millrace_packets_total",
            reason: "see [drop-reasons.md](../drop-reasons.md)"
        }, "Packets that were dropped. A hook has a reason once it happened: what appears is new. Survives the agent.";
        FRONTENDS_WITHOUT_BACKENDS: Gauge "millrace_frontends_without_backends",
            "Addresses and ports of services that have no usable backend: who connects is refused, or dropped with internalTrafficPolicy Local.";

        CT_ESTABLISHED: Gauge "millrace_conntrack_established" { family: "`IPv4`, `IPv6`" },
            "Established flows, as the programs count them.";
        CT_REFUSED: Counter "millrace_conntrack_refused_total",
            "Promotions that failed: flows that were to become established and found no room in their pod's share or in memory.";
        CT_EVICTED: Counter "millrace_conntrack_evicted_total",
            "Halves of translated flows that were evicted while their clients went on sending.";
        CT_OVER_SHARE: Gauge "millrace_conntrack_pods_over_share",
            "Pods to which one of both happened during the last sweep.";
        CT_DELETED: Counter "millrace_conntrack_deleted_total",
            "Flows that the agent deleted: they were idle, or their pod or backend is gone.";
        CT_SWEEPS: Counter "millrace_conntrack_sweeps_total", "Looks at all flows that were finished.";
        CT_SWEEP_SECONDS: Counter "millrace_conntrack_sweep_seconds_total", "Time that looking at flows took.";
        CT_FAILURES: Counter "millrace_conntrack_sweep_failures_total",
            "Looks at flows that failed; they are repeated.";

        ENDPOINTS: Gauge "millrace_endpoints" {
            state: "`attached`; of these `waiting` (ADD is not answered yet), `without_object` (the pod's object is gone), `isolated` (cut off because their policy could not be written)"
        }, "Interfaces of pods on this node.";
        CNI_REQUESTS: Counter "millrace_cni_requests_total" {
            request: "`reserve` (an address) and `attach` are ADD, `detach` is DEL; `health` is STATUS and CHECK; `status`, `applied`, `names` are of the command line",
            code: "`ok`, `try_again`, `invalid`, `internal`, `incompatible`"
        }, "Requests on the agent's socket.";
        CNI_DURATION: Histogram "millrace_cni_request_duration_seconds" {
            request: "`reserve`, `attach`, `detach`"
        }, "How long the phases of ADD and DEL took in the agent.";
        ADDRESSES: Gauge "millrace_addresses" {
            family: "`IPv4`, `IPv6`",
            state: "`capacity` (that the node's pod CIDRs have for pods), `leased`, `resting` (released in the last 30 s), `foreign` (on interfaces that are not the agent's)"
        }, "Addresses for pods.";
        PROBLEMS: Gauge "millrace_problems" { class: "what the problem is about" },
            "What `millrace status` names as a problem, before alike ones are told together.";
    }
}
