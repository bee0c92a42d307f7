//! Tables of nftables, by nfnetlink.
mod attribute;
mod rule;

use std::{collections::BTreeMap, io, ops::ControlFlow, sync::Arc};

use agent_core::model::Family;

use self::attribute::{Attributes, attribute, text};
use super::{Base, Hook, MOST_KEPT, MOST_READ, Rule, Table, Tables, Target, Tool};
use crate::net::raw::{NLM_F_ACK, NLM_F_DUMP, RawSocket};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_ELEMENTS: u16 = SUBSYSTEM | 0xd;
const GET_GENERATION: u16 = SUBSYSTEM | 0x10;

/// Families of tables.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// As many base chains are looked at, and as many chains of a table are read.
const MOST_CHAINS: usize = 1_000;

/// As many sets of states are read. There are no more states than this, either.
const MOST_SETS: usize = 100;

/// The number that every change of the rules raises. `None`: the kernel has no nftables.
pub(super) fn generation() -> io::Result<Option<u32>> {
    let read = || -> io::Result<Option<u32>> {
        let mut socket = RawSocket::open(NETLINK_NETFILTER)?;
        let replies = socket.exchange(GET_GENERATION, NLM_F_ACK, &header(0))?;
        Ok(replies.first().and_then(|reply| body(reply).number(1)))
    };
    match read() {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(None)
        }
        generation => generation,
    }
}

