//! The kernel's numbers of network namespaces, which the socket programs see.
use std::{io, num::NonZeroU64};

use nix::{
    getsockopt_impl, libc,
    sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt},
};

/// `SO_NETNS_COOKIE`.
#[derive(Clone, Copy, Debug)]
struct NetnsCookie;

// Needs SO_NETNS_COOKIE: v5.14, e8b9eab99232.
getsockopt_impl!(NetnsCookie, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, u64, sockopt::GetStruct<u64>);

/// The number of the calling thread's network namespace. No other namespace has it before the next boot.
///
/// # Errors
/// If the kernel gives no socket.
pub fn cookie() -> io::Result<NonZeroU64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    NonZeroU64::new(getsockopt(&socket, NetnsCookie)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_number() {
        assert_eq!(cookie().unwrap(), cookie().unwrap());
    }
}
