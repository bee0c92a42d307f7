//! The rules of the host's own firewall that decide about pods: tables of nftables (those of `iptables-nft` among them) and
//! of `iptables-legacy`, read from the kernel. Nothing is ever changed there.
//!
//! Blocking. A table is read as far as it matters: the chains on three hooks, what they lead to, and of their rules those
//! that may hold for all that pods send or are sent.
mod fate;
mod legacy;
mod nft;
#[cfg(test)]
mod random;

use std::{collections::BTreeMap, io, sync::Arc};

use agent_core::model::Family;
use ipnetwork::IpNetwork;

pub use self::fate::{Cut, Direction, Packet, State};

/// As many rules are read: some tenths of a second.
const MOST_READ: usize = 100_000;

/// As many of them are kept: some megabytes.
const MOST_KEPT: usize = 10_000;

/// A table of the firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// For people: `iptables`, `the nftables table inet mine`.
    pub name: String,
    pub tool: Tool,
    pub families: Vec<Family>,
    pub bases: Vec<Base>,
    /// The rules of the base chains and of those that they lead to, by name.
    pub chains: BTreeMap<String, Vec<Rule>>,
}

/// A chain that packets enter from a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub hook: Hook,
    pub chain: String,
    /// Whether it drops what none of its rules decided about.
    pub policy_drops: bool,
}

/// Where a base chain meets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// For processes of this host.
    Input,
    /// For somebody else.
    Forward,
    /// From processes of this host.
    Output,
}

/// What changes a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// `iptables` and `ip6tables`, whichever of the two they are.
    Iptables,
    #[default]
    Nft,
}

/// A rule, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As the tool counts: the handle for nft, the place in the chain for iptables.
    pub number: u64,
    pub conditions: Vec<Condition>,
    pub target: Target,
}

impl Rule {
    /// Whether it may decide about all that pods send or are sent.
    fn matters(&self) -> bool {
        let is_narrow = |condition: &Condition| match condition {
            Condition::Source(network) | Condition::Destination(network) => is_address(*network),
            Condition::Other => true,
            Condition::From(_) | Condition::To(_) | Condition::Family(_) | Condition::States(_) => false,
        };
        self.target != Target::Other && !self.conditions.iter().any(is_narrow)
    }
}

/// What a packet must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    From(Interfaces),
    To(Interfaces),
    Source(IpNetwork),
    Destination(IpNetwork),
    Family(Family),
    /// In one of these states of connection tracking: bits as in [`State`].
    States(u32),
    /// Something that holds for some packets only, as far as is known.
    Other,
}

/// The interfaces whose names start with, or are, this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    pub name: Vec<u8>,
    pub is_prefix: bool,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Accept,
    /// Dropped or rejected.
    Drop,
    /// On to another chain, and back behind this rule.
    Jump(String),
    /// On to another chain, and not back here.
    Goto(String),
    /// Back to the chain that led here.
    Return,
    /// To the next rule, as far as is known.
    Other,
}

/// What was found in the firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub tables: Vec<Arc<Table>>,
    /// What is too large to be read.
    pub unread: Vec<String>,
}

/// The firewall. What tells of its changes is read again only after one.
#[derive(Debug, Default)]
pub struct Firewall {
    generation: Option<u32>,
    nft: Tables,
}

impl Firewall {
    /// The tables that have a base chain on one of the hooks.
    ///
    /// # Errors
    /// If the kernel does not give them, or they changed meanwhile.
    pub fn tables(&mut self) -> io::Result<Tables> {
        let generation = nft::generation()?;
        if generation.is_none() {
            self.nft = Tables::default();
        } else if generation != self.generation {
            self.nft = nft::tables()?;
        }
        self.generation = generation;
        let mut found = self.nft.clone();
        legacy::add_tables(&mut found)?;
        Ok(found)
    }
}

/// Whether it is one address: not all of a node's pods.
fn is_address(network: IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

/// How many of the first bits a mask has, if it has no others.
fn prefix(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading = mask.iter().position(|byte| *byte != 0xff).map_or(mask.len() * 8, |whole| {
        whole * 8 + mask.get(whole).map_or(0, |byte| byte.leading_ones() as usize)
    });
    (ones as usize == leading).then(|| u8::try_from(ones).ok()).flatten()
}