/// The tables that have a base chain on a hook that matters.
pub(super) fn tables() -> io::Result<Tables> {
    let mut dormant = Vec::new();
    list(GET_TABLE, &header(0), |reply| {
        // `NFT_TABLE_F_DORMANT`: its chains meet no packet.
        if body(reply).number(2).is_some_and(|flags| flags & 1 != 0) {
            dormant.extend(place(reply));
        }
        ControlFlow::Continue(())
    })?;
    let mut tables: BTreeMap<Place, Table> = BTreeMap::new();
    let mut bases = 0;
    list(GET_CHAIN, &header(0), |reply| {
        if let Some((place, base)) = base(reply)
            && !dormant.contains(&place)
        {
            bases += 1;
            tables.entry(place).or_insert_with_key(|place| table(place, &base)).bases.push(base);
        }
        if bases < MOST_CHAINS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mut found = Tables::default();
    let mut reading = Reading { left: MOST_READ, kept: 0, sets: 0 };
    for (place, mut table) in tables {
        if reading.chains(&place, &mut table)? {
            found.tables.push(Arc::new(table));
        } else {
            found.unread.push(table.name);
        }
    }
    Ok(found)
}

fn list(kind: u16, request: &[u8], each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    RawSocket::open(NETLINK_NETFILTER)?.visit(kind, NLM_F_DUMP, request, each)
}

/// How much may still be read.
struct Reading {
    left: usize,
    kept: usize,
    sets: usize,
}

impl Reading {
    /// Reads the base chains of a table and what they lead to. Returns whether that is all of it.
    fn chains(&mut self, place: &Place, table: &mut Table) -> io::Result<bool> {
        let mut names: Vec<String> = table.bases.iter().map(|base| base.chain.clone()).collect();
        while let Some(name) = names.pop() {
            if table.chains.contains_key(&name) {
                continue;
            }
            let Some(rules) = self.rules(place, table.tool, &name)? else { return Ok(false) };
            for rule in &rules {
                if let Target::Jump(to) | Target::Goto(to) = &rule.target {
                    names.push(to.clone());
                }
            }
            table.chains.insert(name, rules);
            if table.chains.len() > MOST_CHAINS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rules of a chain that matter. `None`: there are too many.
    fn rules(&mut self, place: &Place, tool: Tool, chain: &str) -> io::Result<Option<Vec<Rule>>> {
        let name = [chain.as_bytes(), &[0]].concat();
        let request = [header(place.family), attribute(1, &place.table), attribute(2, &name)].concat();
        let mut rules = Vec::new();
        let mut number = 0;
        let mut is_whole = true;
        list(GET_RULE, &request, |reply| {
            let attributes = body(reply);
            // A kernel that does not know the filter lists the rules of all chains.
            let is_there = self::place(reply).as_ref() == Some(place) && attributes.get(2) == Some(&name);
            number += u64::from(is_there);
            let number = if tool == Tool::Iptables { number } else { handle(attributes) };
            if is_there
                && let Some((rule, lookup)) = rule::read(attributes, number)
                && (lookup.is_some() || rule.matters())
            {
                rules.push((rule, lookup));
                self.kept += 1;
            }
            is_whole = self.left > 0 && self.kept <= MOST_KEPT;
            self.left = self.left.saturating_sub(1);
            if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !is_whole {
            return Ok(None);
        }
        let mut read = Vec::new();
        for (rule, lookup) in rules {
            let Some(lookup) = lookup else {
                read.push(rule);
                continue;
            };
            self.sets += 1;
            if self.sets > MOST_SETS {
                return Ok(None);
            }
            let rules = lookup.rules(&rule, &elements(place, &lookup.set)?);
            read.extend(rules.into_iter().filter(Rule::matters));
        }
        Ok(Some(read))
    }
}

fn elements(place: &Place, set: &[u8]) -> io::Result<Vec<(u32, Target)>> {
    let request = [header(place.family), attribute(1, &place.table), attribute(2, set)].concat();
    let mut elements = Vec::new();
    list(GET_ELEMENTS, &request, |reply| {
        elements.extend(rule::elements(body(reply)));
        if elements.len() < MOST_SETS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(elements)
}

/// Where a chain is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: u8,
    /// With the zero behind it.
    table: Vec<u8>,
}

/// `struct nfgenmsg`.
fn header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

fn body(message: &[u8]) -> Attributes<'_> {
    Attributes(message.get(4..).unwrap_or_default())
}

/// Where the table, or what is in it, is.
fn place(reply: &[u8]) -> Option<Place> {
    Some(Place { family: *reply.first()?, table: body(reply).get(1)?.to_vec() })
}

fn handle(rule: Attributes<'_>) -> u64 {
    rule.get(3).and_then(|value| value.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn families(family: u8) -> Vec<Family> {
    match family {
        INET => vec![Family::V4, Family::V6],
        IPV4 => vec![Family::V4],
        IPV6 => vec![Family::V6],
        _ => Vec::new(),
    }
}

/// A base chain on one of the hooks.
fn base(reply: &[u8]) -> Option<(Place, Base)> {
    const DROP: u32 = 0;
    let place = place(reply)?;
    let chain = body(reply);
    let hook = match chain.nested(4)?.number(1)? {
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        _ => return None,
    };
    if families(place.family).is_empty() {
        return None;
    }
    let policy_drops = chain.number(5) == Some(DROP);
    Some((place, Base { hook, chain: text(chain.get(3)?), policy_drops }))
}

/// A table, still without its chains. What `iptables-nft` makes is told by the names.
fn table(place: &Place, base: &Base) -> Table {
    let name = text(&place.table);
    let is_iptables = place.family != INET
        && name == "filter"
        && matches!(base.chain.as_str(), "INPUT" | "FORWARD" | "OUTPUT");
    let (tool, name) = match (is_iptables, place.family) {
        (true, IPV4) => (Tool::Iptables, "iptables".to_owned()),
        (true, _) => (Tool::Iptables, "ip6tables".to_owned()),
        (false, INET) => (Tool::Nft, format!("the nftables table inet {name}")),
        (false, IPV4) => (Tool::Nft, format!("the nftables table ip {name}")),
        (false, _) => (Tool::Nft, format!("the nftables table ip6 {name}")),
    };
    Table { name, tool, families: families(place.family), ..Table::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::firewall::random;

    #[test]
    fn what_the_kernel_never_says_is_no_crash() {
        let valid = [
            header(INET),
            attribute(1, b"mine\0"),
            attribute(2, b"chain\0"),
            attribute(3, b"chain\0"),
            attribute(4, &[attribute(1, &2_u32.to_be_bytes()), attribute(2, &0_u32.to_be_bytes())].concat()),
            attribute(5, &0_u32.to_be_bytes()),
        ]
        .concat();
        assert!(base(&valid).is_some_and(|(_, base)| base.policy_drops));
        random::damaged(&valid, |message| {
            let _base = base(message);
            let _place = place(message);
            let _handle = handle(body(message));
        });
    }
}
