//! The type information that the kernel wants of a map whose values hold a lock, or belong to sockets.
use std::{io, os::fd::OwnedFd};

use zerocopy::FromZeros;

use super::{Command, address, call_for_fd};

attr! { struct LoadAttr { btf: u64, log: u64, size: u32, log_size: u32, log_level: u32, log_true_size: u32 } }

/// `BTF_KIND_*`, where they stand in a type's information.
const INT: u32 = 1 << 24;
const STRUCT: u32 = 4 << 24;

/// Numbers of the types below.
pub(crate) const KEY_TYPE: u32 = 1;
const LOCK_TYPE: u32 = 2;
pub(crate) const VALUE_TYPE: u32 = 3;

/// Where each name begins.
const NAMES: &[u8] = b"\0int\0bpf_spin_lock\0val\0lock\0value\0";
const NAME_INT: u32 = 1;
const NAME_SPIN_LOCK: u32 = 5;
const NAME_VAL: u32 = 19;
const NAME_LOCK: u32 = 23;
const NAME_VALUE: u32 = 28;

/// An `int` as the key, and a value of this size that begins with a `struct bpf_spin_lock`.
fn storage(value_size: u32) -> Vec<u8> {
    let types = [
        // int: signed, 32 bits.
        [NAME_INT, INT, 4, 1 << 24 | 32].as_slice(),
        // A structure with one member: its name, type and offset.
        &[NAME_SPIN_LOCK, STRUCT | 1, 4, NAME_VAL, KEY_TYPE, 0],
        &[NAME_VALUE, STRUCT | 1, value_size, NAME_LOCK, LOCK_TYPE, 0],
    ]
    .concat();
    let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a few bytes");
    // Magic, version 1, no flags; then the lengths of the header, and offset and length of both parts behind it.
    let magic = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
    let lengths = [24, 0, length(&types), length(&types), length(NAMES)].map(u32::to_ne_bytes);
    [&magic, lengths.as_flattened(), &types, NAMES].concat()
}

/// Loads the types of a socket storage.
pub(crate) fn load_storage(value_size: u32) -> io::Result<OwnedFd> {
    let btf = storage(value_size);
    let mut attr = LoadAttr::new_zeroed();
    attr.btf = address(&btf);
    attr.size = super::length(btf.len())?;
    // SAFETY: the attributes point to the types, whose length they say; the command returns a descriptor.
    unsafe { call_for_fd(Command::BtfLoad, &mut attr) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_where_the_types_look_for_them() {
        let names = [
            (NAME_INT, "int"),
            (NAME_SPIN_LOCK, "bpf_spin_lock"),
            (NAME_VAL, "val"),
            (NAME_LOCK, "lock"),
            (NAME_VALUE, "value"),
        ];
        for (at, name) in names {
            let found = NAMES[at as usize..].split(|byte| *byte == 0).next().unwrap();
            assert_eq!(found, name.as_bytes());
        }
    }
}
