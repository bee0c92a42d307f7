//! Attributes of netlink messages.

/// Attributes, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Each with its number, up to one that cannot be.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let (&[a, b, c, d], rest) = bytes.split_first_chunk()?;
            let length = usize::from(u16::from_ne_bytes([a, b])).checked_sub(4)?;
            let value = rest.get(..length)?;
            bytes = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            // Without the flags of nesting and byte order.
            Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
        })
    }

    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(super) fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }

    /// A number in the order of the network.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|value| value.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A name, without the zero behind it.
    pub(super) fn name(self, kind: u16) -> &'a [u8] {
        self.get(kind).map(trim).unwrap_or_default()
    }
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn trim(name: &[u8]) -> &[u8] {
    name.strip_suffix(&[0]).unwrap_or(name)
}

pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(trim(name)).into_owned()
}
