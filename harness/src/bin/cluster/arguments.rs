//! The command line.
use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use harness::kubernetes::{ClusterName, Iptables, Network, Options, Proxy, address::Families};

#[derive(Parser)]
#[command(name = "cargo xtask cluster", about = "A real Kubernetes cluster on this machine")]
#[command(
    after_help = "`cargo xtask cluster build` makes everything that a cluster is made of, and no cluster."
)]
pub(crate) struct Arguments {
    /// The cluster's name; clusters of different names run side by side
    #[arg(long, global = true, default_value = "millrace")]
    pub(crate) name: ClusterName,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the cluster, and wait until pods run in it
    Up(UpOptions),
    /// Say which programs, nodes and pods run
    Status,
    /// Print the administrator's kubeconfig, for this machine
    Kubeconfig,
    /// Run kubectl as the administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command, or a shell, on a machine of the cluster: a node, `control` or `client`
    Enter {
        machine: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print the log of a program, such as `node-1.kubelet`, or the names of all logs
    Logs { component: Option<String> },
    /// Bring an image (an OCI or Docker archive) into every node
    Load { archive: PathBuf },
    /// Remove the cluster, also one that was interrupted in its start
    Down,
    /// Remove the cluster when standard input ends
    #[command(hide = true)]
    Guard,
    /// Hold the namespaces of a node
    #[command(hide = true)]
    Keep { order: String },
    /// Forward connections of the socket that is standard input
    #[command(hide = true)]
    Forward { to: SocketAddr },
}

#[derive(Args)]
pub(crate) struct UpOptions {
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// What balances services
    #[arg(long, value_enum, default_value_t = ProxyChoice::Millrace)]
    proxy: ProxyChoice,
    /// What connects pods
    #[arg(long, value_enum, default_value_t = NetworkChoice::Millrace)]
    cni: NetworkChoice,
    /// IPv4 and IPv6, in place of IPv4 alone
    #[arg(long, conflicts_with = "ipv6")]
    dual_stack: bool,
    /// IPv6 alone
    #[arg(long)]
    ipv6: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyChoice {
    /// Millrace, as `deploy/` installs it
    Millrace,
    /// kube-proxy with iptables (its newer back end)
    Iptables,
    /// kube-proxy with iptables (legacy back end)
    IptablesLegacy,
    /// kube-proxy with nftables
    Nftables,
    /// Nothing
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkChoice {
    /// Millrace, as `deploy/` installs it
    Millrace,
    /// The reference plugin, and routes between the nodes
    Ptp,
    /// Nothing
    None,
}

impl UpOptions {
    pub(crate) fn options(&self) -> Options {
        let proxy = match self.proxy {
            ProxyChoice::Millrace => Proxy::Millrace,
            ProxyChoice::Iptables => Proxy::Iptables(Iptables::Nft),
            ProxyChoice::IptablesLegacy => Proxy::Iptables(Iptables::Legacy),
            ProxyChoice::Nftables => Proxy::Nftables,
            ProxyChoice::None => Proxy::None,
        };
        let network = match self.cni {
            NetworkChoice::Millrace => Network::Millrace,
            NetworkChoice::Ptp => Network::Ptp,
            NetworkChoice::None => Network::None,
        };
        let families = match (self.dual_stack, self.ipv6) {
            (true, _) => Families::Dual,
            (_, true) => Families::V6,
            (false, false) => Families::V4,
        };
        Options { nodes: self.nodes, families, proxy, network }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn help_is_a_command_as_well_as_an_option() {
        Arguments::command().debug_assert();
        for words in [&["help"][..], &["--help"], &["-h"], &["help", "up"], &["up", "--help"]] {
            let arguments = std::iter::once("cluster").chain(words.iter().copied());
            let kind = Arguments::try_parse_from(arguments).map(|_| ()).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::DisplayHelp), "{words:?}");
        }
    }
}
