//! One file per object in every directory, replaced atomically.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The directories and what they show.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    directories: Vec<PathBuf>,
    /// File name to content.
    files: BTreeMap<String, String>,
}

impl Manifests {
    pub(super) fn add_directory(&mut self, directory: &Path) -> Result<()> {
        for folder in [directory.to_owned(), staging(directory)] {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        for (file, content) in &self.files {
            replace(directory, file, content)?;
        }
        self.directories.push(directory.to_owned());
        Ok(())
    }

    /// Writes an object, unless it is there as it is.
    pub(super) fn write(&mut self, object: &Value) -> Result<()> {
        let (kind, namespace, name) = object_name(object)?;
        let file = file_name(kind, namespace, name);
        let content = serde_saphyr::to_string(object).with_context(|| format!("write {file} as YAML"))?;
        if self.files.get(&file) == Some(&content) {
            return Ok(());
        }
        for directory in &self.directories {
            replace(directory, &file, &content)?;
        }
        self.files.insert(file, content);
        Ok(())
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let file = file_name(kind, namespace, name);
        self.files.remove(&file);
        for directory in &self.directories {
            match fs::remove_file(directory.join(&file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.with_context(|| format!("remove {file}"))?,
            }
        }
        Ok(())
    }
}

/// Kind, namespace (empty when it has none) and name of an object.
pub fn object_name(object: &Value) -> Result<(&str, &str, &str)> {
    let kind = object["kind"].as_str().context("an object has no `kind`")?;
    let name = object["metadata"]["name"].as_str().with_context(|| format!("a {kind} has no name"))?;
    let cluster_wide = matches!(kind, "Namespace" | "Node");
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Ok((kind, if cluster_wide { "" } else { namespace }, name))
}

fn file_name(kind: &str, namespace: &str, name: &str) -> String {
    let kind = kind.to_lowercase();
    if namespace.is_empty() {
        format!("{kind}.{name}.yaml")
    } else {
        format!("{kind}.{namespace}.{name}.yaml")
    }
}

/// Where files are written before they appear. On the file system of the directory, but not in it: a watcher sees
/// whole files only.
fn staging(directory: &Path) -> PathBuf {
    directory.with_extension("staging")
}

fn replace(directory: &Path, file: &str, content: &str) -> Result<()> {
    let staged = staging(directory).join(file);
    fs::write(&staged, content).with_context(|| format!("write {}", staged.display()))?;
    let path = directory.join(file);
    fs::rename(&staged, &path).with_context(|| format!("write {}", path.display()))
}
