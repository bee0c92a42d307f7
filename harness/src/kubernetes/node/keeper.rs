//! The process that holds a node's namespaces as long as the node lives.
use std::{io::Write as _, process::Command};

use anyhow::{Context as _, Result};
use nix::unistd::pause;

use super::filesystem::{self, Order};
use crate::machine::binaries::binary;

/// What the keeper prints when the node can be entered.
const READY: &str = "ready\n";

/// The command of a keeper.
pub(super) fn command(order: &Order) -> Result<Command> {
    let order = serde_json::to_string(order).context("an order is plain data")?;
    let mut command = Command::new(binary("cluster")?);
    command.env_clear().args(["keep", &order]);
    Ok(command)
}

/// Whether a keeper has got so far that its node can be entered; `log` is what it printed since its start.
pub(super) fn is_ready(log: &str) -> bool {
    log.ends_with(READY)
}

/// Becomes the keeper that an order describes, and stays it until it is killed.
pub fn keep(order: &str) -> Result<()> {
    let order: Order = serde_json::from_str(order).context("read the order of a keeper")?;
    filesystem::enter(&order)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush()).context("say that it is ready")?;
    loop {
        pause();
    }
}
