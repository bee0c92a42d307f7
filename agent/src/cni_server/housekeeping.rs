//! What nobody asks for: detachments that wait on disk, reservations that were given up, interfaces that vanished.
use std::{path::PathBuf, time::Duration};

use agent_api::pending::{self, Pending};
use agent_core::model::endpoint::AttachmentId;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::{Options, Shared, requests::id};
use crate::{
    ipam::{Ipam, Survivor},
    net::{NetError, Netlink},
};

/// How often the folder of pending detachments is looked at.
const PENDING_INTERVAL: Duration = Duration::from_secs(2);

/// How often the leases are compared with the interfaces.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Does what was left while the agent was away: the endpoints are not even restored. Returns how many.
pub(super) fn settle_before_start(options: &Options, ipam: &mut Ipam, now: Duration) -> usize {
    let pending = list(options);
    for (path, attachment) in &pending {
        ipam.leases.release(attachment, now);
        remove(path);
    }
    pending.len()
}

/// Does what is left while the agent serves, which the plugin does when the agent did not answer in time.
pub(super) async fn settle_pending(shared: &Shared) {
    let mut ticks = interval(PENDING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = shared.save_again().await {
            tracing::debug!(%error, "leases are only in memory");
        }
        for (path, attachment) in list(&shared.options) {
            match shared.detach(&attachment).await {
                Ok(()) => remove(&path),
                Err(error) => tracing::debug!(%error, path = %path.display(), "a detachment waits"),
            }
        }
    }
}

/// Releases what has no interface any more: a DEL may never come.
pub(super) async fn sweep(shared: &Shared, netlink: &Netlink) {
    // The start has compared them.
    let mut ticks = interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep_once(shared, netlink).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "leases and interfaces are not compared"
            );
        }
    }
}

pub(super) async fn sweep_once(shared: &Shared, netlink: &Netlink) -> Result<(), NetError> {
    let living = netlink.living().await?;
    let candidates = shared.with_ipam(|ipam, now| {
        ipam.leases.block(living.addresses());
        (ipam.leases.abandoned(now), missing(ipam, &living.interfaces))
    });
    let Ok((abandoned, missing)) = candidates else { return Ok(()) };
    let mut gone = abandoned;
    for (attachment, host_ifname) in missing {
        // Attached after the list was made, or gone: only the kernel knows.
        if netlink.link(&host_ifname).await?.is_none() {
            gone.push(attachment);
        }
    }
    for attachment in gone {
        tracing::info!(container = attachment.container_id, "the interface is gone without a DEL");
        if let Err(error) = shared.detach(&attachment).await {
            tracing::debug!(%error, container = attachment.container_id, "the detachment is tried again");
        }
    }
    Ok(())
}

/// The endpoints whose interface is not in a list of living ones.
fn missing(ipam: &Ipam, living: &[Survivor]) -> Vec<(AttachmentId, String)> {
    let lives = |name: &str| living.iter().any(|interface| interface.host_ifname == name);
    let endpoints = ipam.leases.endpoints().filter(|endpoint| !lives(&endpoint.host_ifname));
    endpoints.map(|endpoint| (endpoint.attachment.clone(), endpoint.host_ifname.clone())).collect()
}

/// The pending detachments. A damaged file is set aside, so that it is reported once.
fn list(options: &Options) -> Vec<(PathBuf, AttachmentId)> {
    let pending = pending::list(&options.state_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, state_dir = %options.state_dir.display(), "cannot read the pending detachments");
        Vec::new()
    });
    let usable = |Pending { path, attachment }: Pending| match attachment {
        Ok(attachment) => Some((path, id(&attachment))),
        Err(error) => {
            let aside = path.with_extension("corrupt");
            tracing::error!(%error, path = %path.display(), aside = %aside.display(), "a pending detachment is damaged \
                and was set aside: its addresses are freed when its interface is gone");
            if let Err(error) = std::fs::rename(&path, &aside) {
                tracing::warn!(%error, "cannot set it aside");
            }
            None
        }
    };
    pending.into_iter().filter_map(usable).collect()
}

fn remove(path: &std::path::Path) {
    if let Err(error) = pending::remove(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove a pending detachment that is done");
    }
}
