//! The archive that a kernel unpacks as its first root: "newc", as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst has it.

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const DEVICE: u32 = 0o020_000;
const LAST: &str = "TRAILER!!!";

/// Something in the archive. Names have no slash at the front, and folders come before what is in them.
pub(crate) enum Entry<'a> {
    Folder(&'a str),
    /// A file that may be executed.
    Program(&'a str, &'a [u8]),
    /// A character device: major and minor number.
    Device(&'a str, u32, u32),
}

/// The bytes of the archive.
pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, entry) in (1..).zip(entries) {
        match *entry {
            Entry::Folder(name) => add(&mut bytes, index, name, DIRECTORY | 0o755, (0, 0), &[]),
            Entry::Program(name, content) => add(&mut bytes, index, name, FILE | 0o755, (0, 0), content),
            Entry::Device(name, major, minor) => {
                add(&mut bytes, index, name, DEVICE | 0o600, (major, minor), &[]);
            }
        }
    }
    add(&mut bytes, 0, LAST, 0, (0, 0), &[]);
    bytes
}

fn add(bytes: &mut Vec<u8>, inode: u32, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let (user, group, links, modified, checksum) = (0, 0, 1, 0, 0);
    let on = (0, 0);
    let [size, name_size] =
        [content.len(), name.len() + 1].map(|length| u32::try_from(length).expect("shorter than 4 GiB"));
    bytes.extend_from_slice(b"070701");
    for field in
        [inode, mode, user, group, links, modified, size, on.0, on.1, device.0, device.1, name_size, checksum]
    {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(content);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and permissions, name and content of each entry, read as a kernel reads them.
    fn read(mut bytes: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            found.push((field(1), name, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn an_archive_holds_what_was_put_in_at_any_length() {
        for length in 0..9 {
            let content = vec![7; length];
            let entries =
                [Entry::Folder("dev"), Entry::Device("dev/console", 5, 1), Entry::Program("init", &content)];
            assert_eq!(
                read(&archive(&entries)),
                [
                    (0o040_755, "dev".into(), vec![]),
                    (0o020_600, "dev/console".into(), vec![]),
                    (0o100_755, "init".into(), content.clone()),
                    (0, LAST.into(), vec![]),
                ]
            );
        }
    }

    #[test]
    fn a_header_has_the_documented_form() {
        let bytes = archive(&[Entry::Device("d", 5, 1)]);
        let header = "070701\
             00000001\
             00002180\
             00000000\
             00000000\
             00000001\
             00000000\
             00000000\
             00000000\
             00000000\
             00000005\
             00000001\
             00000002\
             00000000";
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
        assert_eq!(&bytes[110..112], b"d\0");
    }
}
