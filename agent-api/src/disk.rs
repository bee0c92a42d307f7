//! Files that are replaced as a whole: a reader, and whoever starts after a crash, finds the content before or the
//! content after.
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Where the next content of a file is written. Each file has one such name: what a writer left that was killed is
/// overwritten by the next one, and whoever removes the file removes it as well.
#[must_use]
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Replaces a file, which is on disk when this returns, and has these permissions.
///
/// # Errors
/// If the folder is not there or cannot be written. The file is then as it was.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let partial = partial(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
    file.write_all(content)?;
    // Neither the mask of the process nor a file that was left here decides.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    // The new name is on disk when its folder is.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Removes a file, and what a writer left of it that was killed. `false`: there was nothing.
///
/// # Errors
/// If something stays.
pub fn remove(path: &Path) -> io::Result<bool> {
    let mut found = false;
    for path in [path, &partial(path)] {
        match fs::remove_file(path) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_permissions_whatever_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        fs::write(partial(&path), "half of something longer").unwrap();
        fs::set_permissions(partial(&path), Permissions::from_mode(0o644)).unwrap();
        for content in ["one", "two"] {
            replace(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!partial(&path).exists());
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("services");
        replace(&path, b"before", 0o644).unwrap();
        // Who wants to write there finds a folder.
        fs::create_dir(partial(&path)).unwrap();
        replace(&path, b"after", 0o644).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        replace(&dir.path().join("none/file"), b"", 0o644).unwrap_err();
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        assert!(!remove(&path).unwrap());
        fs::write(partial(&path), "half").unwrap();
        assert!(remove(&path).unwrap());
        replace(&path, b"whole", 0o755).unwrap();
        assert!(remove(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
