//! Tables of `iptables-legacy`, by `getsockopt`.
mod entry;

use std::{collections::BTreeMap, fs, io, net::UdpSocket, os::fd::AsRawFd as _, sync::Arc};

use agent_core::model::Family;

use self::entry::Entry;
pub(super) use self::entry::states;
use super::{Base, Hook, MOST_KEPT, Rule, Table, Tables, Target, Tool};

const TABLE: &str = "filter";
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, which IPv6 shares.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// Length of a table's name.
const NAME_LEN: usize = 32;
/// `struct ipt_getinfo`: behind the name and the hooks that are there, for each of five hooks where its chain begins, and
/// where its policy is; then the number of entries and their size.
const INFO_LEN: usize = 84;
const BEGIN: usize = 36;
const POLICY: usize = 56;
const SIZE: usize = 80;
/// What is before the entries of `struct ipt_get_entries`.
const ENTRIES_OFFSET: usize = 40;
/// What is before the data of a match or a target: a size, a name, a revision.
const HEADER: usize = 32;
const HOOKS: [(Hook, usize, &str); 3] =
    [(Hook::Input, 1, "INPUT"), (Hook::Forward, 2, "FORWARD"), (Hook::Output, 3, "OUTPUT")];

/// A larger table is not read: some 30,000 rules.
const MOST_BYTES: usize = 8 << 20;

/// Where the fields of an entry are.
struct Layout {
    family: Family,
    level: libc::c_int,
    address_len: usize,
    /// Names and masks of both interfaces, 16 bytes each.
    interfaces: usize,
    /// The protocol, two bytes.
    proto: usize,
    flags: usize,
    /// The flag of a jump that does not come back.
    goto: u8,
    /// The flags that are conditions of their own: fragments, the type of service.
    conditions: u8,
    /// What is inverted.
    inverted: usize,
    target_offset: usize,
    matches: usize,
}

/// `struct ipt_entry`.
const V4: Layout = Layout {
    family: Family::V4,
    level: libc::SOL_IP,
    address_len: 4,
    interfaces: 16,
    proto: 80,
    flags: 82,
    goto: 2,
    conditions: 1,
    inverted: 83,
    target_offset: 88,
    matches: 112,
};

/// `struct ip6t_entry`.
const V6: Layout = Layout {
    family: Family::V6,
    level: libc::SOL_IPV6,
    address_len: 16,
    interfaces: 64,
    proto: 128,
    flags: 131,
    goto: 4,
    conditions: 2,
    inverted: 132,
    target_offset: 140,
    matches: 168,
};

/// Adds the tables that there are.
pub(super) fn add_tables(found: &mut Tables) -> io::Result<()> {
    for (layout, names, bind, program) in [
        (&V4, "/proc/thread-self/net/ip_tables_names", "0.0.0.0:0", "iptables-legacy"),
        (&V6, "/proc/thread-self/net/ip6_tables_names", "[::]:0", "ip6tables-legacy"),
    ] {
        // To ask for a table makes it: only those that are there are asked for. No such file: no such tables.
        let is_there = fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == TABLE));
        if !is_there {
            continue;
        }
        let entries = Entries::read(&UdpSocket::bind(bind)?, layout)?;
        let chains = entries.as_ref().map(|entries| entries.chains().ok_or(io::ErrorKind::InvalidData));
        match (entries.as_ref(), chains.transpose()?) {
            (Some(entries), Some(chains)) if chains.values().map(Vec::len).sum::<usize>() <= MOST_KEPT => {
                let bases = entries.bases().ok_or(io::ErrorKind::InvalidData)?;
                found.tables.push(Arc::new(Table {
                    name: program.to_owned(),
                    tool: Tool::Iptables,
                    families: vec![layout.family],
                    bases,
                    chains,
                }));
            }
            _ => found.unread.push(program.to_owned()),
        }
    }
    Ok(())
}

/// A table as the kernel gives it.
struct Entries<'a> {
    layout: &'a Layout,
    info: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'a> Entries<'a> {
    /// `None`: it is too large.
    fn read(socket: &UdpSocket, layout: &'a Layout) -> io::Result<Option<Self>> {
        let mut info = vec![0; INFO_LEN];
        name(&mut info);
        get(socket, layout.level, GET_INFO, &mut info)?;
        let size = word(&info, SIZE).ok_or(io::ErrorKind::InvalidData)?;
        if size > MOST_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; ENTRIES_OFFSET + size];
        name(&mut bytes);
        let wanted = u32::try_from(size).map_err(io::Error::other)?;
        bytes[NAME_LEN..NAME_LEN + 4].copy_from_slice(&wanted.to_ne_bytes());
        // Refused if the table has another size by now: it is looked at again.
        get(socket, layout.level, GET_ENTRIES, &mut bytes).map_err(|error| {
            if error.raw_os_error() == Some(libc::EAGAIN) { io::ErrorKind::Interrupted.into() } else { error }
        })?;
        bytes.drain(..ENTRIES_OFFSET);
        Ok(Some(Self { layout, info, bytes }))
    }

    fn entry(&self, at: usize) -> Option<Entry<'_>> {
        let size = half(self.bytes.get(at..)?, self.layout.target_offset + 2)?;
        let bytes = self.bytes.get(at..at + size).filter(|bytes| bytes.len() >= self.layout.matches)?;
        let target = bytes.get(half(bytes, self.layout.target_offset)?..)?;
        Some(Entry { layout: self.layout, bytes, target })
    }

    /// Where each entry is.
    fn places(&self) -> impl Iterator<Item = (usize, Entry<'_>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = (at, self.entry(at)?);
            at += found.1.bytes.len();
            Some(found)
        })
    }

    fn bases(&self) -> Option<Vec<Base>> {
        let base = |(hook, number, name): (Hook, usize, &str)| {
            let policy = self.entry(word(&self.info, POLICY + 4 * number)?)?;
            let policy_drops = policy.target(0, &BTreeMap::new())? == Target::Drop;
            Some(Base { hook, chain: name.to_owned(), policy_drops })
        };
        HOOKS.into_iter().map(base).collect()
    }

    /// The rules that matter, by chain. A chain begins where a hook does, or behind an entry with its name, and ends where
    /// another begins.
    fn chains(&self) -> Option<BTreeMap<String, Vec<Rule>>> {
        let mut starts = BTreeMap::new();
        let mut policies = Vec::new();
        for (at, entry) in self.places() {
            if let Some(name) = entry.head() {
                starts.insert(at + entry.bytes.len(), name);
            }
        }
        for (_, number, name) in HOOKS {
            starts.insert(word(&self.info, BEGIN + 4 * number)?, name.to_owned());
            policies.push(word(&self.info, POLICY + 4 * number)?);
        }
        let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        let (mut rules, mut number): (Option<&mut Vec<Rule>>, u64) = (None, 0);
        for (at, entry) in self.places() {
            if let Some(name) = starts.get(&at) {
                (rules, number) = (Some(chains.entry(name.clone()).or_default()), 0);
            }
            number += 1;
            if entry.head().is_some() || policies.contains(&at) {
                rules = None;
            }
            if let Some(rules) = &mut rules {
                rules.extend(entry.rule(number, at, &starts).filter(Rule::matters));
            }
        }
        Some(chains)
    }
}

