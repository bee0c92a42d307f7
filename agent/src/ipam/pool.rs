//! Which address of a range is next. Pure.
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Offsets that are never handed out: the network's own address and the first one, where many expect a gateway.
const FIRST_OFFSET: u128 = 2;

/// A range of pod addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    cidr: IpNetwork,
}

impl Pool {
    #[must_use]
    pub(super) const fn new(cidr: IpNetwork) -> Self {
        Self { cidr }
    }

    #[must_use]
    pub(super) const fn cidr(&self) -> IpNetwork {
        self.cidr
    }

    /// The next free address behind `last`, around the end. `busy` is the number of addresses that are not free: the
    /// search never takes more steps than that.
    pub(super) fn next(
        &self,
        last: Option<IpAddr>,
        busy: usize,
        is_free: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let count = self.usable();
        let start = last
            .and_then(|last| self.offset(last))
            .map_or(0, |offset| offset.saturating_sub(FIRST_OFFSET) + 1);
        (0..count.min(busy as u128 + 1))
            .map(|step| {
                let (position, to_end) = (start % count, count - start % count);
                self.at(FIRST_OFFSET + if step < to_end { position + step } else { step - to_end })
            })
            .find(|address| is_free(*address))
    }

    /// How many addresses can be handed out: all but the first two and the last, which is IPv4's broadcast address.
    #[must_use]
    pub(super) fn usable(&self) -> u128 {
        let bits = if self.cidr.is_ipv4() { 32 } else { 128 };
        let host_bits = bits - u32::from(self.cidr.prefix());
        let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        size.saturating_sub(FIRST_OFFSET + 1)
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.cidr.contains(address).then(|| number(address) - number(self.cidr.network()))
    }

    fn at(&self, offset: u128) -> IpAddr {
        let address = number(self.cidr.network()) + offset;
        match self.cidr {
            IpNetwork::V4(_) => {
                IpAddr::V4(u32::try_from(address).expect("offsets stay within the range").into())
            }
            IpNetwork::V6(_) => IpAddr::V6(address.into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().unwrap())
    }

    /// All addresses, in the order they are handed out.
    fn exhaust(pool: Pool) -> Vec<IpAddr> {
        let mut taken = Vec::new();
        while let Some(address) =
            pool.next(taken.last().copied(), taken.len(), |address| !taken.contains(&address))
        {
            taken.push(address);
        }
        taken
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_handed_out() {
        let expected: Vec<IpAddr> = (2..=6).map(|host| IpAddr::from([10, 0, 0, host])).collect();
        assert_eq!(exhaust(pool("10.0.0.0/29")), expected);
        let expected: Vec<IpAddr> = (2..=6).map(|host| format!("fd00::{host}").parse().unwrap()).collect();
        assert_eq!(exhaust(pool("fd00::/125")), expected);
    }

    #[test]
    fn every_usable_address_is_handed_out_once() {
        let all = exhaust(pool("10.1.2.0/24"));
        assert_eq!(all.len() as u128, pool("10.1.2.0/24").usable());
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn ranges_that_are_too_small_hold_nothing() {
        for cidr in ["10.0.0.4/30", "10.0.0.4/31", "10.0.0.4/32", "fd00::1/127", "fd00::1/128"] {
            assert_eq!(exhaust(pool(cidr)).len() as u128, pool(cidr).usable(), "{cidr}");
            assert!(pool(cidr).usable() <= 1, "{cidr}");
        }
    }

    #[test]
    fn the_search_continues_behind_the_last_address_and_wraps() {
        let pool = pool("10.0.0.0/29");
        let next = |last: &str| pool.next(Some(last.parse().unwrap()), 0, |_| true).unwrap().to_string();
        assert_eq!(next("10.0.0.4"), "10.0.0.5");
        assert_eq!(next("10.0.0.6"), "10.0.0.2");
        assert_eq!(next("10.0.0.0"), "10.0.0.3", "an address that is no cursor of ours does no harm");
        assert_eq!(next("192.0.2.1"), "10.0.0.2", "a cursor of another range is ignored");
    }

    #[test]
    fn the_largest_ranges_do_not_overflow() {
        for cidr in ["::/0", "0.0.0.0/0", "fd00::/8"] {
            let pool = pool(cidr);
            let last = pool.next(None, 0, |_| true);
            assert!(pool.next(last, 0, |_| true).is_some(), "{cidr}");
        }
        let near_the_end: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd".parse().unwrap();
        let wrapped = pool("::/0").next(Some(near_the_end), 9, |address| address < near_the_end);
        assert_eq!(wrapped.unwrap().to_string(), "::2");
    }
}
