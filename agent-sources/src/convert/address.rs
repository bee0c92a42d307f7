//! Addresses and ranges as Kubernetes reads them: leniently, because stored objects outlive stricter rules.
//!
//! Leading zeros are decimal, not octal; IPv4-mapped IPv6 is IPv4; case and length of IPv6 do not matter; a
//! range may have host bits. What comes out is canonical.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Parses an address.
///
/// # Errors
/// The rest of a sentence that begins with the field's name.
pub fn address(text: &str) -> Result<IpAddr, String> {
    lenient(text.trim())
        .map(|addr| addr.to_canonical())
        .ok_or_else(|| format!("is {text:?}, which is no IP address"))
}

/// Parses a range, dropping host bits.
///
/// # Errors
/// The rest of a sentence that begins with the field's name.
pub fn range(text: &str) -> Result<IpNetwork, String> {
    network(text.trim()).ok_or_else(|| format!("is {text:?}, which is no address range"))
}

pub const ADDRESS_REMEDY: &str = "use an address like 10.96.0.10 or fd00::10";
pub const RANGE_REMEDY: &str = "use a range like 10.0.0.0/8 or fd00::/64";

/// Length of the prefix that IPv4-mapped addresses share.
const MAPPED_PREFIX: u8 = 96;

fn network(text: &str) -> Option<IpNetwork> {
    let (addr, length) = text.split_once('/')?;
    let addr = lenient(addr)?;
    let length: u8 = decimal(length)?;
    let (addr, length) = match (addr, addr.to_canonical()) {
        (IpAddr::V6(_), mapped @ IpAddr::V4(_)) if length >= MAPPED_PREFIX => {
            (mapped, length - MAPPED_PREFIX)
        }
        _ => (addr, length),
    };
    let network = IpNetwork::new(addr, length).ok()?;
    IpNetwork::new(network.network(), length).ok()
}

fn lenient(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return lenient_v4(text).map(IpAddr::V4);
    }
    // The last 32 bits of an IPv6 address may be written as an IPv4 address.
    match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => {
            format!("{head}:{}", lenient_v4(tail)?).parse::<Ipv6Addr>().ok()
        }
        _ => text.parse::<Ipv6Addr>().ok(),
    }
    .map(IpAddr::V6)
}

fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.');
    let mut octets = [0_u8; 4];
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Digits only: `u8::from_str` would take a sign.
fn decimal(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::{address, range};

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("10.96.0.10", "10.96.0.10"),
            ("010.096.0.010", "10.96.0.10"),
            (" 10.0.0.1 ", "10.0.0.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:010.0.0.1", "10.0.0.1"),
            ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
        ] {
            assert_eq!(address(text).map(|addr| addr.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in
            ["", "10.0.0", "10.0.0.0.1", "10.0.0.256", "+1.0.0.1", "fe80::1%eth0", "10.0.0.1/32", "web"]
        {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_lose_their_host_bits_and_their_spelling() {
        for (text, expected) in [
            (" 10.0.0.0/8 ", "10.0.0.0/8"),
            ("10.161.0.0/8", "10.0.0.0/8"),
            ("010.0.0.0/08", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(range(text).map(|range| range.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/+8", "/8", "10.0.0.0/"]
        {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
