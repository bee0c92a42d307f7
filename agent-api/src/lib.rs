//! The agent's local socket: what the CNI plugin and the CLI say to it.
//!
//! One request and one reply per connection, each a line of JSON. The socket is `cni.sock` in the agent's runtime
//! directory, mode 0600, and serves root only.
#![forbid(unsafe_code)]

pub mod client;
pub mod disk;
pub mod interface;
pub mod netns;
pub mod pending;
pub mod wire;

use std::{net::IpAddr, num::NonZeroU64};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Version of the protocol. A peer of another version gets [`ErrorKind::Incompatible`].
pub const API_VERSION: u32 = 1;

/// The longest line that either side reads, so that a confused peer cannot exhaust memory.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Name of the socket in the runtime directory.
pub const SOCKET_NAME: &str = "cni.sock";

/// File in the runtime directory whose time says when the agent last served, as far as the plugin saw.
pub const SERVED_NAME: &str = "served";

/// Folder, in the state directory, of the detachments that the plugin could not tell the agent.
/// One file per attachment, holding a [`Attachment`] as JSON.
pub const PENDING_DETACH_DIR: &str = "pending-detach";

/// A request and the version of the peer that sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub version: u32,
    pub request: Request,
}

/// What a peer asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// First half of ADD: reserve addresses. Repeating it for one attachment returns the same addresses.
    Reserve { attachment: Attachment, pod: PodRef },
    /// Second half of ADD: the interface exists. Answered when its programs and its policy are in the kernel.
    Attach { attachment: Attachment, interface: Interface },
    /// DEL: forget the interface and free its addresses. Succeeds for what is unknown.
    Detach { attachment: Attachment },
    /// CHECK: whether one attachment is as ADD left it. What can be put right is put right first.
    Check { attachment: Attachment },
    /// What the agent is doing.
    Status,
    /// Whether the node can be used. The reconcile loop answers, so an answer shows that it makes progress.
    Health,
    /// Bring the names on disk up to date. Answered when they are, and the maps hold what the agent has seen.
    Names,
    /// Whether all that the source shows at this moment is in force. Makes a directory of manifests be looked at.
    Applied,
}

/// What CNI identifies an attachment by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
}

/// The pod, from `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Empty when the runtime did not say.
    pub uid: String,
}

/// The interface that the plugin made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
    /// The kernel's number of the pod's network namespace; see [`netns::cookie`].
    #[serde(default)]
    pub netns: Option<NonZeroU64>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Reply {
    Reserved(Network),
    Attached,
    Detached,
    Checked(Checked),
    Status(Box<Status>),
    Health(Health),
    Named,
    Applied(Applied),
    Error(Error),
}

/// How to set up the pod's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// One per family of the node's pod CIDRs: /32 or /128.
    pub addresses: Vec<IpNetwork>,
    /// Next hops of the default routes, one per family; reachable only through the interface, by a static neighbour.
    pub gateways: Vec<IpAddr>,
    pub mtu: u32,
}

/// What went wrong, for people and for the CNI error code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// Names the object and the field, and says what to do.
    pub message: String,
}

/// What the peer can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The same request may succeed later: the agent is starting, the pod is not known yet, addresses are used up.
    TryAgain,
    /// The request makes no sense.
    Invalid,
    /// The peer speaks another version.
    Incompatible,
    /// The agent failed.
    Internal,
}

/// What the agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node_name: String,
    pub agent_version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// `manifests DIR`, `kubeconfig FILE` or `in-cluster`.
    pub source: String,
    /// Who translates services: `millrace`, `both` or `kube-proxy`.
    #[serde(default)]
    pub services_by: String,
    /// Kinds whose first list is not complete.
    pub waiting_for: Vec<String>,
    /// Number of the cluster state that is in the maps.
    pub revision: u64,
    /// Map entries written since the start; 0 after a restart on maps that were right.
    pub map_writes: u64,
    /// Map entries deleted since the start.
    pub map_deletes: u64,
    pub pods: u64,
    pub services: u64,
    pub policies: u64,
    /// Time from the source's event to the maps, in microseconds, of the last changes: median, 99th percentile, largest.
    pub programming_us: [u64; 3],
    /// Objects that could not be used, and operations that keep failing: one sentence each, of which equal ones are
    /// told together.
    pub problems: Vec<String>,
    pub programs: Vec<Program>,
}

/// Whether the node can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is missing for new pods and new services to work: one sentence each, with the remedy. Empty: ready.
    pub unmet: Vec<String>,
    /// The part of it for which ADD would be refused at this moment.
    #[serde(default)]
    pub refusing: Vec<String>,
}

/// Whether an attachment is as ADD left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What is not in its place, a sentence each. Empty: programs and entries are.
    pub missing: Vec<String>,
}

/// What of the cluster is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What is not in the maps yet, a sentence each. Empty: everything that can be used is.
    pub missing: Vec<String>,
}

/// A loaded program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub verified_instructions: u32,
    pub attached_to: Vec<String>,
}
