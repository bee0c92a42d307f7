//! The leases of `host-local`, the address plugin that most other networks use: its pods live on while a node moves from one
//! network to another.
//!
//! It keeps a folder for each network, with a file for each address that is named like it
//! (<https://www.cni.dev/plugins/current/ipam/host-local/>).
use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path};

/// The addresses that have a lease in any network. None where there is no such folder.
///
/// # Errors
/// If a folder cannot be read: to go on could give one address to two pods.
pub fn addresses(dir: &Path) -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for network in entries(dir)? {
        for lease in entries(&network?.path())? {
            // Beside the leases there is a lock, and what was handed out last.
            addresses.extend(lease?.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
    }
    Ok(addresses)
}

/// What a folder holds; nothing where there is none.
fn entries(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None.into_iter().flatten())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_every_network_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["one/10.0.0.5", "one/lock", "one/last_reserved_ip.0", "two/10.0.0.9", "two/fd00::7"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "container\r\neth0").unwrap();
        }
        fs::write(dir.path().join("10.0.0.6"), "not in a network").unwrap();
        let found: Vec<String> = addresses(dir.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.5", "10.0.0.9", "fd00::7"]);
        assert!(addresses(&dir.path().join("missing")).unwrap().is_empty());
    }
}
