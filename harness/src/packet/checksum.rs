//! Checksums, written anew so that a mistake in the product's own arithmetic shows.
use std::net::IpAddr;

/// The Internet checksum (RFC 1071) of several pieces, each but the last of even length.
#[must_use]
pub fn internet_checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for piece in pieces {
        for word in piece.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).expect("folded in each step")
}

/// The pseudo header of TCP, UDP and `ICMPv6` (RFC 9293 §3.1, RFC 8200 §8.1).
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, proto: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a packet is shorter than 4 GiB").to_be_bytes();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [&source.octets()[..], &destination.octets(), &[0, proto], &length[2..]].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, proto]].concat()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("a packet has one family")
        }
    }
}

/// `CRC32c` (RFC 9260 appendix A), bit by bit: tests need no speed here.
pub(super) fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_rfc_1071_example_is_right() {
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn crc32c_of_the_rfc_3720_examples_is_right() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }
}
