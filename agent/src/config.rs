//! The configuration: parsed once, from the command line and the environment, and never changed.
use std::{fs, io, path::PathBuf};

use agent_core::model::node::Services;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use dataplane_common::maps::{CT_EST_MAX, MapId};
use tracing_subscriber::{EnvFilter, filter::ParseError};

use agent_sources::source::{ApiServer, SourceConfig};

use crate::{cni_server::HOST_LOCAL_DIR, dataplane::Sizes, metrics::Listen};

const NODE: &str = "Node";
const SOURCE: &str =
    "Source of the cluster (without either: the API server of the cluster that this agent runs in)";
const PATHS: &str = "Paths";
const BEHAVIOUR: &str = "Behaviour";
const ADDRESSES: &str = "Addresses (:PORT, ADDRESS:PORT or none)";

/// The Millrace node agent: Kubernetes Services and NetworkPolicies as eBPF programs.
///
/// It reads the cluster from the Kubernetes API or from a directory of manifests, keeps the eBPF maps of this node
/// in step with it, and serves the CNI plugin and the `millrace` command on a socket. When it stops, everything in
/// the kernel stays as it is and keeps working; the next start continues from there.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-agent", version, verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Config {
    /// Name of this node, as in its Node object [default: the host name]
    #[arg(long, value_name = "NAME", env = "MILLRACE_NODE_NAME", help_heading = NODE)]
    #[arg(hide_env_values = true, default_value_t = host_name(), hide_default_value = true, value_parser = node_name)]
    pub node_name: String,

    /// Interface towards the other nodes [default: the one with the node's address, else with the default route]
    #[arg(long, value_name = "INTERFACE", env = "MILLRACE_UPLINK", help_heading = NODE, hide_env_values = true)]
    pub uplink: Option<String>,

    /// Read the cluster from the Kubernetes YAML files in this directory, and follow their changes
    #[arg(long, value_name = "DIR", env = "MILLRACE_MANIFESTS", help_heading = SOURCE, hide_env_values = true)]
    #[arg(conflicts_with = "kubeconfig", value_parser = directory)]
    pub manifests: Option<PathBuf>,

    /// Read the cluster from the API server that this kubeconfig names
    #[arg(long, value_name = "FILE", env = "MILLRACE_KUBECONFIG", help_heading = SOURCE, hide_env_values = true)]
    #[arg(value_parser = readable_file)]
    pub kubeconfig: Option<PathBuf>,

    /// Reach the API server of the cluster that this agent runs in at this address [default: the `kubernetes` service]
    ///
    /// Without a kube-proxy nobody but this agent could translate the address of that service, and not before it has
    /// read the cluster: name an address that needs no service, such as `https://192.0.2.10:6443`.
    #[arg(long, value_name = "URL", env = "MILLRACE_API_SERVER", help_heading = SOURCE, hide_env_values = true)]
    #[arg(conflicts_with_all = ["manifests", "kubeconfig"], value_parser = api_server)]
    pub api_server: Option<ApiServer>,

    /// Holds the socket of the CNI plugin and the CLI, and the names behind the numbers in the maps
    #[arg(long, value_name = "DIR", env = "MILLRACE_RUNTIME_DIR", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = "/run/millrace")]
    pub runtime_dir: PathBuf,

    /// Holds the address leases of the pods and the last good content of the manifests; must survive the agent
    #[arg(long, value_name = "DIR", env = "MILLRACE_STATE_DIR", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,

    /// Where `host-local`, the address plugin of other networks, keeps its leases: an address that is in one is not handed out
    #[arg(long, value_name = "DIR", env = "MILLRACE_HOST_LOCAL_DIR", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = HOST_LOCAL_DIR)]
    pub host_local_dir: PathBuf,

    /// A mounted bpffs. Maps and links are pinned in its directory `millrace`, which one agent owns
    #[arg(long, value_name = "DIR", env = "MILLRACE_BPFFS", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// The cgroup v2 directory whose processes reach services as they connect [default: where cgroup2 is mounted]
    #[arg(long, value_name = "DIR", env = "MILLRACE_CGROUP_ROOT", help_heading = PATHS, hide_env_values = true)]
    pub cgroup_root: Option<PathBuf>,

    /// Where the container runtime reads its CNI configuration: the agent puts its own there when it can serve pods
    /// [default: none is put anywhere]
    #[arg(long, value_name = "DIR", env = "MILLRACE_CNI_CONF_DIR", help_heading = PATHS, hide_env_values = true)]
    pub cni_conf_dir: Option<PathBuf>,

    /// Where the container runtime looks for CNI plugins
    #[arg(long, value_name = "DIR", env = "MILLRACE_CNI_BIN_DIR", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,

    /// The kernel's switches; in a container, where /proc/sys is read-only, a mount of the node's own
    #[arg(long, value_name = "DIR", env = "MILLRACE_PROC_SYS", help_heading = PATHS, hide_env_values = true)]
    #[arg(default_value = "/proc/sys")]
    pub proc_sys: PathBuf,

    /// Whether a policy change cuts established connections that it forbids; with `false`, it judges only new ones
    #[arg(long, value_name = "BOOL", env = "MILLRACE_CUT_ESTABLISHED", help_heading = BEHAVIOUR)]
    #[arg(hide_env_values = true, action = ArgAction::Set, default_value_t = true)]
    pub cut_established: bool,

    /// Who translates services: `millrace` alone, `kube-proxy` but for pods with policies, or `both`, each what it began;
    /// the label millrace.io/services of a Node overrides it there
    #[arg(long, value_name = "WHO", env = "MILLRACE_SERVICES", help_heading = BEHAVIOUR, hide_env_values = true)]
    #[arg(default_value_t = Services::Millrace)]
    pub services: Services,

    /// Translate services only in packets, not as sockets connect; those of host processes on the uplink that they leave by
    #[arg(long, env = "MILLRACE_NO_SOCKET_LB", help_heading = BEHAVIOUR, hide_env_values = true)]
    pub no_socket_lb: bool,

    /// Established flows per family that this node tracks, for all of its pods; flows that are tracked stay so when it changes
    #[arg(long, value_name = "NUMBER", env = "MILLRACE_MAX_FLOWS", help_heading = BEHAVIOUR, hide_env_values = true)]
    #[arg(default_value_t = CT_EST_MAX, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub max_flows: u32,

    /// How programs are attached to interfaces: by links of `tcx`, as filters of the `clsact` qdisc, or, with `auto`, by
    /// what the kernel has, links before filters
    #[arg(long, value_name = "HOW", env = "MILLRACE_ATTACH", help_heading = BEHAVIOUR, hide_env_values = true)]
    #[arg(value_enum, default_value_t = Attach::Auto, hide_possible_values = true)]
    pub attach: Attach,

    /// Where to answer for /metrics, /livez and /readyz
    #[arg(long, value_name = "ADDRESS", env = "MILLRACE_METRICS_ADDRESS", help_heading = ADDRESSES)]
    #[arg(hide_env_values = true, default_value = ":9962")]
    pub(crate) metrics_address: Listen,

    /// Where to answer as kube-proxy does for /healthz and /livez, while Millrace alone translates services
    #[arg(long, value_name = "ADDRESS", env = "MILLRACE_PROXY_HEALTHZ_ADDRESS", help_heading = ADDRESSES)]
    #[arg(hide_env_values = true, default_value = ":10256")]
    pub(crate) proxy_healthz_address: Listen,

    /// Where to answer as kube-proxy does for /metrics and /proxyMode, while Millrace alone translates services
    #[arg(long, value_name = "ADDRESS", env = "MILLRACE_PROXY_METRICS_ADDRESS", help_heading = ADDRESSES)]
    #[arg(hide_env_values = true, default_value = "127.0.0.1:10249")]
    pub(crate) proxy_metrics_address: Listen,

    /// What to log: error, warn, info, debug or trace; by module too, as in `info,agent::dataplane=debug`
    #[arg(long, value_name = "FILTER", env = "MILLRACE_LOG", help_heading = BEHAVIOUR, hide_env_values = true)]
    #[arg(default_value = "info", value_parser = log_filter)]
    pub log: EnvFilter,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    Auto,
    Tcx,
    Clsact,
}

