//! Serves the CNI plugin and the CLI on a Unix socket.
//!
//! The server owns the addresses and the leases; endpoints, programs and policy belong to the reconcile loop, which it
//! tells by [`CniEvent`]s.
mod housekeeping;
mod requests;
mod socket;

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::{Error, ErrorKind, Health, Status};
use agent_core::model::{
    ObjectName,
    endpoint::{AttachmentId, Endpoint},
};
use agent_sources::source::Look;
use ipnetwork::IpNetwork;
pub use socket::BindError;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    ipam::{self, FileError, Ipam, Living},
    net::Netlink,
    telemetry::chain,
    vitals::Vitals,
};

/// Where `host-local` keeps its leases.
pub const HOST_LOCAL_DIR: &str = "/var/lib/cni/networks";

/// How the server works.
#[derive(Clone, Debug)]
pub struct Options {
    pub node_name: String,
    /// Holds the socket.
    pub runtime_dir: PathBuf,
    /// Holds the leases and the pending detachments.
    pub state_dir: PathBuf,
    /// How long ADD waits for the pod's policy.
    pub attach_deadline: Duration,
    /// How long a released address is not used again, where there are others.
    pub cool_down: Duration,
    /// Holds the leases of `host-local`, whose pods may live on.
    pub host_local_dir: PathBuf,
    /// Where it notes what it did.
    pub(crate) vitals: Arc<Vitals>,
}

impl Options {
    #[must_use]
    pub fn new(node_name: String, runtime_dir: PathBuf, state_dir: PathBuf) -> Self {
        let (attach_deadline, cool_down) = (Duration::from_secs(20), Duration::from_secs(30));
        let (host_local_dir, vitals) = (HOST_LOCAL_DIR.into(), Arc::default());
        Self { node_name, runtime_dir, state_dir, attach_deadline, cool_down, host_local_dir, vitals }
    }
}

/// What the node offers to its pods. Empty until the Node object is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNetwork {
    pub pod_cidrs: Vec<IpNetwork>,
    pub mtu: u32,
    /// The addresses of the pod CIDRs that pods have, by their objects.
    pub pods: BTreeMap<IpAddr, ObjectName>,
}

