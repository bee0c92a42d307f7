//! Switches of an interface below `/proc/sys/net`.
use std::{fs, io, path::PathBuf};

/// A switch and its value.
pub(crate) type Setting = (&'static str, &'static str, &'static str);

/// The host side, before it goes up. Router advertisements of a pod must never become routes of the host; replies
/// may leave on another way than requests came, and the programs check the source address.
pub(crate) const HOST: [Setting; 5] = [
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "forwarding", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "forwarding", "1"),
];

/// The pod side.
pub(crate) const POD: [Setting; 2] = [("ipv6", "accept_ra", "0"), ("ipv6", "accept_redirects", "0")];

/// An interface with an IPv6 address needs IPv6, whatever the default for new interfaces is.
pub(crate) const ENABLE_IPV6: Setting = ("ipv6", "disable_ipv6", "0");

/// Sets a switch of an interface of the current network namespace, unless it is as wanted.
pub(crate) fn set(ifname: &str, (family, name, value): Setting) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/sys/net/{family}/conf/{ifname}/{name}"));
    let current = match fs::read_to_string(&path) {
        // A kernel without IPv6 has nothing to switch, unless IPv6 is needed.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && family == "ipv6" && name != ENABLE_IPV6.1 =>
        {
            return Ok(());
        }
        current => current.map_err(|error| at(&path, &error))?,
    };
    if current.trim_end() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(|error| at(&path, &error))
}

fn at(path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
