//! Classes of addresses: the `ipBlock`s in use that hold an address.
//!
//! Each prefix that occurs as `cidr` or `except` gets the class of all blocks that hold it, so that the longest
//! match of an address names every block at once.
use std::{collections::BTreeMap, fmt::Write as _, mem};

use ipnetwork::IpNetwork;

use super::set::ClassView;
use crate::{
    ids::{ClassId, IdTable, PeerId},
    model::policy::IpBlock,
    state::Changed,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    in_use: BTreeMap<PeerId, IpBlock>,
    trie: BTreeMap<IpNetwork, ClassId>,
    classes: BTreeMap<ClassId, Vec<PeerId>>,
}

/// The blocks that begin and end at a prefix.
#[derive(Default)]
struct Edges {
    cidr_of: Vec<PeerId>,
    except_of: Vec<PeerId>,
}

impl Blocks {
    pub(super) fn insert(&mut self, id: PeerId, block: IpBlock) {
        self.in_use.insert(id, block);
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        self.in_use.remove(&id);
    }

    /// Computes the trie from the blocks in use.
    pub(super) fn rebuild(&mut self, ids: &mut IdTable, changed: &mut Changed) {
        let old_classes = mem::take(&mut self.classes);
        let old_trie = mem::take(&mut self.trie);
        for (prefix, blocks) in disjoint(&self.in_use) {
            let text = text(&blocks);
            // One use per class, not per prefix.
            let id = ids.find(&text).map(ClassId).filter(|id| self.classes.contains_key(id));
            let id = id.unwrap_or_else(|| ClassId(ids.acquire(&text)));
            self.classes.entry(id).or_insert(blocks);
            self.trie.insert(prefix, id);
        }
        let appeared = self.classes.keys().filter(|id| !old_classes.contains_key(id));
        changed.classes.extend(appeared);
        for id in old_classes.keys() {
            ids.release(id.0);
            if !self.classes.contains_key(id) {
                changed.classes.insert(*id);
            }
        }
        changed.cidrs |= old_trie != self.trie;
    }

    pub(super) fn trie(&self) -> &BTreeMap<IpNetwork, ClassId> {
        &self.trie
    }

    pub(super) fn view(&self, id: ClassId) -> Option<ClassView<'_>> {
        self.classes.get(&id).map(|peers| ClassView { peers, ports: None })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ClassId> {
        self.classes.keys().copied()
    }
}

fn text(blocks: &[PeerId]) -> String {
    let mut text = "blocks:".to_owned();
    for block in blocks {
        let _ = write!(text, "{block},");
    }
    text
}

/// The prefixes at which the set of holding blocks changes, and that set. A set may be empty: inside an `except`.
fn disjoint(in_use: &BTreeMap<PeerId, IpBlock>) -> Vec<(IpNetwork, Vec<PeerId>)> {
    let mut edges: BTreeMap<IpNetwork, Edges> = BTreeMap::new();
    for (id, block) in in_use {
        if block.except.iter().any(|except| holds(*except, block.cidr)) {
            continue;
        }
        edges.entry(block.cidr).or_default().cidr_of.push(*id);
        for except in &block.except {
            edges.entry(*except).or_default().except_of.push(*id);
        }
    }
    // `IpNetwork` sorts by family, address, length: an outer prefix comes before all that it holds.
    let mut result = Vec::with_capacity(edges.len());
    let mut outer: Vec<(IpNetwork, Vec<PeerId>)> = Vec::new();
    for (prefix, edges) in edges {
        while outer.pop_if(|(last, _)| !holds(*last, prefix)).is_some() {}
        let inherited = outer.last().map_or(&[] as &[PeerId], |(_, blocks)| blocks);
        let mut blocks: Vec<PeerId> = inherited.iter().chain(&edges.cidr_of).copied().collect();
        blocks.retain(|block| !edges.except_of.contains(block));
        blocks.sort_unstable();
        blocks.dedup();
        if blocks != inherited {
            result.push((prefix, blocks.clone()));
        }
        outer.push((prefix, blocks));
    }
    result
}

fn holds(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes_of(blocks: &[(&str, &[&str])]) -> Vec<(String, Vec<u32>)> {
        let in_use = blocks.iter().zip(1..).map(|((cidr, except), id)| {
            let except = except.iter().map(|except| except.parse().unwrap()).collect();
            (PeerId(id), IpBlock { cidr: cidr.parse().unwrap(), except })
        });
        let prefixes = disjoint(&in_use.collect());
        prefixes
            .into_iter()
            .map(|(prefix, ids)| (prefix.to_string(), ids.iter().map(|id| id.0).collect()))
            .collect()
    }

    #[test]
    fn a_nested_prefix_has_the_class_of_all_blocks_around_it() {
        let found = classes_of(&[("10.0.0.0/8", &[]), ("10.1.0.0/16", &[]), ("10.1.2.0/24", &[])]);
        let expected = [("10.0.0.0/8", vec![1]), ("10.1.0.0/16", vec![1, 2]), ("10.1.2.0/24", vec![1, 2, 3])];
        assert_eq!(found, expected.map(|(prefix, ids)| (prefix.to_owned(), ids)));
    }

    #[test]
    fn an_exception_has_an_empty_class_unless_another_block_holds_it() {
        let found = classes_of(&[("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]), ("10.2.3.0/24", &[])]);
        let expected = [
            ("10.0.0.0/8", vec![1]),
            ("10.1.0.0/16", vec![]),
            ("10.2.0.0/16", vec![]),
            ("10.2.3.0/24", vec![2]),
        ];
        assert_eq!(found, expected.map(|(prefix, ids)| (prefix.to_owned(), ids)));
    }

    #[test]
    fn an_exception_of_everything_leaves_nothing() {
        assert!(classes_of(&[("10.0.0.0/8", &["10.0.0.0/8"])]).is_empty());
    }

    #[test]
    fn the_families_do_not_mix() {
        let found = classes_of(&[("0.0.0.0/0", &[]), ("::/0", &["fd00::/8"])]);
        let expected = [("0.0.0.0/0", vec![1]), ("::/0", vec![2]), ("fd00::/8", vec![])];
        assert_eq!(found, expected.map(|(prefix, ids)| (prefix.to_owned(), ids)));
    }
}
