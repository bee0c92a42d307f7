//! Rules of nftables on a node.
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use harness::topology::Node;

/// Carries out commands of `nft` on a node.
pub(crate) fn nft(node: &Node, rules: &str) -> Result<()> {
    node.netns().run(|| {
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("start nft")?;
        nft.stdin.take().context("nft has no input")?.write_all(rules.as_bytes())?;
        let status = nft.wait()?;
        if status.success() { Ok(()) } else { bail!("nft: {status}, with the rules\n{rules}") }
    })?
}

/// Gives a node the chains of a firewall, in place of those that it had.
pub(crate) fn start_firewall(node: &Node, chains: &str) -> Result<()> {
    nft(
        node,
        &format!(
            "table inet firewall {{}}\ndelete table inet firewall\ntable inet firewall {{\n{chains}\n}}\n"
        ),
    )
}
