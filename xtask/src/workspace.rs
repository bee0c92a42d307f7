//! Where things are in the checkout.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's output folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The eBPF object that the agent embeds; its build script looks here, wherever cargo's output goes.
pub(crate) fn ebpf_object() -> PathBuf {
    root().join("target/ebpf/dataplane")
}

/// The eBPF object of the benchmarks, which `bench` reads when it runs.
pub(crate) fn bench_object() -> PathBuf {
    root().join("target/ebpf/packets")
}

/// Where tools are installed that the machine lacks.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// Copies `built` over `published` if they differ; says whether it did.
pub(crate) fn publish(built: &Path, published: &Path) -> Result<bool> {
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(published).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let folder = published.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // A reader sees the old file or the new one, never half of it.
    let partial = published.with_extension("partial");
    fs::copy(built, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, published).with_context(|| format!("cannot write {}", published.display()))?;
    Ok(true)
}

/// The text of a file of the workspace.
pub(crate) fn read(path: &Path) -> Result<String> {
    let path = root().join(path);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every Rust source and manifest of the workspace.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let is_source = |path: &PathBuf| {
        path.ends_with("Cargo.toml") || path.extension().is_some_and(|extension| extension == "rs")
    };
    Ok(files()?.into_iter().filter(is_source).collect())
}

/// Every file of the workspace, but for what is built and for hidden folders.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(&root(), &mut found)?;
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.is_dir() {
            found.push(path);
        } else if name != "target" && !name.starts_with('.') {
            collect(&path, found)?;
        }
    }
    Ok(())
}
