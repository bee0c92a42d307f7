//! The command line.
use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Shows what Millrace does on this node.
///
/// Everything is read from the pinned eBPF maps, so every command works while the agent is away; nothing is ever
/// changed. Names come from the agent's catalog; without it, numbers stand in their place.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", global = true, default_value_t = Output::Text)]
    pub(crate) output: Output,

    /// The bpffs that the agent pins its maps in
    #[arg(long, value_name = "DIR", global = true, env = "MILLRACE_BPFFS", hide_env_values = true)]
    #[arg(default_value = "/sys/fs/bpf")]
    pub(crate) bpffs: PathBuf,

    /// The agent's runtime directory, with its socket and its catalog
    #[arg(long, value_name = "DIR", global = true, env = "MILLRACE_RUNTIME_DIR", hide_env_values = true)]
    #[arg(default_value = "/run/millrace")]
    pub(crate) runtime_dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  millrace status
  millrace status --wait
  millrace service list
  millrace why 'shop/web-0 -> svc/shop/database:5432'
  millrace why 10.1.0.7 to 10.1.0.9:53/udp
  millrace conntrack list --pod shop/web-0
  millrace drops -o json

Exit codes: 0 done (`why`: allowed), 1 failed (`health`: not so, `status --wait`: not yet), 2 wrong usage, 3 `why`: denied.
Needs root, for whom alone the pins are; without CAP_SYS_ADMIN, `status` takes the programs from the agent.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// The agent, the programs and how full the maps are
    Status {
        /// First wait until all that the source shows is in force; 1 if it is not after so many seconds [default: 30]
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
        wait: Option<u64>,
    },
    /// Whether the agent makes progress (`live`) and this node serves pods (`ready`); the probes of the DaemonSet
    Health {
        #[arg(value_enum, default_value_t = Probe::Ready)]
        probe: Probe,
    },
    /// Services and their backends
    #[command(subcommand, visible_alias = "services")]
    Service(List),
    /// The pods of this node and the policies that isolate them
    #[command(subcommand, visible_alias = "endpoints")]
    Endpoint(List),
    /// Policies as they are compiled on this node
    #[command(subcommand, visible_alias = "policies")]
    Policy(List),
    /// Tracked flows: those that a policy judged or a service translated
    #[command(subcommand, visible_alias = "ct")]
    Conntrack(ConntrackCommand),
    /// What was dropped, why, what to do about it, and the flows that policy denied lately
    Drops,
    /// Whether a new connection would be allowed, and by which rule
    ///
    /// Walks the maps exactly as the programs do: frontend, backends, egress of the source, ingress of the
    /// destination. SOURCE is a pod (`NAMESPACE/POD`, or `POD` of the namespace default), an address, or `host` for
    /// this node. DESTINATION is a pod, an address, or `svc/NAMESPACE/SERVICE`, with a port and a protocol
    /// (`tcp`, `udp` or `sctp`; `tcp` when there is none). An IPv6 address with a port stands in brackets.
    #[command(override_usage = "millrace why 'SOURCE -> DESTINATION:PORT[/PROTOCOL]'\n       \
                                millrace why SOURCE to DESTINATION:PORT[/PROTOCOL]")]
    Why {
        /// The flow. Quote it: the shell takes a bare `>` for a redirection
        #[arg(required = true, num_args = 1.., value_name = "FLOW")]
        flow: Vec<String>,
    },
    /// What a drop reason means; all of them without a name
    Explain {
        /// As in `millrace drops`, for example `policy-ingress`
        reason: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probe {
    /// The reconcile loop answers, whatever the API server does
    Live,
    /// Every list has come, the programs are attached and the runtime calls the CNI plugin
    Ready,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum List {
    /// Print them all
    List,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConntrackCommand {
    /// Print the flows
    List {
        /// Only flows of this pod (`NAMESPACE/POD`, or `POD` of the namespace default)
        #[arg(long)]
        pod: Option<String>,
        /// Only flows with this address at one of their ends
        #[arg(long)]
        addr: Option<IpAddr>,
    },
}

/// Parses the command line, in which a bare `->` is an arrow and no option.
pub(crate) fn from_command_line() -> Args {
    Args::parse_from(std::env::args().map(|arg| if arg == "->" { "to".to_owned() } else { arg }))
}