/// What to do instead of running. Options come before the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Put the CNI plugin, which is beside this program, into --cni-bin-dir
    InstallCni,
    /// Turn the maps into those of the first release, while the programs go on, and wait for its agent to take over
    Rollback,
    /// Remove everything of Millrace from this node: CNI configuration and plugin, programs, maps, routes, files
    Uninstall {
        /// Also cut off the pods that still run: their interfaces are deleted
        #[arg(long)]
        cut_off_pods: bool,
        /// What to do when everything is removed: `wait` until stopped, so that a DaemonSet can show that it is done
        #[arg(long, value_enum, default_value_t = Then::Exit)]
        then: Then,
    },
}

/// How a removal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Then {
    Exit,
    Wait,
}

const EXAMPLES: &str = "\
Examples:
  In a cluster, as its DaemonSet runs it:
      millrace-agent --node-name \"$NODE_NAME\"
  The same, where no kube-proxy translates the address of the API server:
      millrace-agent --node-name \"$NODE_NAME\" --api-server https://192.0.2.10:6443
  One machine without a cluster, from a directory of Kubernetes YAML:
      millrace-agent --node-name node-a --manifests ./manifests
  A second agent on the same machine, in a network namespace of its own:
      mount -t bpf bpf /tmp/b/bpf
      millrace-agent --node-name node-b --manifests ./manifests --bpffs /tmp/b/bpf \\
          --cgroup-root /sys/fs/cgroup/node-b --runtime-dir /tmp/b/run --state-dir /tmp/b/state

