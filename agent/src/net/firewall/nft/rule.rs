//! Rules, which are lists of expressions: some load what another compares, some say what becomes of the packet.
use std::net::Ipv6Addr;

use ipnetwork::IpNetwork;

use super::{
    super::{Condition, Interfaces, Rule, Target, legacy, prefix},
    attribute::{Attributes, text},
    families,
};

/// Reads what a rule asks of a packet and does with it. `None`: only of some packets.
pub(super) fn read(rule: Attributes<'_>, number: u64) -> Option<(Rule, Option<Lookup>)> {
    let mut reader = Reader::default();
    for (_, expression) in rule.nested(4).unwrap_or_default().iter() {
        let expression = Attributes(expression);
        reader.take(expression.name(1), expression.nested(2).unwrap_or_default());
        if reader.is_over {
            return None;
        }
    }
    Some((Rule { number, conditions: reader.conditions, target: reader.target }, reader.lookup))
}

/// States that a rule looks up in a set, or in a map of what becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    /// With the zero behind its name.
    pub(super) set: Vec<u8>,
    is_map: bool,
    is_inverted: bool,
}

impl Lookup {
    /// The rules that say the same, given what is in the set.
    pub(super) fn rules(&self, rule: &Rule, elements: &[(u32, Target)]) -> Vec<Rule> {
        let with = |states, target: &Target| {
            let mut conditions = rule.conditions.clone();
            conditions.push(Condition::States(states));
            Rule { number: rule.number, conditions, target: target.clone() }
        };
        if self.is_map {
            return elements.iter().map(|(state, target)| with(*state, target)).collect();
        }
        let states = elements.iter().fold(0, |states, (state, _)| states | state);
        vec![with(if self.is_inverted { !states } else { states }, &rule.target)]
    }
}

/// What a set of states has, and where each leads.
pub(super) fn elements(message: Attributes<'_>) -> Vec<(u32, Target)> {
    let element = |(_, element)| {
        let element = Attributes(element);
        let state = element.nested(1)?.get(1)?.first_chunk()?;
        let target = element.nested(2).and_then(|data| data.nested(2)).map_or(Target::Other, verdict);
        Some((u32::from_ne_bytes(*state), target))
    };
    message.nested(3).unwrap_or_default().iter().filter_map(element).collect()
}

/// What was loaded to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    From,
    To,
    /// An address; with whether it is of IPv6.
    Source(bool),
    Destination(bool),
    NetworkProtocol,
    CtState,
    Other,
}

/// Reads expressions one after the other.
struct Reader {
    loaded: Loaded,
    /// Where it was loaded to.
    register: Option<u32>,
    mask: Option<Vec<u8>>,
    conditions: Vec<Condition>,
    target: Target,
    lookup: Option<Lookup>,
    /// A rule of which more need not be known.
    is_over: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            loaded: Loaded::Other,
            register: None,
            mask: None,
            conditions: Vec::new(),
            target: Target::Other,
            lookup: None,
            is_over: false,
        }
    }
}

impl Reader {
    fn take(&mut self, name: &[u8], data: Attributes<'_>) {
        match name {
            b"meta" => {
                let loaded = match data.number(2) {
                    Some(6) => Loaded::From,
                    Some(7) => Loaded::To,
                    Some(15) => Loaded::NetworkProtocol,
                    _ => Loaded::Other,
                };
                self.load(loaded, data.number(1));
            }
            b"payload" => {
                const NETWORK_HEADER: u32 = 1;
                let at = (data.number(2) == Some(NETWORK_HEADER)).then(|| data.number(3)).flatten();
                let loaded = match at {
                    Some(12) => Loaded::Source(false),
                    Some(16) => Loaded::Destination(false),
                    Some(8) => Loaded::Source(true),
                    Some(24) => Loaded::Destination(true),
                    _ => Loaded::Other,
                };
                self.load(loaded, data.number(1));
            }
            b"ct" => {
                let loaded = if data.number(2) == Some(0) { Loaded::CtState } else { Loaded::Other };
                self.load(loaded, data.number(1));
            }
            b"bitwise" => self.mask(data),
            b"cmp" => {
                let condition = self.compare(data);
                self.push(condition.unwrap_or(Condition::Other));
            }
            b"lookup" => self.look_up(data),
            b"immediate" => {
                if let Some(target) = data.nested(2).and_then(|data| data.nested(2)).map(verdict) {
                    self.target = target;
                }
            }
            b"reject" => self.target = Target::Drop,
            b"match" if data.name(1) == b"comment" => {}
            b"match" => {
                let info = data.get(3).unwrap_or_default();
                self.push(legacy::states(data.name(1), data.number(2).unwrap_or_default(), info));
            }
            b"target" if data.name(1) == b"REJECT" => self.target = Target::Drop,
            // A counter with a name.
            b"objref" if data.number(1) == Some(1) => {}
            b"target" | b"counter" | b"log" | b"notrack" | b"last" => {}
            // Limits, sets, quotas: each is a condition.
            _ => self.push(Condition::Other),
        }
    }

