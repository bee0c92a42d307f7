//! Ids in the maps: 32-bit hashes of what they stand for, so that an agent that remembers nothing computes the
//! same numbers and finds the maps already right.
use std::{collections::HashMap, fmt};

use dataplane_common::policy::SET_DENY_ALL;
use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", self.0)
            }
        }
    )+};
}

ids! {
    /// A port of a Service.
    ServiceId;
    /// What a group of local pods shares: the policies of one direction.
    SetId;
    /// The selectors or the `ipBlock`s that a peer matches.
    ClassId;
    /// A rule of a policy.
    RuleId;
    /// A peer of rules: a pod selector or an `ipBlock`.
    PeerId;
}

impl SetId {
    /// Isolates and allows nothing.
    pub const DENY_ALL: Self = Self(SET_DENY_ALL);
}

/// Numbers that no hash may have: "none" everywhere, and [`SetId::DENY_ALL`].
const RESERVED: [u32; 2] = [0, SET_DENY_ALL];

/// Gives texts their ids and keeps two texts from sharing one.
///
/// A text whose hash is taken is hashed again with a salt. Then its id depends on which text came first, so after a
/// restart the two may swap: the maps are rewritten, nothing worse. With 10,000 texts the odds are 1 in 100.
#[derive(Clone, Debug)]
pub struct IdTable {
    entries: HashMap<u32, Entry>,
    /// Texts whose id is not their first hash.
    displaced: HashMap<Box<str>, u32>,
    hash: fn(&str, u32) -> u32,
}

#[derive(Clone, Debug)]
struct Entry {
    text: Box<str>,
    uses: usize,
}

impl Default for IdTable {
    fn default() -> Self {
        Self::with_hash(content_hash)
    }
}

impl IdTable {
    /// A table with another hash of text and salt.
    #[must_use]
    pub fn with_hash(hash: fn(&str, u32) -> u32) -> Self {
        Self { entries: HashMap::new(), displaced: HashMap::new(), hash }
    }

    /// The id of a text, counting one more use of it.
    pub fn acquire(&mut self, text: &str) -> u32 {
        if let Some(id) = self.find(text) {
            self.retain(id);
            return id;
        }
        let mut salt = 0;
        let id = loop {
            let id = (self.hash)(text, salt);
            if !RESERVED.contains(&id) && !self.entries.contains_key(&id) {
                break id;
            }
            salt += 1;
        };
        if salt > 0 {
            self.displaced.insert(text.into(), id);
        }
        self.entries.insert(id, Entry { text: text.into(), uses: 1 });
        id
    }

    /// The id of a text that is in use.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u32> {
        if let Some(id) = self.displaced.get(text) {
            return Some(*id);
        }
        let id = (self.hash)(text, 0);
        self.entries.get(&id).filter(|entry| &*entry.text == text).map(|_| id)
    }

    /// The text behind an id.
    #[must_use]
    pub fn text(&self, id: u32) -> Option<&str> {
        self.entries.get(&id).map(|entry| &*entry.text)
    }

    /// Counts one more use of an id.
    pub fn retain(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses += 1;
        }
    }

    /// Counts one use less; an id without uses is forgotten. Returns whether it was.
    pub fn release(&mut self, id: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.uses -= 1;
        let last = entry.uses == 0;
        if last && let Some(entry) = self.entries.remove(&id) {
            self.displaced.remove(&entry.text);
        }
        last
    }
}

/// FNV-1a over the text and the salt, with the finish of `MurmurHash3`, folded to 32 bits.
fn content_hash(text: &str, salt: u32) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes().chain(salt.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from(hash >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_the_same_id_in_every_table() {
        let (mut one, mut other) = (IdTable::default(), IdTable::default());
        other.acquire("something else");
        assert_eq!(one.acquire("default/web:http:TCP"), other.acquire("default/web:http:TCP"));
    }

    #[test]
    fn texts_whose_hashes_collide_get_different_ids() {
        let mut table = IdTable::with_hash(|_, salt| 7 + salt);
        let (first, second) = (table.acquire("a"), table.acquire("b"));
        assert_ne!(first, second);
        assert_eq!((table.acquire("a"), table.acquire("b")), (first, second));
    }

    #[test]
    fn a_displaced_text_keeps_its_id_when_the_first_one_goes() {
        let mut table = IdTable::with_hash(|_, salt| 7 + salt);
        let (first, second) = (table.acquire("a"), table.acquire("b"));
        assert!(table.release(first));
        assert_eq!(table.acquire("b"), second);
        assert_eq!(table.acquire("c"), first);
    }

    #[test]
    fn an_id_lives_until_its_last_use_is_released() {
        let mut table = IdTable::default();
        let id = table.acquire("a");
        table.acquire("a");
        assert!(!table.release(id));
        assert_eq!(table.text(id), Some("a"));
        assert!(table.release(id));
        assert_eq!(table.text(id), None);
    }

    #[test]
    fn reserved_numbers_are_never_ids() {
        let mut table = IdTable::with_hash(|_, salt| [0, u32::MAX, 5][salt as usize % 3]);
        assert_eq!(table.acquire("a"), 5);
    }
}
