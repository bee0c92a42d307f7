//! The CNI plugin in the container runtime's directory of plugins.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent_api::disk;

use crate::cni_conf::PLUGIN;

/// containerd and CRI-O bring up the loopback interface of each pod with this plugin of the reference set.
const LOOPBACK: &str = "loopback";

/// Why the plugin is not where the runtime looks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniBinError {
    #[error("cannot tell where this program is: is /proc mounted?")]
    Own(#[source] io::Error),
    #[error("cannot read {}: the plugin belongs beside millrace-agent; use an image or a build that has both", .path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error(
        "there is no directory {}: give the one where the container runtime looks for CNI plugins with --cni-bin-dir \
         (containerd: `bin_dir` or `bin_dirs` of its CRI plugin)",
        .path.display()
    )]
    NoDirectory { path: PathBuf },
    #[error(
        "{} is on a read-only file system: give a directory that can be written with --cni-bin-dir, and name it in the \
         container runtime's configuration too (containerd: `bin_dir` or `bin_dirs` of its CRI plugin)",
        .path.display()
    )]
    ReadOnly { path: PathBuf },
    #[error("cannot write {}: make the directory writable for root, or name another with --cni-bin-dir", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", .path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// Copies the plugin from beside this program. `Ok(false)`: it was there already.
pub(crate) fn install(dir: &Path) -> Result<bool, CniBinError> {
    let own = fs::read_link("/proc/self/exe").map_err(CniBinError::Own)?;
    let from = own.with_file_name(PLUGIN);
    let plugin = fs::read(&from).map_err(|source| CniBinError::Source { path: from, source })?;
    let written = put(dir, &plugin)?;
    let path = dir.join(PLUGIN);
    let what = if written { "wrote" } else { "already there:" };
    tracing::info!("{what} {}", path.display());
    if !dir.join(LOOPBACK).exists() {
        tracing::warn!(
            "{} does not exist: if no pod gets an interface, install the reference CNI plugins, whose `{LOOPBACK}` the \
             container runtime calls (Debian: containernetworking-plugins, kubeadm: kubernetes-cni)",
            dir.join(LOOPBACK).display()
        );
    }
    Ok(written)
}

/// Replaces the plugin as a whole: a runtime that starts it at this moment gets the old one or the new one.
fn put(dir: &Path, plugin: &[u8]) -> Result<bool, CniBinError> {
    if !dir.is_dir() {
        return Err(CniBinError::NoDirectory { path: dir.into() });
    }
    let path = dir.join(PLUGIN);
    if fs::read(&path).is_ok_and(|present| present == plugin) {
        return Ok(false);
    }
    match disk::replace(&path, plugin, 0o755) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(CniBinError::ReadOnly { path: dir.into() })
        }
        Err(source) => Err(CniBinError::Write { path, source }),
    }
}

/// Removes the plugin, and what a writer that was killed left of one. `false`: it was not there.
pub(crate) fn remove(dir: &Path) -> Result<bool, CniBinError> {
    let path = dir.join(PLUGIN);
    disk::remove(&path).map_err(|source| CniBinError::Remove { path, source })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn the_plugin_is_replaced_as_a_whole_and_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PLUGIN);
        assert!(put(dir.path(), b"one").unwrap());
        let running = File::open(&path).unwrap();
        assert!(!put(dir.path(), b"one").unwrap(), "nothing to do");
        assert!(put(dir.path(), b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(io::read_to_string(running).unwrap(), "one", "who runs the old one keeps it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert!(remove(dir.path()).unwrap());
        assert!(!remove(dir.path()).unwrap());
    }

    #[test]
    fn a_directory_that_is_missing_is_named_with_its_option() {
        let error = put(Path::new("/nonexistent/bin"), b"x").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bin") && error.contains("--cni-bin-dir"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_with_the_remedy() {
        // No file can be made there, not even by root.
        let error = put(Path::new("/proc/self"), b"x").unwrap_err().to_string();
        assert!(error.contains("/proc/self") && error.contains("--cni-bin-dir"), "{error}");
    }
}