/// What the reconcile loop is told.
#[derive(Debug)]
pub enum CniEvent {
    /// An interface exists, both ends down. Answered when its programs are attached and its policy is in the maps.
    Attach { endpoint: Endpoint, done: oneshot::Sender<Result<(), Error>> },
    /// An interface is gone. Answered when nothing of it is left in the maps. May name what is unknown.
    Detach { attachment: AttachmentId, done: oneshot::Sender<Result<(), Error>> },
    /// Somebody asks whether an attachment is as it must be. Answered with what is not, a sentence each.
    Check { attachment: AttachmentId, reply: oneshot::Sender<Vec<String>> },
    /// Somebody asks how the agent is.
    Status { reply: oneshot::Sender<Status> },
    /// Somebody asks whether the node can be used.
    Health { reply: oneshot::Sender<Health> },
    /// Somebody wants to know what is in force. Answered when the maps hold what was seen before, as far as they can, and
    /// the names on disk are those of this moment: with what the maps do not hold, a sentence each.
    Settle { reply: oneshot::Sender<Vec<String>> },
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Leases(#[from] FileError),
    #[error("cannot read the boot's identity and clock: is /proc mounted?")]
    Boot(#[source] std::io::Error),
}

/// The server, before it serves.
#[derive(Debug)]
pub struct CniServer {
    listener: UnixListener,
    options: Options,
    ipam: Ipam,
    problems: Vec<String>,
    unsaved: Option<String>,
}

/// What the tasks of the running server share.
#[derive(Debug)]
struct Shared {
    options: Options,
    ipam: Mutex<Ipam>,
    /// The last change of the leases that is on disk. Locked while they are written.
    on_disk: Arc<tokio::sync::Mutex<u64>>,
    /// Attachments with a request in flight.
    in_flight: Mutex<HashSet<AttachmentId>>,
    events: mpsc::Sender<CniEvent>,
    looks: mpsc::Sender<Look>,
    node: watch::Receiver<NodeNetwork>,
    problems: Vec<String>,
    /// Why the leases could not be written the last time.
    unsaved: Mutex<Option<String>>,
}

impl CniServer {
    /// Restores the leases and takes the socket. Detachments that were left while the agent was away are done.
    ///
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// If another agent serves the socket, or if a directory cannot be used.
    pub fn open(options: Options, living: &Living) -> Result<Self, OpenError> {
        let listener = socket::bind(&options.runtime_dir)?;
        let boot_id = ipam::boot_id().map_err(OpenError::Boot)?;
        let now = ipam::time_since_boot().map_err(OpenError::Boot)?;
        let (mut ipam, damage) = Ipam::restore(&options.state_dir, &boot_id, options.cool_down, living, now)?;
        let mut problems = Vec::new();
        if let Some(damage) = damage {
            tracing::error!(error = &damage as &dyn std::error::Error, "the leases were rebuilt");
            problems.push(damage.to_string());
        }
        let released = housekeeping::settle_before_start(&options, &mut ipam, now);
        // Pods that are there go on; new ones wait until their leases would outlive the agent.
        let unsaved = ipam.snapshot().write().err().map(|error| chain(&error));
        if let Some(error) = &unsaved {
            tracing::error!(%error, "new pods are refused");
        }
        let restored = ipam.leases.endpoints().count();
        tracing::info!(restored, released, directory = %options.runtime_dir.display(), "serving the CNI plugin");
        Ok(Self { listener, options, ipam, problems, unsaved })
    }

    /// The endpoints that lived through the restart: to be known before the first render.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.ipam.leases.endpoints().cloned().collect()
    }

    /// Serves until the task is dropped.
    pub async fn run(
        self,
        events: mpsc::Sender<CniEvent>,
        looks: mpsc::Sender<Look>,
        node: watch::Receiver<NodeNetwork>,
        netlink: Netlink,
    ) {
        let Self { listener, options, ipam, problems, unsaved } = self;
        let (ipam, on_disk) = (Mutex::new(ipam), Arc::default());
        let shared = Arc::new(Shared {
            options,
            ipam,
            on_disk,
            in_flight: Mutex::default(),
            events,
            looks,
            node,
            problems,
            unsaved: Mutex::new(unsaved),
        });
        tokio::join!(
            socket::accept(&listener, &shared),
            housekeeping::settle_pending(&shared),
            housekeeping::sweep(&shared, &netlink),
        );
    }
}

impl Shared {
    /// Works on the leases.
    fn with_ipam<T>(&self, work: impl FnOnce(&mut Ipam, Duration) -> T) -> Result<T, Error> {
        let now =
            ipam::time_since_boot().map_err(|error| internal(format!("cannot read the clock: {error}")))?;
        let mut ipam = self.ipam.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut ipam, now);
        self.options.vitals.note_addresses(ipam.leases.counted(now));
        Ok(done)
    }

    /// Waits until a change of the leases is on disk. Changes that wait while others are written are written together.
    async fn save(&self, revision: u64) -> Result<(), Error> {
        // Goes with the work: a request that is given up does not let another write the same file meanwhile.
        let mut on_disk = Arc::clone(&self.on_disk).lock_owned().await;
        if *on_disk >= revision {
            return Ok(());
        }
        let snapshot = self.with_ipam(|ipam, _| ipam.snapshot())?;
        let written = tokio::task::spawn_blocking(move || {
            snapshot.write()?;
            *on_disk = snapshot.revision;
            Ok::<_, FileError>(())
        });
        let written = match written.await {
            Ok(written) => written.map_err(|error| chain(&error)),
            Err(error) => Err(format!("the task that writes the leases failed: {error}")),
        };
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&written.clone().err());
        written.map_err(internal)
    }

    /// Why leases are not on disk.
    fn unsaved(&self) -> Option<String> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the leases once more, if they could not be written.
    async fn save_again(&self) -> Result<(), Error> {
        if self.unsaved().is_none() {
            return Ok(());
        }
        let revision = self.with_ipam(|ipam, _| ipam.changed())?;
        self.save(revision).await
    }
}

fn try_again(message: impl Into<String>) -> Error {
    Error { kind: ErrorKind::TryAgain, message: message.into() }
}

fn invalid(message: impl Into<String>) -> Error {
    Error { kind: ErrorKind::Invalid, message: message.into() }
}

fn internal(message: impl Into<String>) -> Error {
    Error { kind: ErrorKind::Internal, message: message.into() }
}

#[cfg(test)]
mod tests;
