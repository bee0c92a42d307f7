//! Cuts a datagram into fragments.
use super::{Network, Packet, Payload};

impl Packet {
    /// The fragments of the packet, in order, each with at most `piece` bytes of the datagram (a multiple of 8).
    ///
    /// # Panics
    /// When the packet is not IP or is a fragment already, or `piece` is no multiple of 8.
    #[must_use]
    pub fn fragments(&self, id: u32, piece: usize) -> Vec<Self> {
        assert!(piece > 0 && piece.is_multiple_of(8), "a fragment holds a multiple of 8 bytes, not {piece}");
        let (source, destination) = self.addresses().expect("only IP packets are fragmented");
        let transport = self.transport().expect("a fragment is not fragmented again");
        let proto = transport.proto(source);
        let datagram = transport.bytes(source, destination);
        let last = datagram.len().div_ceil(piece).saturating_sub(1);
        datagram
            .chunks(piece)
            .enumerate()
            .map(|(index, bytes)| {
                let offset = u16::try_from(index * piece / 8).expect("a datagram is shorter than 64 KiB");
                let payload =
                    Payload::Fragment { id, offset, more: index < last, proto, bytes: bytes.to_vec() };
                let mut packet = self.clone();
                match &mut packet.network {
                    Network::V4(ip) => {
                        ip.id = u16::try_from(id).expect("an IPv4 identification has 16 bits");
                        ip.payload = payload;
                    }
                    Network::V6(ip) => ip.payload = payload,
                    Network::Other { .. } => unreachable!("has addresses"),
                }
                packet
            })
            .collect()
    }
}
