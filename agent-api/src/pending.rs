//! Detachments that the plugin could not tell the agent: one file each, read by the agent when it is back.
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{Attachment, PENDING_DETACH_DIR, disk};

/// The file of an attachment.
#[must_use]
pub fn path(state_dir: &Path, attachment: &Attachment) -> PathBuf {
    // Container ids have no upper length, file names have.
    let Attachment { container_id, ifname } = attachment;
    state_dir.join(PENDING_DETACH_DIR).join(format!("{container_id:.180}-{ifname}.json"))
}

/// Leaves a detachment for the agent: complete and on disk, or not at all.
///
/// # Errors
/// If the state directory cannot be written.
pub fn leave(state_dir: &Path, attachment: &Attachment) -> io::Result<PathBuf> {
    let path = path(state_dir, attachment);
    let dir = state_dir.join(PENDING_DETACH_DIR);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    disk::replace(&path, &serde_json::to_vec(attachment)?, 0o600)?;
    Ok(path)
}

/// One file of the folder.
#[derive(Debug)]
pub struct Pending {
    pub path: PathBuf,
    /// The error when the file does not hold an attachment.
    pub attachment: io::Result<Attachment>,
}

/// The detachments that wait.
///
/// # Errors
/// If the folder cannot be read. A folder that is not there is empty.
pub fn list(state_dir: &Path) -> io::Result<Vec<Pending>> {
    let entries = match fs::read_dir(state_dir.join(PENDING_DETACH_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut pending = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let attachment = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            pending.push(Pending { path, attachment });
        }
    }
    Ok(pending)
}

/// Removes a file. Removing what is gone is success.
///
/// # Errors
/// If the file stays.
pub fn remove(path: &Path) -> io::Result<()> {
    disk::remove(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container_id: &str) -> Attachment {
        Attachment { container_id: container_id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn what_is_left_is_listed_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        let path = leave(dir.path(), &attachment("c1")).unwrap();
        leave(dir.path(), &attachment("c1")).unwrap();
        let pending = list(dir.path()).unwrap();
        assert_eq!(pending.len(), 1);
        assert_eq!(*pending[0].attachment.as_ref().unwrap(), attachment("c1"));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_listed_with_its_error_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), &attachment("good")).unwrap();
        fs::write(path(dir.path(), &attachment("bad")), b"{\"container_id\":").unwrap();
        let (good, bad): (Vec<_>, Vec<_>) =
            list(dir.path()).unwrap().into_iter().partition(|file| file.attachment.is_ok());
        assert_eq!((good.len(), bad.len()), (1, 1));
    }

    #[test]
    fn a_container_id_longer_than_a_file_name_can_be_left() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), &attachment(&"x".repeat(4000))).unwrap();
        assert_eq!(list(dir.path()).unwrap().len(), 1);
    }
}
