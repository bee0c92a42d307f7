//! One stage per file. Stages do not call each other: `pipeline` gives them their order.
pub(crate) mod antispoof;
pub(crate) mod conntrack;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod icmp_error;
pub(crate) mod nat;
pub(crate) mod neighbour;
pub(crate) mod policy;
pub(crate) mod reject;
pub(crate) mod service;
pub(crate) mod uplink;
