//! Classes of pods: the selectors in use that a pod matches, and its named ports in use.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use super::{ports::ResolvedPorts, set::ClassView};
use crate::{
    ids::{ClassId, IdTable, PeerId},
    model::ObjectName,
    state::Changed,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    classes: HashMap<ClassId, Class>,
    /// Pods that match something.
    assigned: BTreeMap<Arc<ObjectName>, ClassId>,
}

#[derive(Clone, Debug)]
struct Class {
    signature: Signature,
    pods: BTreeSet<Arc<ObjectName>>,
}

/// What a class stands for. A pod that matches nothing has no class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signature {
    /// In ascending order.
    pub(super) peers: Vec<PeerId>,
    pub(super) ports: ResolvedPorts,
}

impl Signature {
    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.ports.is_empty()
    }

    fn text(&self) -> String {
        let mut text = "pods:".to_owned();
        for peer in &self.peers {
            let _ = write!(text, "{peer},");
        }
        for ((name, protocol), numbers) in &self.ports {
            let _ = write!(text, ";{name:?}/{protocol}={numbers:?}");
        }
        text
    }
}

impl Classes {
    /// Gives a pod its class. Returns whether it has another one now.
    pub(super) fn assign(
        &mut self,
        name: &Arc<ObjectName>,
        signature: Signature,
        ids: &mut IdTable,
        changed: &mut Changed,
    ) -> bool {
        let old = self.assigned.get(name).copied();
        let new = (!signature.is_empty()).then(|| ClassId(ids.acquire(&signature.text())));
        if new == old {
            if let Some(id) = new {
                ids.release(id.0);
            }
            return false;
        }
        if let Some(id) = new {
            let class = self.classes.entry(id).or_insert_with(|| {
                changed.classes.insert(id);
                Class { signature, pods: BTreeSet::new() }
            });
            class.pods.insert(Arc::clone(name));
            self.assigned.insert(Arc::clone(name), id);
        } else {
            self.assigned.remove(name);
        }
        if let Some(id) = old {
            ids.release(id.0);
            if let Some(class) = self.classes.get_mut(&id) {
                class.pods.remove(name);
                if class.pods.is_empty() {
                    self.classes.remove(&id);
                    changed.classes.insert(id);
                }
            }
        }
        true
    }

    pub(super) fn class_of(&self, pod: &ObjectName) -> Option<ClassId> {
        self.assigned.get(pod).copied()
    }

    /// What the pod's class stands for; nothing when it has none.
    pub(super) fn signature_of(&self, pod: &ObjectName) -> Signature {
        let class = self.assigned.get(pod).and_then(|id| self.classes.get(id));
        class.map(|class| class.signature.clone()).unwrap_or_default()
    }

    /// The pods whose class names one of these peers.
    pub(super) fn pods_matching(&self, peers: &BTreeSet<PeerId>) -> Vec<Arc<ObjectName>> {
        let names_one = |class: &&Class| class.signature.peers.iter().any(|peer| peers.contains(peer));
        self.classes.values().filter(names_one).flat_map(|class| class.pods.iter().map(Arc::clone)).collect()
    }

    pub(super) fn view(&self, id: ClassId) -> Option<ClassView<'_>> {
        let Signature { peers, ports } = &self.classes.get(&id)?.signature;
        Some(ClassView { peers, ports: Some(ports) })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ClassId> {
        self.classes.keys().copied()
    }
}
