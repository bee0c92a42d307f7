//! Puts the eBPF object where the agent can include it.
use std::{env, fs, path::PathBuf};

fn main() {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let object = workspace.join("target/ebpf/dataplane");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_else(|error| {
        panic!("cannot read the eBPF object {}: {error}. Build it with: cargo xtask build", object.display())
    });
    let copy = PathBuf::from(variable("OUT_DIR")).join("dataplane");
    fs::write(&copy, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", copy.display()));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}
