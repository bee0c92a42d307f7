//! The peers in use: those that rules of policies of local pods name.
use std::collections::BTreeMap;

use crate::{
    ids::{IdTable, PeerId},
    model::{
        policy::{NamespaceMatch, Peer},
        workload::{Namespace, Pod},
    },
    text,
};

#[derive(Clone, Debug, Default)]
pub(super) struct PeerTable {
    ids: IdTable,
    peers: BTreeMap<PeerId, Peer>,
}

impl PeerTable {
    /// The id of a peer, counting one more use, and whether it is the first one.
    pub(super) fn acquire(&mut self, peer: &Peer) -> (PeerId, bool) {
        let id = PeerId(self.ids.acquire(&text::peer(peer)));
        let first = !self.peers.contains_key(&id);
        if first {
            self.peers.insert(id, peer.clone());
        }
        (id, first)
    }

    /// Counts one use less. Returns the peer when nothing uses it any more.
    pub(super) fn release(&mut self, id: PeerId) -> Option<Peer> {
        if self.ids.release(id.0) { self.peers.remove(&id) } else { None }
    }

    /// The id of a peer that is in use.
    pub(super) fn find(&self, peer: &Peer) -> Option<PeerId> {
        self.ids.find(&text::peer(peer)).map(PeerId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().copied()
    }

    /// Which of some peers a pod of this namespace can match, by the namespace alone.
    pub(super) fn of_namespace<'a>(
        &'a self,
        ids: impl Iterator<Item = PeerId>,
        name: &str,
        namespace: Option<&Namespace>,
    ) -> Vec<(PeerId, &'a Peer)> {
        ids.filter_map(|id| self.peers.get(&id).map(|peer| (id, peer)))
            .filter(|(_, peer)| match peer {
                Peer::Pods { namespaces, .. } => namespace_matches(namespaces, name, namespace),
                Peer::IpBlock(_) => false,
            })
            .collect()
    }

    /// Whether a change of a namespace's labels changes what its pods match.
    pub(super) fn distinguish(&self, old: Option<&Namespace>, new: Option<&Namespace>) -> bool {
        let name = old.or(new).map_or("", |namespace| &namespace.name);
        self.peers.values().any(|peer| match peer {
            Peer::Pods { namespaces, .. } => {
                namespace_matches(namespaces, name, old) != namespace_matches(namespaces, name, new)
            }
            Peer::IpBlock(_) => false,
        })
    }
}

/// Which of the peers that fit a pod's namespace match its labels.
pub(super) fn matching<'a>(peers: &'a [(PeerId, &Peer)], pod: &'a Pod) -> impl Iterator<Item = PeerId> + 'a {
    peers.iter().filter_map(|(id, peer)| match peer {
        Peer::Pods { pods, .. } => pods.matches(&pod.labels).then_some(*id),
        Peer::IpBlock(_) => None,
    })
}

/// A namespace that is not known has no labels to select it by: its pods match only rules that name it.
fn namespace_matches(wanted: &NamespaceMatch, name: &str, namespace: Option<&Namespace>) -> bool {
    match wanted {
        NamespaceMatch::Named(wanted) => wanted == name,
        NamespaceMatch::Selected(selector) => namespace.is_some_and(|found| selector.matches(&found.labels)),
    }
}