    fn push(&mut self, condition: Condition) {
        self.is_over |= condition == Condition::Other;
        self.conditions.push(condition);
    }

    fn load(&mut self, loaded: Loaded, register: Option<u32>) {
        (self.loaded, self.register, self.mask) = (loaded, register, None);
    }

    /// `NFTA_BITWISE_*`: only a mask is understood, and only one.
    fn mask(&mut self, data: Attributes<'_>) {
        let is_mask = data.number(6).is_none_or(|operation| operation == 0)
            && data.nested(5).and_then(|xor| xor.get(1)).is_some_and(|xor| xor.iter().all(|byte| *byte == 0))
            && data.number(1) == self.register
            && self.mask.is_none();
        match data.nested(4).and_then(|mask| mask.get(1)) {
            Some(mask) if is_mask => (self.register, self.mask) = (data.number(2), Some(mask.to_vec())),
            Some(_) | None => self.load(Loaded::Other, data.number(2)),
        }
    }

    /// Of sets, only those of states are read.
    fn look_up(&mut self, data: Attributes<'_>) {
        const VERDICT: u32 = 0;
        const INVERTED: u32 = 1;
        let is_read = self.loaded == Loaded::CtState
            && self.mask.is_none()
            && data.number(2) == self.register
            && data.number(3).is_none_or(|register| register == VERDICT)
            && self.lookup.is_none();
        match data.get(1) {
            Some(set) if is_read => {
                let is_inverted = data.number(5).is_some_and(|flags| flags & INVERTED != 0);
                self.lookup =
                    Some(Lookup { set: set.to_vec(), is_map: data.number(3).is_some(), is_inverted });
            }
            Some(_) | None => self.push(Condition::Other),
        }
    }

    fn compare(&self, data: Attributes<'_>) -> Option<Condition> {
        const EQUAL: u32 = 0;
        const NOT_EQUAL: u32 = 1;
        let (register, is_equal) = (data.number(1), data.number(2)? == EQUAL);
        if register != self.register || !(is_equal || data.number(2) == Some(NOT_EQUAL)) {
            return None;
        }
        let value = data.nested(3)?.get(1)?;
        let mask = self.mask.as_deref();
        if self.loaded == Loaded::CtState {
            return states(is_equal, value, mask);
        }
        if !is_equal {
            return None;
        }
        match self.loaded {
            Loaded::From if mask.is_none() => Some(Condition::From(interfaces(value))),
            Loaded::To if mask.is_none() => Some(Condition::To(interfaces(value))),
            Loaded::NetworkProtocol if mask.is_none() => {
                families(*value.first()?).first().copied().map(Condition::Family)
            }
            Loaded::Source(v6) => network(v6, value, mask).map(Condition::Source),
            Loaded::Destination(v6) => network(v6, value, mask).map(Condition::Destination),
            Loaded::From | Loaded::To | Loaded::NetworkProtocol | Loaded::CtState | Loaded::Other => None,
        }
    }
}

/// The state is one bit, in the byte order of this machine.
fn states(is_equal: bool, value: &[u8], mask: Option<&[u8]>) -> Option<Condition> {
    let bits = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let (value, mask) = (bits(value)?, mask.map(bits));
    let states = match mask {
        // Whether it is among those of the mask.
        Some(mask) if value == 0 => {
            if is_equal {
                !mask?
            } else {
                mask?
            }
        }
        Some(_) => return None,
        None if is_equal => value,
        None => !value,
    };
    Some(Condition::States(states))
}

