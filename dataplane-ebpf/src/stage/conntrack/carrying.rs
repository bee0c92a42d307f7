//! Flows that are on their way from maps of another layout: an agent with other programs takes the place of the one before.
use crate::{
    maps::CARRYING_OVER,
    packet::{Packet, fragment},
};

/// Whether the flow of a packet that has none may still come. What opens a connection needs none.
#[inline(always)]
pub(crate) fn may_come<A: Copy>(packet: &Packet<A>) -> bool {
    let until = CARRYING_OVER.get(0).copied().unwrap_or_default();
    until != 0 && !packet.is_syn() && fragment::now() < until
}
