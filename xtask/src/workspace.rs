//! Where things are in the checkout.
use std::path::{Path, PathBuf};

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

/// Where tools are installed that the machine lacks.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}
