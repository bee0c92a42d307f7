//! Rules: which packets look for their way in which routing table.
use std::{io, net::IpAddr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use nix::libc::{EAFNOSUPPORT, EEXIST, ENOENT};

use super::{Netlink, ip::family, netlink::errno};

/// The packets of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    /// Those from an address.
    From(IpAddr),
    /// Those of a family that a socket sends out of an interface of its choice.
    Out { ifname: &'a str, is_ipv6: bool },
}

/// A rule of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule<'a> {
    pub(crate) subject: Subject<'a>,
    pub(crate) table: u32,
    /// Rules of a lower number come first.
    pub(crate) priority: u32,
    /// Who made it, as with routes.
    pub(crate) protocol: u8,
}

impl Netlink {
    /// Adds a rule, unless it is there.
    pub(crate) fn add_rule(&mut self, rule: Rule<'_>) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRule(message(rule));
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if errno(&error) != Some(EEXIST) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether packets from an address look into a table.
    pub(crate) fn has_rule(&mut self, from: IpAddr, table: u32) -> io::Result<bool> {
        let rules = self.rules(family(from))?;
        let is_from = |rule: &RuleMessage| rule.attributes.contains(&RuleAttribute::Source(from));
        Ok(rules.iter().any(|rule| is_from(rule) && leads_to(rule, table)))
    }

    /// Deletes the rules of a protocol that lead to a table. Deleting what is gone is success.
    pub(crate) fn delete_rules(&mut self, table: u32, protocol: u8) -> io::Result<()> {
        let maker = RuleAttribute::Protocol(RouteProtocol::from(protocol));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let rules = match self.rules(family) {
                // A kernel without the family has no rules of it.
                Err(error) if errno(&error) == Some(EAFNOSUPPORT) => continue,
                rules => rules?,
            };
            for rule in rules {
                if !leads_to(&rule, table) || !rule.attributes.contains(&maker) {
                    continue;
                }
                match self.request(RouteNetlinkMessage::DelRule(rule), 0) {
                    Err(error) if errno(&error) != Some(ENOENT) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn rules(&mut self, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let replies = self.dump(&RouteNetlinkMessage::GetRule(message))?;
        let rule = |reply| if let RouteNetlinkMessage::NewRule(rule) = reply { Some(rule) } else { None };
        Ok(replies.into_iter().filter_map(rule).collect())
    }
}

fn leads_to(rule: &RuleMessage, table: u32) -> bool {
    rule.attributes.contains(&RuleAttribute::Table(table))
}

fn message(rule: Rule<'_>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.action = RuleAction::ToTable;
    let subject = match rule.subject {
        Subject::From(address) => {
            message.header.family = family(address);
            message.header.src_len = IpNetwork::from(address).prefix();
            RuleAttribute::Source(address)
        }
        Subject::Out { ifname, is_ipv6 } => {
            message.header.family = if is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
            RuleAttribute::Oifname(ifname.to_owned())
        }
    };
    message.attributes.extend([
        subject,
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)),
    ]);
    message
}