Needs Linux 6.1 or later and root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.";

impl Config {
    /// How many entries maps may have.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes([MapId::CT_EST_V4, MapId::CT_EST_V6].map(|id| (id, self.max_flows)).into())
    }

    /// Parses the command line and the environment; prints what is wrong (or asked for) and exits otherwise.
    #[must_use]
    pub fn from_command_line() -> Self {
        Self::parse()
    }

    /// The one source that was chosen.
    #[must_use]
    pub fn source(&self) -> SourceConfig {
        match (&self.manifests, &self.kubeconfig) {
            (Some(dir), _) => {
                SourceConfig::Manifests { dir: dir.clone(), copies: self.state_dir.join("manifests") }
            }
            (None, Some(file)) => SourceConfig::Kubeconfig(file.clone()),
            (None, None) => SourceConfig::InCluster { address: self.api_server.clone() },
        }
    }
}

/// The host name of this process's UTS namespace; empty when unknown, which [`node_name`] refuses.
fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_lowercase()).unwrap_or_default()
}

fn node_name(name: &str) -> Result<String, &'static str> {
    match name.trim() {
        "" => Err("a node has a name; give it with --node-name"),
        name => Ok(name.to_owned()),
    }
}

/// Checked here, so that an agent that cannot run touches nothing.
fn directory(path: &str) -> Result<PathBuf, String> {
    let remedy = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            "there is no such directory; create it, or name the one that holds the manifests".to_owned()
        } else if error.kind() == io::ErrorKind::NotADirectory {
            "it is not a directory; name the directory that holds the manifests".to_owned()
        } else {
            format!("it cannot be read ({error}); make it readable for this agent, or name another")
        }
    };
    fs::read_dir(path).map(|_| PathBuf::from(path)).map_err(remedy)
}

fn readable_file(path: &str) -> Result<PathBuf, String> {
    let remedy = |error: io::Error| {
        format!("it cannot be read ({error}); name a kubeconfig file that this agent may read")
    };
    fs::read(path).map(|_| PathBuf::from(path)).map_err(remedy)
}

