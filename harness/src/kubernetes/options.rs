//! What a cluster is to be like; kept in its folder.
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    address::Families,
    name::ClusterName,
    node::{Iptables, Node},
    programs::Programs,
    proxy::Mode,
};

/// Node addresses end at .254.
const MOST_NODES: u8 = 100;

/// What balances services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proxy {
    /// kube-proxy with `iptables`, this implementation of it.
    Iptables(Iptables),
    /// kube-proxy with `nftables`.
    Nftables,
    /// Millrace.
    #[default]
    Millrace,
    /// Nothing.
    None,
}

impl Proxy {
    /// How kube-proxy runs, if it does.
    pub(super) const fn mode(self) -> Option<Mode> {
        match self {
            Self::Iptables(iptables) => Some(Mode::Iptables(iptables)),
            Self::Nftables => Some(Mode::Nftables),
            Self::Millrace | Self::None => None,
        }
    }

    const fn iptables(self) -> Iptables {
        match self {
            Self::Iptables(iptables) => iptables,
            Self::Nftables | Self::Millrace | Self::None => Iptables::Nft,
        }
    }
}

/// What connects pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The reference plugin, and routes between the nodes.
    Ptp,
    /// Millrace.
    #[default]
    Millrace,
    /// Nothing: nodes stay unready until somebody installs a network.
    None,
}

/// What a cluster is to be like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    pub nodes: u8,
    pub families: Families,
    pub proxy: Proxy,
    pub network: Network,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, families: Families::V4, proxy: Proxy::default(), network: Network::default() }
    }
}

impl Options {
    /// An error unless a cluster can be like this.
    pub(super) fn check(&self) -> Result<()> {
        if self.nodes > MOST_NODES {
            bail!("{} nodes: {MOST_NODES} are the most", self.nodes);
        }
        if self.proxy == Proxy::Millrace && self.network != Network::Millrace {
            bail!("Millrace balances services for the pods that it connects: choose --cni millrace, too");
        }
        Ok(())
    }

    pub(super) fn save(&self, name: &ClusterName) -> Result<()> {
        let path = name.folder().join("options.json");
        let text = serde_json::to_string_pretty(self).context("options are plain data")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    pub(super) fn load(name: &ClusterName) -> Result<Self> {
        let path = name.folder().join("options.json");
        let Ok(text) = fs::read_to_string(&path) else {
            bail!("there is no cluster {name}: `cargo xtask cluster up --name {name}` makes it");
        };
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    pub(super) fn new_nodes(&self, name: &ClusterName, programs: &Programs) -> Vec<Node> {
        let node = |number| Node::new(name, number, self.families, self.proxy.iptables(), programs);
        (1..=self.nodes).map(node).collect()
    }
}
