//! Interfaces for test runs: a context names the device that a packet came in on, and the device must exist.
use std::{fs, process::Command, thread};

use anyhow::{Result, anyhow};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

/// Link-layer address of the `n`th interface: what comes in by it is for this host only when it is sent there.
#[must_use]
pub const fn interface_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 3, n]
}

fn interface_mac_text(n: usize) -> String {
    format!("02:00:00:00:03:{n:02x}")
}

/// Runs `test` in a network namespace of its own, with the host sides of `pods` veth pairs: their indexes. The
/// namespace goes when its only thread does.
pub fn in_private_netns<T: Send>(pods: usize, test: impl FnOnce(&[u32]) -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut indexes = Vec::with_capacity(pods);
            for pod in 0..pods {
                let (host, peer) = (format!("h{pod}"), format!("p{pod}"));
                let mac = interface_mac_text(pod);
                ip(&["link", "add", &host, "address", &mac, "type", "veth", "peer", "name", &peer])?;
                indexes.push(if_nametoindex(host.as_str())?);
            }
            test(&indexes)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes this namespace a router by which nobody in a prefix is reached.
pub fn nobody_has(prefix: &str) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1")?;
    }
    ip(&["link", "set", "lo", "up"])?;
    ip(&["route", "add", "unreachable", prefix])
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(anyhow!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
}