fn api_server(url: &str) -> Result<ApiServer, &'static str> {
    ApiServer::parse(url).ok_or("must be https://HOST or https://HOST:PORT")
}

fn log_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(filter)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(["millrace-agent"].iter().chain(arguments))
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn without_a_source_the_agent_is_in_a_cluster() {
        let source = parse(&[]).map(|config| config.source()).ok();
        assert_eq!(source, Some(SourceConfig::InCluster { address: None }));
    }

    #[test]
    fn each_source_is_chosen_by_its_option() {
        let manifests = parse(&["--manifests", "/", "--state-dir", "/s"]).map(|config| config.source()).ok();
        let expected = SourceConfig::Manifests { dir: "/".into(), copies: "/s/manifests".into() };
        assert_eq!(manifests, Some(expected));
        let kubeconfig = parse(&["--kubeconfig", "/proc/self/stat"]).map(|config| config.source()).ok();
        assert_eq!(kubeconfig, Some(SourceConfig::Kubeconfig("/proc/self/stat".into())));
    }

    #[test]
    fn two_sources_are_refused() {
        let error = parse(&["--manifests", "/", "--kubeconfig", "/proc/self/stat"])
            .map(|_| ())
            .map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn a_source_that_cannot_be_read_is_refused_and_named() {
        for (arguments, remedy) in [
            (["--manifests", "/proc/self/stat"], "name the directory that holds the manifests"),
            (["--manifests", "/nonexistent"], "create it, or name the one that holds the manifests"),
            (["--kubeconfig", "/nonexistent"], "name a kubeconfig file that this agent may read"),
        ] {
            let error = parse(&arguments).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ValueValidation);
            assert!(error.to_string().contains(arguments[1]), "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn the_address_of_the_api_server_is_checked() {
        for wrong in
            ["192.0.2.10:6443", "http://192.0.2.10", "https://", "https://host:port", "https://h/path"]
        {
            let error = parse(&["--api-server", wrong]).map(|_| ()).map_err(|error| error.kind());
            assert_eq!(error, Err(ErrorKind::ValueValidation), "{wrong}");
        }
        for right in ["https://192.0.2.10:6443", "https://[2001:db8::1]:6443", "https://api.example"] {
            let source = parse(&["--api-server", right]).unwrap().source();
            assert_eq!(source, SourceConfig::InCluster { address: ApiServer::parse(right) });
            assert_eq!(source.to_string(), format!("in-cluster, {right}"));
        }
    }

    #[test]
    fn an_empty_node_name_is_refused() {
        let error = parse(&["--node-name", " "]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::ValueValidation));
    }

    #[test]
    fn an_invalid_log_filter_is_refused() {
        let error = parse(&["--log", "info,=="]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::ValueValidation));
    }

    #[test]
    fn cutting_established_connections_is_the_default_and_can_be_turned_off() {
        assert_eq!(parse(&[]).map(|config| config.cut_established).ok(), Some(true));
        assert_eq!(
            parse(&["--cut-established", "false"]).map(|config| config.cut_established).ok(),
            Some(false)
        );
    }

    #[test]
    fn addresses_have_kube_proxys_defaults_and_can_be_turned_off() {
        let config = parse(&["--metrics-address", "none"]).unwrap();
        let shown = [config.metrics_address, config.proxy_healthz_address, config.proxy_metrics_address];
        assert_eq!(shown.map(|listen| listen.to_string()), ["none", ":10256", "127.0.0.1:10249"]);
        assert!(parse(&["--metrics-address", "9962"]).is_err());
    }

    #[test]
    fn help_names_every_option_with_its_variable() {
        let help = Config::command().render_long_help().to_string();
        for option in Config::command().get_arguments() {
            let Some(long) = option.get_long().filter(|name| !["help", "version"].contains(name)) else {
                continue;
            };
            let variable = format!("MILLRACE_{}", long.to_uppercase().replace('-', "_"));
            assert!(help.contains(&variable), "--{long} lacks {variable} in:\n{help}");
        }
    }
}
