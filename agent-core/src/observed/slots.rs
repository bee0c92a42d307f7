//! Backend slots: their contents and which of them are free.
use super::Ranges;
use crate::entry::Backend;

#[derive(Clone, Debug)]
pub(crate) struct Slots {
    contents: Vec<Option<Backend>>,
    size: u32,
    pub(crate) ranges: Ranges,
}

impl Slots {
    pub(super) fn new(size: u32) -> Self {
        Self { contents: Vec::new(), size, ranges: Ranges::new(size) }
    }

    /// Follows a write. A slot that was never written reads as the unspecified address.
    pub(super) fn set(&mut self, slot: u32, backend: Backend) {
        if slot >= self.size || backend.addr.is_unspecified() {
            return;
        }
        let index = slot as usize;
        if index >= self.contents.len() {
            self.contents.resize(index + 1, None);
        }
        self.contents[index] = Some(backend);
    }

    /// Slots that belong to frontends or did so a moment ago.
    pub(super) fn used(&self) -> usize {
        (self.size - self.ranges.available()) as usize
    }

    pub(crate) fn get(&self, slot: u32) -> Option<Backend> {
        self.contents.get(slot as usize).copied().flatten()
    }

    /// Whether a range holds exactly these backends.
    pub(crate) fn hold<'a>(&self, start: u32, backends: impl IntoIterator<Item = &'a Backend>) -> bool {
        (start..).zip(backends).all(|(slot, backend)| self.get(slot) == Some(*backend))
    }
}
