//! Raw data: one line of JSON for each reading, written at once, so that an interrupted run keeps all it measured.
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The file of raw data.
#[derive(Debug)]
pub(crate) struct RawData {
    path: PathBuf,
    file: File,
}

impl RawData {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("raw.jsonl");
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, file })
    }

    pub(crate) fn note(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        self.file.write_all(line.as_bytes()).with_context(|| format!("write {}", self.path.display()))
    }
}
