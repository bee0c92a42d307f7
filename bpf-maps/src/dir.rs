//! Where everything is pinned.
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use dataplane_common::maps::MapId;

use crate::{Error, Result, sys};

/// The directory of Millrace in a bpffs: `maps/` and `links/` below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MillraceDir {
    bpffs: PathBuf,
}

/// Which of the maps of a name a pin keeps, while one takes the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// What programs and readers use.
    Current,
    /// What is to take its place.
    Next,
    /// What had its place.
    Former,
}

impl Pin {
    /// The name of the pin. bpffs refuses names with a dot.
    #[must_use]
    pub fn name(self, map: MapId) -> String {
        let suffix = match self {
            Self::Current => "",
            Self::Next => ":next",
            Self::Former => ":former",
        };
        format!("{}{suffix}", map.spec().name)
    }
}

impl MillraceDir {
    /// Names the directory; touches nothing.
    #[must_use]
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        Self { bpffs: bpffs.into() }
    }

    /// Refuses a path that is not a bpffs, and a directory that others than root could change.
    ///
    /// # Errors
    /// [`Error::NotBpffs`], [`Error::Unsafe`], or [`Error::Path`] when it cannot be read.
    pub fn check(&self) -> Result<()> {
        let failed = |source| Error::Path { operation: "open", path: self.bpffs.clone(), source };
        match sys::object::is_bpffs(&self.bpffs) {
            Ok(true) => {}
            Ok(false) => return Err(Error::NotBpffs { path: self.bpffs.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotBpffs { path: self.bpffs.clone() });
            }
            Err(error) => return Err(failed(error)),
        }
        match fs::metadata(self.root()) {
            Ok(metadata) if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 => Err(Error::Unsafe {
                path: self.root(),
                owner: metadata.uid(),
                mode: metadata.mode() & 0o7777,
            }),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Path { operation: "open", path: self.root(), source }),
        }
    }

    /// Makes the directories that are missing, for root only.
    ///
    /// # Errors
    /// As [`Self::check`], or when a directory cannot be made.
    pub fn create(&self) -> Result<()> {
        self.check()?;
        for path in [self.root(), self.maps_dir(), self.links_dir()] {
            DirBuilder::new().mode(0o700).recursive(true).create(&path).map_err(|source| Error::Path {
                operation: "make the directory",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Claims the directory for this process, for as long as the returned file is open.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process holds it.
    pub fn lock(&self) -> Result<File> {
        let failed = |operation| move |source| Error::Path { operation, path: self.root(), source };
        let dir = File::open(self.root()).map_err(failed("open"))?;
        match dir.try_lock() {
            Ok(()) => Ok(dir),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: self.root() }),
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }

    /// Whether an agent ever ran here.
    ///
    /// # Errors
    /// When the caller may not look.
    pub fn exists(&self) -> Result<bool> {
        let path = self.maps_dir();
        path.try_exists().map_err(|source| Error::Path { operation: "open", path, source })
    }

    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.bpffs.join("millrace")
    }

    #[must_use]
    pub fn maps_dir(&self) -> PathBuf {
        self.root().join("maps")
    }

    #[must_use]
    pub fn links_dir(&self) -> PathBuf {
        self.root().join("links")
    }

    #[must_use]
    pub fn map_path(&self, map: MapId) -> PathBuf {
        self.pin_path(map, Pin::Current)
    }

    #[must_use]
    pub fn pin_path(&self, map: MapId, pin: Pin) -> PathBuf {
        self.maps_dir().join(pin.name(map))
    }

    /// Gives what one pin of a map keeps to another, in place of what that keeps. False when there is nothing.
    ///
    /// # Errors
    /// When the pin cannot be renamed.
    pub fn move_pin(&self, map: MapId, from: Pin, to: Pin) -> Result<bool> {
        let path = self.pin_path(map, from);
        done(fs::rename(&path, self.pin_path(map, to)), "rename", path)
    }

    /// Removes a pin. False when there is none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_pin(&self, map: MapId, pin: Pin) -> Result<bool> {
        let path = self.pin_path(map, pin);
        done(fs::remove_file(&path), "remove", path)
    }

    #[must_use]
    pub fn link_path(&self, name: &str) -> PathBuf {
        self.links_dir().join(name)
    }

    /// The names of the pinned links, in order; none when the directory is missing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn link_names(&self) -> Result<Vec<String>> {
        let failed = |source| Error::Path { operation: "list", path: self.links_dir(), source };
        let entries = match fs::read_dir(self.links_dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let names: io::Result<Vec<String>> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
        let mut names = names.map_err(failed)?;
        names.sort_unstable();
        Ok(names)
    }
}

/// Whether something was there to be done.
fn done(result: io::Result<()>, operation: &'static str, path: PathBuf) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Path { operation, path, source }),
    }
}
