//! What the stages tell each other about a flow.
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtState},
    net::Be16,
};

use crate::packet::Packet;

/// What identifies a flow, as one of its packets carries it: addresses and ports stand as they do in a packet without
/// options.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Tuple<A> {
    pub(crate) source: A,
    pub(crate) destination: A,
    pub(crate) source_port: Be16,
    pub(crate) destination_port: Be16,
    pub(crate) proto: u8,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of nothing.
    pub(crate) const fn none(addr: A) -> Self {
        Self {
            source: addr,
            destination: addr,
            source_port: Be16::new(0),
            destination_port: Be16::new(0),
            proto: 0,
        }
    }

    /// The tuple of a packet in the other direction.
    #[inline(always)]
    pub(crate) fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            proto: self.proto,
        }
    }
}

/// The rules that allow a flow; 0 where a pod is not isolated.
#[derive(Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) egress_rule: u32,
    pub(crate) ingress_rule: u32,
}

impl Allowed {
    /// Allowed without asking policy.
    pub(crate) const NO_RULE: Self = Self { egress_rule: 0, ingress_rule: 0 };
}

/// Room for an entry of either family.
pub(crate) type EntryMemory = [u64; size_of::<CtEntryV6>() / size_of::<u64>()];

const _: () = assert!(size_of::<EntryMemory>() == size_of::<CtEntryV6>());
const _: () = assert!(size_of::<EntryMemory>() >= size_of::<CtEntryV4>());

/// Working memory of one program run: the stack of 512 bytes is shared by the whole chain of calls, and IPv6 tuples
/// are 40 bytes each.
pub(crate) struct Scratch<A> {
    pub(crate) packet: Packet<A>,
    /// The tuple that policy judges: from the client to the backend.
    pub(crate) judged: Tuple<A>,
    /// The tuple that is written to the packet.
    pub(crate) translation: Tuple<A>,
    /// What the packet's flow knew when it was found.
    pub(crate) state: CtState,
    /// The entry that is written for a flow.
    pub(crate) entry: EntryMemory,
    /// What the packet changes in its flow: bits of `conntrack::change`.
    pub(crate) changes: u32,
    /// The interface of the pod that the flow counts for, while its share changes.
    pub(crate) payer: u32,
    /// The policy set that denied `judged`.
    pub(crate) denied_by: u32,
    /// The policy epoch before `judged` was judged: what changes meanwhile makes the flow be judged again.
    pub(crate) epoch: u32,
}
