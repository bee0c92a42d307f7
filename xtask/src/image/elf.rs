//! Whether a program runs without anything else: an image without a C library cannot hold any other.
use anyhow::{Context as _, Result, bail};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;

/// Sizes of an entry of the program header table and of the dynamic section (elf(5), 64 bits).
const PROGRAM_HEADER: usize = 56;
const DYNAMIC: usize = 16;

/// Refuses a program that needs a loader or a library, and what is no 64-bit little-endian ELF file.
pub(crate) fn require_static(program: &[u8]) -> Result<()> {
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let table = usize::try_from(u64_at(program, 32)?)?;
    let count = usize::from(u16_at(program, 56)?);
    for header in (0..count).map(|index| table + index * PROGRAM_HEADER) {
        bytes_at::<PROGRAM_HEADER>(program, header)?;
        match u32_at(program, header)? {
            PT_INTERP => bail!("it is linked dynamically: it names a program interpreter"),
            PT_DYNAMIC => {
                let (offset, size) = (u64_at(program, header + 8)?, u64_at(program, header + 32)?);
                let (offset, size) = (usize::try_from(offset)?, usize::try_from(size)?);
                for entry in (0..size / DYNAMIC).map(|index| offset + index * DYNAMIC) {
                    if u64_at(program, entry)? == DT_NEEDED {
                        bail!("it is linked dynamically: it needs a shared library");
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.copied().with_context(|| format!("the ELF file ends before byte {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one program header of a kind, and what it points at.
    fn elf(kind: u32, content: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + PROGRAM_HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        let start = file.len() as u64;
        file[72..80].copy_from_slice(&start.to_le_bytes());
        file[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
        file.extend_from_slice(content);
        file
    }

    #[test]
    fn a_program_that_names_a_loader_or_a_library_is_refused() {
        let tags = |tags: [u64; 2]| {
            tags.map(|tag| [tag, 0]).concat().iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        assert!(require_static(&elf(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2")).is_err());
        assert!(require_static(&elf(PT_DYNAMIC, &tags([30, DT_NEEDED]))).is_err());
        // A static program that may be loaded anywhere has a dynamic section, but names nothing in it.
        require_static(&elf(PT_DYNAMIC, &tags([30, 7]))).unwrap();
        require_static(&elf(1, b"")).unwrap();
    }

    #[test]
    fn what_is_cut_off_or_no_elf_file_is_refused() {
        assert!(require_static(b"#!/bin/sh\n").is_err());
        let whole = elf(1, b"");
        assert!(require_static(&whole[..70]).is_err());
    }

    #[test]
    fn the_running_test_itself_is_linked_dynamically() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(require_static(&own).unwrap_err().to_string().contains("dynamically"));
    }
}
