//! Endpoints: pod interfaces of this node, as the CNI plugin registered them.
use std::{net::IpAddr, num::NonZeroU64};

use dataplane_common::net::MacAddr;
use serde::{Deserialize, Serialize};

use super::ObjectName;

/// What CNI identifies an attachment by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    pub container_id: String,
    pub ifname: String,
}

/// A pod interface of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub attachment: AttachmentId,
    pub pod: ObjectName,
    /// Empty when the runtime did not say.
    pub pod_uid: String,
    /// At most one per family.
    pub ips: Vec<IpAddr>,
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub host_mac: MacAddr,
    pub pod_mac: MacAddr,
    /// The kernel's number of the pod's network namespace. `None`: nobody told, and its sockets are left alone; what
    /// they send is translated packet by packet.
    #[serde(default)]
    pub netns: Option<NonZeroU64>,
}
