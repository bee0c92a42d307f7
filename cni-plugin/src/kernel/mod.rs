//! What the plugin asks of the kernel: links, addresses, routes, rules and neighbours by netlink, and sysctls.
mod ip;
mod link;
mod netlink;
mod rule;
pub(crate) mod sysctl;

pub(crate) use ip::{Neighbour, Route};
pub(crate) use link::{Link, Veth};
pub(crate) use netlink::Netlink;
pub(crate) use rule::{Rule, Subject};