fn name(buffer: &mut [u8]) {
    buffer[..TABLE.len()].copy_from_slice(TABLE.as_bytes());
}

fn get(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes to `buffer`, which has as many.
    let code = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut len)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn word(bytes: &[u8], offset: usize) -> Option<usize> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    usize::try_from(u32::from_ne_bytes(*bytes)).ok()
}

fn half(bytes: &[u8], offset: usize) -> Option<usize> {
    bytes.get(offset..)?.first_chunk().map(|bytes| usize::from(u16::from_ne_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::firewall::random;

    /// An entry with a target of this name and verdict.
    fn entry(layout: &Layout, name: &[u8], verdict: i32) -> Vec<u8> {
        let mut bytes = vec![0; layout.matches];
        let mut target = vec![0; HEADER];
        target[2..2 + name.len()].copy_from_slice(name);
        target.extend(verdict.to_ne_bytes());
        target.extend([0; 4]);
        let half = |len: usize| u16::try_from(len).unwrap().to_ne_bytes();
        let len = half(target.len());
        target[..2].copy_from_slice(&len);
        bytes[layout.target_offset..][..2].copy_from_slice(&half(layout.matches));
        bytes[layout.target_offset + 2..][..2].copy_from_slice(&half(layout.matches + target.len()));
        bytes.extend(target);
        bytes
    }

    /// A table in which each hook has a rule and a policy, and a chain of its own is at the end.
    fn table(layout: &Layout) -> (Vec<u8>, Vec<u8>) {
        let name = i32::from_ne_bytes(*b"MINE");
        let len = entry(layout, b"", 0).len();
        let chain = i32::try_from(7 * len).unwrap();
        let bytes = [
            entry(layout, b"", chain),
            entry(layout, b"", -2),
            entry(layout, b"", chain),
            entry(layout, b"", -1),
            entry(layout, b"REJECT", 0),
            entry(layout, b"", -2),
            entry(layout, b"ERROR", name),
            entry(layout, b"", -2),
            entry(layout, b"", -5),
            entry(layout, b"ERROR", 0),
        ]
        .concat();
        let mut info = vec![0; INFO_LEN];
        for (_, hook, _) in HOOKS {
            let at = |entry: usize| u32::try_from(entry * len).unwrap().to_ne_bytes();
            info[BEGIN + 4 * hook..][..4].copy_from_slice(&at(2 * (hook - 1)));
            info[POLICY + 4 * hook..][..4].copy_from_slice(&at(2 * (hook - 1) + 1));
        }
        (info, bytes)
    }

    #[test]
    fn chains_end_at_their_policy_or_where_another_begins() {
        for layout in [&V4, &V6] {
            let (info, bytes) = table(layout);
            let entries = Entries { layout, info, bytes };
            let drops: Vec<bool> = entries.bases().unwrap().iter().map(|base| base.policy_drops).collect();
            assert_eq!(drops, [false, true, false]);
            let chains = entries.chains().unwrap();
            let of =
                |name: &str| -> Vec<Target> { chains[name].iter().map(|rule| rule.target.clone()).collect() };
            assert_eq!(of("INPUT"), [Target::Jump("MINE".to_owned())]);
            assert_eq!(of("FORWARD"), [Target::Jump("MINE".to_owned())]);
            assert_eq!(of("OUTPUT"), [Target::Drop]);
            assert_eq!(of("MINE"), [Target::Accept, Target::Return]);
        }
    }

    #[test]
    fn tables_that_the_kernel_never_makes_are_no_crash() {
        for layout in [&V4, &V6] {
            let (info, valid) = table(layout);
            random::damaged(&valid, |bytes| {
                let entries = Entries { layout, info: info.clone(), bytes: bytes.to_vec() };
                let _read = (entries.bases(), entries.chains());
            });
            random::damaged(&info, |info| {
                let entries = Entries { layout, info: info.to_vec(), bytes: valid.clone() };
                let _read = (entries.bases(), entries.chains());
            });
        }
    }
}
