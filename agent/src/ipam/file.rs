//! The leases on disk: whole, or recognised as damaged.
//!
//! A header line with version, length and checksum, then the leases as one line of JSON.
use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_api::{disk, interface::fnv1a};
use agent_core::model::endpoint::Endpoint;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "leases.json";
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    length: usize,
    checksum: String,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Interfaces do not survive a boot.
    pub boot_id: String,
    pub endpoints: Vec<Endpoint>,
    /// Released addresses, and the time since boot from which they may be used again.
    pub cooling: Vec<(IpAddr, Duration)>,
    /// The address of each range that was handed out last.
    pub cursors: Vec<(IpNetwork, IpAddr)>,
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it has no complete header")]
    NoHeader,
    #[error("its header cannot be read")]
    Header(#[source] serde_json::Error),
    #[error("it has version {0}; this agent reads version {VERSION}")]
    Version(u32),
    #[error("it has {found} bytes of leases where its header says {expected}")]
    Length { expected: usize, found: usize },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its leases cannot be read")]
    Leases(#[source] serde_json::Error),
    #[error("it gives {0} to two pods")]
    Duplicate(IpAddr),
}

/// What went wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the leases in {}: check the file and --state-dir", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the leases to {}: check free space and permissions of --state-dir", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the lease file {} is damaged and was set aside as {}: the leases are rebuilt from the interfaces that live; \
         delete the copy once nobody wants to look at it",
        .path.display(), .aside.display()
    )]
    Damaged {
        path: PathBuf,
        aside: PathBuf,
        #[source]
        damage: Damage,
    },
}

/// The file of a state directory.
#[derive(Clone, Debug)]
pub struct LeaseFile {
    dir: PathBuf,
}

impl LeaseFile {
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// Reads the file. `None`: there is none. A damaged file is set aside, so that the next write does not destroy it.
    ///
    /// # Errors
    /// [`FileError::Damaged`] leaves a directory to go on with; [`FileError::Read`] does not.
    pub fn read(&self) -> Result<Option<Stored>, FileError> {
        let path = self.path();
        let read_error = |source| FileError::Read { path: path.clone(), source };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(read_error)?,
        };
        match decode(&bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(damage) => {
                let aside = self.set_aside().map_err(read_error)?;
                Err(FileError::Damaged { path, aside, damage })
            }
        }
    }

    /// Replaces the file: a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, stored: &Stored) -> Result<(), FileError> {
        self.replace(&encode(stored)).map_err(|source| FileError::Write { path: self.path(), source })
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        disk::replace(&self.path(), bytes, 0o600)
    }

    fn set_aside(&self) -> io::Result<PathBuf> {
        let mut names = (1..=u32::MAX).map(|number| self.dir.join(format!("{FILE_NAME}.corrupt-{number}")));
        let free = names.find(|path| !path.exists());
        let aside = free.ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }
}

fn checksum(body: &[u8]) -> String {
    format!("{:016x}", fnv1a(&[body]))
}

fn encode(stored: &Stored) -> Vec<u8> {
    let body = serde_json::to_vec(stored).expect("leases have no map keys and no values that JSON lacks");
    let header = Header { version: VERSION, length: body.len(), checksum: checksum(&body) };
    let mut bytes = serde_json::to_vec(&header).expect("a header of numbers and text is valid JSON");
    bytes.push(b'\n');
    bytes.extend(body);
    bytes.push(b'\n');
    bytes
}

fn decode(bytes: &[u8]) -> Result<Stored, Damage> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Damage::NoHeader)?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(Damage::Header)?;
    if header.version != VERSION {
        return Err(Damage::Version(header.version));
    }
    let rest = &bytes[end + 1..];
    let body = rest.strip_suffix(b"\n").filter(|body| body.len() == header.length);
    let body = body.ok_or(Damage::Length { expected: header.length + 1, found: rest.len() })?;
    if checksum(body) != header.checksum {
        return Err(Damage::Checksum);
    }
    let stored: Stored = serde_json::from_slice(body).map_err(Damage::Leases)?;
    let mut seen = std::collections::BTreeSet::new();
    match stored.endpoints.iter().flat_map(|endpoint| &endpoint.ips).find(|address| !seen.insert(**address)) {
        Some(address) => Err(Damage::Duplicate(*address)),
        None => Ok(stored),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use agent_core::model::{ObjectName, endpoint::AttachmentId};

    use super::*;

    fn endpoint(number: u8) -> Endpoint {
        Endpoint {
            attachment: AttachmentId { container_id: format!("c{number}"), ifname: "eth0".into() },
            pod: ObjectName::new("default", format!("web-{number}")),
            pod_uid: "uid".into(),
            ips: vec![[10, 0, 0, number].into()],
            host_ifname: format!("mr{number}"),
            host_ifindex: u32::from(number),
            host_mac: [2, 0, 0, 0, 0, number],
            pod_mac: [2, 0, 0, 0, 1, number],
            netns: NonZeroU64::new(4000 + u64::from(number)),
        }
    }

    fn stored() -> Stored {
        Stored {
            boot_id: "boot".into(),
            endpoints: vec![endpoint(2), endpoint(3)],
            cooling: vec![([10, 0, 0, 9].into(), Duration::from_millis(1234))],
            cursors: vec![("10.0.0.0/24".parse().unwrap(), [10, 0, 0, 3].into())],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::new(&dir.path().join("made"));
        assert_eq!(file.read().unwrap(), None);
        file.write(&Stored::default()).unwrap();
        file.write(&stored()).unwrap();
        assert_eq!(file.read().unwrap(), Some(stored()));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_recognised_as_damaged() {
        let bytes = encode(&stored());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_file_with_any_bit_flipped_is_recognised_as_damaged() {
        let mut bytes = encode(&stored());
        for position in 0..bytes.len() {
            for bit in 0..8 {
                bytes[position] ^= 1 << bit;
                // A hexadecimal digit or a space may change its spelling, never the leases.
                if let Ok(read) = decode(&bytes) {
                    assert_eq!(read, stored(), "bit {bit} of byte {position}");
                }
                bytes[position] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn damaged_files_are_set_aside_one_by_one_and_the_error_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::new(dir.path());
        for number in 1..=3 {
            fs::write(file.path(), b"torn").unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains("leases.json is damaged"), "{error}");
            assert!(error.contains(&format!("leases.json.corrupt-{number}")), "{error}");
            assert_eq!(file.read().unwrap(), None);
        }
    }

    #[test]
    fn two_pods_with_one_address_are_damage() {
        let mut stored = stored();
        stored.endpoints[1].ips = stored.endpoints[0].ips.clone();
        assert!(matches!(decode(&encode(&stored)), Err(Damage::Duplicate(_))));
    }

    #[test]
    fn a_newer_version_is_named() {
        let text =
            String::from_utf8(encode(&stored())).unwrap().replacen("\"version\":1", "\"version\":2", 1);
        assert!(matches!(decode(text.as_bytes()), Err(Damage::Version(2))));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let in_the_way = dir.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let error = LeaseFile::new(&in_the_way.join("state")).write(&stored()).unwrap_err().to_string();
        assert!(error.contains("leases.json") && error.contains("--state-dir"), "{error}");
    }
}
