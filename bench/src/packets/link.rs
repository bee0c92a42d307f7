//! Interfaces of a namespace.
use std::{ffi::CString, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use harness::machine::netns::Netns;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
}

impl Link {
    pub(crate) fn of(netns: &Netns, name: &str) -> Result<Self> {
        let what = || format!("look at {name} in {}", netns.name());
        netns.run(|| inside(name))?.with_context(what)
    }
}

fn inside(name: &str) -> Result<Link> {
    let index = nix::net::if_::if_nametoindex(name).context("its index")?;
    let mut request = request(name)?;
    call(libc::SIOCGIFHWADDR, &mut request).context("its link-layer address")?;
    // SAFETY: SIOCGIFHWADDR fills this member of the union.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    for (byte, value) in mac.iter_mut().zip(data) {
        *byte = value.cast_unsigned();
    }
    Ok(Link { index, mac })
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `ETHTOOL_SGRO` (linux/ethtool.h).
const SET_GRO: u32 = 0x2c;

/// Turns generic receive offload of an interface of this namespace on or off. With it, a veth takes live frames.
pub(super) fn set_gro(name: &str, on: bool) -> Result<()> {
    let mut value = EthtoolValue { command: SET_GRO, data: on.into() };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    call(libc::SIOCETHTOOL, &mut request).with_context(|| format!("turn GRO of {name} on or off"))
}

fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: plain old data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new(name).context("a name of an interface")?;
    let bytes = name.as_bytes_with_nul();
    ensure!(bytes.len() <= request.ifr_name.len(), "{name:?} is longer than names of interfaces are");
    for (slot, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *slot = byte.cast_signed();
    }
    Ok(request)
}

fn call(what: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: these calls read and write one `ifreq`, and what its data points to, which lives longer than the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(())
}