/// A whole name ends with a zero, or has all its bytes; a prefix does not.
fn interfaces(value: &[u8]) -> Interfaces {
    let name: Vec<u8> = value.iter().copied().take_while(|byte| *byte != 0).collect();
    Interfaces { is_prefix: name.len() == value.len(), name }
}

/// The first bytes of an address, of which those of the mask count.
fn network(v6: bool, value: &[u8], mask: Option<&[u8]>) -> Option<IpNetwork> {
    let bits = match mask {
        Some(mask) if mask.len() == value.len() => prefix(mask)?,
        Some(_) => return None,
        None => u8::try_from(value.len() * 8).ok()?,
    };
    let mut bytes = [0; 16];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    let [a, b, c, d, ..] = bytes;
    let addr = if v6 { Ipv6Addr::from(bytes).into() } else { [a, b, c, d].into() };
    IpNetwork::new(addr, bits).ok()
}

fn verdict(verdict: Attributes<'_>) -> Target {
    const DROP: i32 = 0;
    const ACCEPT: i32 = 1;
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    const RETURN: i32 = -5;
    let chain = || verdict.get(2).map(text);
    match verdict.number(1).map(u32::cast_signed) {
        Some(ACCEPT) => Target::Accept,
        Some(DROP) => Target::Drop,
        Some(RETURN) => Target::Return,
        Some(JUMP) => chain().map_or(Target::Other, Target::Jump),
        Some(GOTO) => chain().map_or(Target::Other, Target::Goto),
        _ => Target::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::attribute::attribute, *};
    use crate::net::firewall::random;

    fn expression(name: &[u8], data: &[Vec<u8>]) -> Vec<u8> {
        attribute(1, &[attribute(1, name), attribute(2, &data.concat())].concat())
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_be_bytes())
    }

    fn data(kind: u16, value: &[u8]) -> Vec<u8> {
        attribute(kind, &attribute(1, value))
    }

    fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
        attribute(4, &expressions.concat())
    }

    fn drop_verdict() -> Vec<u8> {
        let verdict = attribute(2, &number(1, 0));
        expression(b"immediate\0", &[number(1, 0), attribute(2, &verdict)])
    }

    fn state(mask_register: u32) -> Vec<u8> {
        rule(&[
            expression(b"ct\0", &[number(1, 1), number(2, 0)]),
            expression(
                b"bitwise\0",
                &[
                    number(1, mask_register),
                    number(2, 1),
                    data(4, &1_u32.to_ne_bytes()),
                    data(5, &0_u32.to_ne_bytes()),
                ],
            ),
            expression(b"cmp\0", &[number(1, 1), number(2, 1), data(3, &0_u32.to_ne_bytes())]),
            drop_verdict(),
        ])
    }

    #[test]
    fn what_is_compared_is_what_was_loaded() {
        let expected = Rule { number: 1, conditions: vec![Condition::States(1)], target: Target::Drop };
        assert_eq!(read(Attributes(&state(1)), 1), Some((expected, None)));
        assert_eq!(read(Attributes(&state(2)), 1), None, "a mask of another register");
    }

    #[test]
    fn a_mask_with_holes_is_no_network() {
        let mask = |mask: [u8; 4]| network(false, &[10, 0, 1, 0], Some(&mask));
        assert_eq!(mask([255, 255, 128, 0]), Some("10.0.1.0/17".parse().unwrap()));
        assert_eq!(mask([255, 0, 255, 0]), None);
        assert_eq!(network(false, &[10, 0], None), Some("10.0.0.0/16".parse().unwrap()));
        assert_eq!(network(false, &[0; 8], None), None, "both addresses at once");
        assert_eq!(network(true, &[0; 32], None), None);
    }

    #[test]
    fn expressions_that_the_kernel_never_makes_are_no_crash() {
        random::damaged(&state(1), |rule| {
            let _rule = read(Attributes(rule), 1);
        });
        let verdict = attribute(2, &attribute(2, &number(1, 1)));
        let element = attribute(1, &[data(1, &2_u32.to_ne_bytes()), verdict].concat());
        let set = attribute(3, &[element.clone(), element].concat());
        assert_eq!(elements(Attributes(&set)), vec![(2, Target::Accept); 2]);
        random::damaged(&set, |set| {
            let _elements = elements(Attributes(set));
        });
    }
}
