//! What the plugin asks of the kernel: links, addresses, routes and neighbours by netlink, and sysctls.
mod ip;
mod link;
mod netlink;
pub(crate) mod sysctl;

pub(crate) use ip::{Neighbour, Route};
pub(crate) use link::{Link, Veth};
pub(crate) use netlink::Netlink;
