//! One entry of a table: a rule, a policy, or the name of a chain.
use std::collections::BTreeMap;

use agent_core::model::Family;
use ipnetwork::IpNetwork;

use super::{
    super::{Condition, Interfaces, Rule, Target, prefix},
    HEADER, Layout, half,
};

/// A rule, a policy, or the name of a chain.
pub(super) struct Entry<'a> {
    pub(super) layout: &'a Layout,
    pub(super) bytes: &'a [u8],
    pub(super) target: &'a [u8],
}

impl Entry<'_> {
    /// The name of the chain that begins behind this.
    pub(super) fn head(&self) -> Option<String> {
        let name = self.target.get(HEADER..)?.split(|byte| *byte == 0).next()?;
        (header_name(self.target)? == b"ERROR").then(|| String::from_utf8_lossy(name).into_owned())
    }

    pub(super) fn target(&self, at: usize, starts: &BTreeMap<usize, String>) -> Option<Target> {
        const ACCEPT: i32 = -2;
        const DROP: i32 = -1;
        const RETURN: i32 = -5;
        match header_name(self.target)? {
            b"REJECT" => return Some(Target::Drop),
            b"" => {}
            _ => return Some(Target::Other),
        }
        let verdict = i32::from_ne_bytes(*self.target.get(HEADER..)?.first_chunk()?);
        Some(match verdict {
            ACCEPT => Target::Accept,
            DROP => Target::Drop,
            RETURN => Target::Return,
            _ => match usize::try_from(verdict) {
                // A rule without a target leads to the next one.
                Ok(to) if to != at + self.bytes.len() => {
                    let chain = starts.get(&to)?.clone();
                    let is_goto = self.bytes.get(self.layout.flags)? & self.layout.goto != 0;
                    if is_goto { Target::Goto(chain) } else { Target::Jump(chain) }
                }
                _ => Target::Other,
            },
        })
    }

    pub(super) fn rule(&self, number: u64, at: usize, starts: &BTreeMap<usize, String>) -> Option<Rule> {
        let (layout, bytes) = (self.layout, self.bytes);
        let mut conditions = Vec::new();
        let len = layout.address_len;
        let addresses = [(0, Condition::Source as fn(IpNetwork) -> Condition), (len, Condition::Destination)];
        for (offset, condition) in addresses {
            let mask = bytes.get(offset + 2 * len..)?.get(..len)?;
            if mask.iter().any(|byte| *byte != 0) {
                let network = network(layout.family, bytes.get(offset..)?.get(..len)?, mask);
                conditions.push(network.map_or(Condition::Other, condition));
            }
        }
        let interfaces = bytes.get(layout.interfaces..)?;
        for (offset, condition) in [(0, Condition::From as fn(Interfaces) -> Condition), (16, Condition::To)]
        {
            let mask = interfaces.get(offset + 32..)?.get(..16)?;
            let len = mask.iter().take_while(|byte| **byte != 0).count();
            if len > 0 {
                let name = interfaces.get(offset..)?.get(..len)?;
                // A whole name is compared with the zero behind it.
                let is_prefix = name.last() != Some(&0);
                let name = name.strip_suffix(&[0]).unwrap_or(name).to_vec();
                conditions.push(condition(Interfaces { name, is_prefix }));
            }
        }
        // A protocol, a flag that is a condition; or it says the opposite of one of them.
        let is_narrow = half(bytes, layout.proto)? != 0
            || bytes.get(layout.flags)? & layout.conditions != 0
            || *bytes.get(layout.inverted)? != 0;
        if is_narrow {
            conditions.push(Condition::Other);
        }
        let mut matches = bytes.get(layout.matches..half(bytes, layout.target_offset)?)?;
        while !matches.is_empty() {
            let size = half(matches, 0)?.max(HEADER);
            let (name, revision) = (header_name(matches)?, u32::from(*matches.get(HEADER - 1)?));
            if name != b"comment" {
                conditions.push(states(name, revision, matches.get(HEADER..size)?));
            }
            matches = matches.get(size..)?;
        }
        Some(Rule { number, conditions, target: self.target(at, starts)? })
    }
}

/// The states that `-m conntrack --ctstate` and `-m state` ask for (`struct xt_conntrack_mtinfo3`, and 2, which begin alike).
pub(in crate::net::firewall) fn states(name: &[u8], revision: u32, info: &[u8]) -> Condition {
    const STATE: usize = 1;
    /// That it was written as `-m state`.
    const STATE_ALIAS: usize = 1 << 13;
    let fields = (half(info, 146), half(info, 148), half(info, 150));
    let (Some(wanted), Some(inverted), Some(states)) = fields else { return Condition::Other };
    if name != b"conntrack" || !matches!(revision, 2 | 3) || wanted & !STATE_ALIAS != STATE {
        return Condition::Other;
    }
    let states = u32::try_from(states).unwrap_or_default();
    Condition::States(if inverted & STATE == 0 { states } else { !states })
}

/// The name in the header of a match or a target.
fn header_name(header: &[u8]) -> Option<&[u8]> {
    header.get(2..HEADER - 1)?.split(|byte| *byte == 0).next()
}

fn network(family: Family, address: &[u8], mask: &[u8]) -> Option<IpNetwork> {
    let addr = match family {
        Family::V4 => <[u8; 4]>::try_from(address).ok()?.into(),
        Family::V6 => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    IpNetwork::new(addr, prefix(mask)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_known_however_they_are_written() {
        let info = |wanted: u16, inverted: u16, states: u16| {
            let mut info = vec![0; 146];
            info.extend([wanted, inverted, states].iter().flat_map(|field| field.to_ne_bytes()));
            info
        };
        assert_eq!(states(b"conntrack", 3, &info(1, 0, 1)), Condition::States(1));
        assert_eq!(states(b"conntrack", 2, &info(0x2001, 0, 0x41)), Condition::States(0x41));
        assert_eq!(states(b"conntrack", 3, &info(1, 1, 1)), Condition::States(!1));
        assert_eq!(states(b"conntrack", 3, &info(3, 0, 1)), Condition::Other);
        assert_eq!(states(b"conntrack", 1, &info(1, 0, 1)), Condition::Other);
        assert_eq!(states(b"connmark", 3, &info(1, 0, 1)), Condition::Other);
        assert_eq!(states(b"conntrack", 3, &[0; 100]), Condition::Other);
    }
}
