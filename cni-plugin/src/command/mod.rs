//! The verbs of CNI.
mod add;
mod check;
mod del;
mod gc;
mod routing;
mod status;
mod version;

use std::net::IpAddr;

pub(crate) use add::add;
use agent_api::{
    Attachment,
    interface::{Label, host_ifname},
};
pub(crate) use check::check;
pub(crate) use del::del;
pub(crate) use gc::gc;
use ipnetwork::IpNetwork;
pub(crate) use status::status;
pub(crate) use version::version;

use crate::{
    config::NetConf,
    kernel::{Link, Netlink},
    spec::{Code, Error, Version},
};

/// The error of a refused change.
fn refused(what: impl Into<String>, cause: &std::io::Error) -> Error {
    Error::new(Code::Network, what).because(cause)
}

fn open_host() -> Result<Netlink, Error> {
    Netlink::open().map_err(|cause| refused("cannot open a netlink socket on the host", &cause))
}

/// The host side of an attachment's interface.
fn host_link(host: &mut Netlink, attachment: &Attachment) -> Result<Option<Link>, Error> {
    let name = host_ifname(attachment);
    host.link(&name).map_err(|cause| refused(format!("cannot look up the host interface {name}"), &cause))
}

/// Whether a link says of itself that it is the attachment's.
fn is_of(link: &Link, attachment: &Attachment) -> bool {
    link.alias.parse::<Label>().is_ok_and(|label| label.attachment == *attachment)
}

/// The default route's destination, of the gateway's family.
fn default_of(gateway: IpAddr) -> IpNetwork {
    let unspecified = match gateway {
        IpAddr::V4(_) => IpAddr::from([0u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0u8; 16]),
    };
    IpNetwork::new(unspecified, 0).expect("a prefix of length 0 is valid in both families")
}

/// Verbs that an older version does not have.
fn require_version(conf: &NetConf, verb: &str, since: Version) -> Result<(), Error> {
    if conf.version >= since {
        return Ok(());
    }
    Err(Error::new(
        Code::IncompatibleVersion,
        format!("cniVersion is {:?}: {verb} exists since {}", conf.version.as_str(), since.as_str()),
    ))
}
