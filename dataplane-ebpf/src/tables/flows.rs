//! The flows that are tracked: those that are established, and the others.
use aya_ebpf::bindings::BPF_ANY;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtState},
    net::{AddrV4, AddrV6, Be16},
};

use crate::{
    family::{Family, V4, V6},
    flow::Tuple,
    maps::{CT_EST_V4, CT_EST_V6, CT_NEW_V4, CT_NEW_V6},
};

pub(crate) trait Flows: Family {
    type CtKey: Copy;
    type CtEntry: Copy;

    fn ct_key(
        low: &Self::Addr,
        high: &Self::Addr,
        low_port: Be16,
        high_port: Be16,
        proto: u8,
        zone: u8,
    ) -> Self::CtKey;
    fn ct_tag(key: &Self::CtKey) -> u32;
    fn ct_entry(state: &CtState, nat: &Tuple<Self::Addr>) -> Self::CtEntry;
    fn ct_state(entry: *mut Self::CtEntry) -> *mut CtState;
    /// The tuple that a half of a translated flow writes.
    fn ct_nat(entry: *const Self::CtEntry, proto: u8) -> Tuple<Self::Addr>;
    fn ct_established(key: &Self::CtKey) -> Option<*mut Self::CtEntry>;
    fn ct_new(key: &Self::CtKey) -> Option<*mut Self::CtEntry>;
    fn ct_insert_established(key: &Self::CtKey, entry: &Self::CtEntry) -> Result<(), i32>;
    fn ct_insert_new(key: &Self::CtKey, entry: &Self::CtEntry, flags: u64) -> Result<(), i32>;
    fn ct_remove_established(key: &Self::CtKey);
    fn ct_remove_new(key: &Self::CtKey);
}

macro_rules! flows {
    ($family:ty, $addr:ty, $key:ident, $entry:ident, $new:ident, $established:ident) => {
        impl Flows for $family {
            type CtKey = $key;
            type CtEntry = $entry;

            #[inline(always)]
            fn ct_key(
                low: &$addr,
                high: &$addr,
                low_port: Be16,
                high_port: Be16,
                proto: u8,
                zone: u8,
            ) -> $key {
                $key { low_addr: *low, high_addr: *high, low_port, high_port, proto, zone, reserved: [0; 2] }
            }

            #[inline(always)]
            fn ct_tag(key: &$key) -> u32 {
                key.tag()
            }

            #[inline(always)]
            fn ct_entry(state: &CtState, nat: &Tuple<$addr>) -> $entry {
                $entry {
                    state: *state,
                    nat_source: nat.source,
                    nat_destination: nat.destination,
                    nat_source_port: nat.source_port,
                    nat_destination_port: nat.destination_port,
                    reserved: 0,
                }
            }

            #[inline(always)]
            fn ct_state(entry: *mut $entry) -> *mut CtState {
                entry.cast()
            }

            #[inline(always)]
            fn ct_nat(entry: *const $entry, proto: u8) -> Tuple<$addr> {
                // SAFETY: `entry` comes from a look-up of this program run; entries are freed after it (RCU).
                unsafe {
                    Tuple {
                        source: (*entry).nat_source,
                        destination: (*entry).nat_destination,
                        source_port: (*entry).nat_source_port,
                        destination_port: (*entry).nat_destination_port,
                        proto,
                    }
                }
            }

            #[inline(always)]
            fn ct_established(key: &$key) -> Option<*mut $entry> {
                $established.get_ptr_mut(key)
            }

            #[inline(always)]
            fn ct_new(key: &$key) -> Option<*mut $entry> {
                $new.get_ptr_mut(key)
            }

            #[inline(always)]
            fn ct_insert_established(key: &$key, entry: &$entry) -> Result<(), i32> {
                $established.insert(key, entry, u64::from(BPF_ANY))
            }

            #[inline(always)]
            fn ct_insert_new(key: &$key, entry: &$entry, flags: u64) -> Result<(), i32> {
                $new.insert(key, entry, flags)
            }

            #[inline(always)]
            fn ct_remove_established(key: &$key) {
                // Another CPU may have removed it: gone is what is wanted.
                let _gone = $established.remove(key);
            }

            #[inline(always)]
            fn ct_remove_new(key: &$key) {
                // Another CPU may have removed it: gone is what is wanted.
                let _gone = $new.remove(key);
            }
        }
    };
}

flows!(V4, AddrV4, CtKeyV4, CtEntryV4, CT_NEW_V4, CT_EST_V4);
flows!(V6, AddrV6, CtKeyV6, CtEntryV6, CT_NEW_V6, CT_EST_V6);
