//! What building eBPF programs needs beyond the pinned Rust: a `core` for their target, and their linker.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{command, debian, workspace};

/// The compiler that `rust-toolchain.toml` pins; the sources of `core` must be the same version.
const RUST: &str = "1.95.0";
const BPF_LINKER: &str = "0.10.4";
/// The suite of Debian that has the sources of this Rust.
const DEBIAN_SUITE: &str = "trixie-backports";
/// Debian's own compiler, which has a ready-made `core` for the target.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Where `core` for the eBPF target comes from.
pub(crate) enum Core {
    /// Built from the sources in the pinned toolchain.
    Sources,
    /// Compiled already, for this compiler.
    Prebuilt { rustc: PathBuf },
}

/// Makes the toolchain complete, or says what is missing and how to get it.
pub(crate) fn ensure(target: &str) -> Result<Core> {
    ensure_rustc()?;
    let core = ensure_core(target)?;
    ensure_bpf_linker()?;
    Ok(core)
}

/// The folder of the pinned toolchain.
pub(crate) fn sysroot() -> Result<PathBuf> {
    command::output(command::program("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(|| ".cargo".into())
}

/// The target that this machine's compiler builds for by itself.
pub(crate) fn host() -> Result<String> {
    let version = command::output(command::program("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("`rustc -vV` names no host")
}

/// Flags that keep the paths of this machine out of what is built.
pub(crate) fn remapped_paths() -> Result<Vec<String>> {
    Ok(vec![
        remap(&workspace::root(), "/millrace"),
        remap(&cargo_home(), "/cargo"),
        remap(&sysroot()?.join("lib/rustlib/src/rust"), "/rust"),
    ])
}

pub(crate) fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

fn ensure_rustc() -> Result<()> {
    let version = command::output(command::program("rustc").arg("--version"))?;
    if !version.starts_with(&format!("rustc {RUST} ")) {
        bail!("rustc is {version:?}, {RUST} is needed. Run: rustup toolchain install {RUST}");
    }
    Ok(())
}

/// Each way is tried only after the one before it failed.
fn ensure_core(target: &str) -> Result<Core> {
    let library = sysroot()?.join("lib/rustlib/src/rust/library");
    if has_sources(&library) {
        return Ok(Core::Sources);
    }
    if has_prebuilt(target) {
        return Ok(Core::Prebuilt { rustc: DEBIAN_RUSTC.into() });
    }
    command::announce(&format!("the sources of core {RUST}, to build it for eBPF: trying rustup"));
    let rustup = command::output(command::program("rustup").args(["component", "add", "rust-src"]));
    if has_sources(&library) {
        return Ok(Core::Sources);
    }
    command::announce(&format!("rustup cannot: trying the package rust-src of Debian's {DEBIAN_SUITE}"));
    let backport = sources_from_debian(&library);
    if has_sources(&library) {
        return Ok(Core::Sources);
    }
    command::announce(&format!("not there: trying Debian's own compiler, {}", DEBIAN_PACKAGES.join(" and ")));
    let packages = debian::install(&DEBIAN_PACKAGES);
    if has_prebuilt(target) {
        return Ok(Core::Prebuilt { rustc: DEBIAN_RUSTC.into() });
    }
    let reasons = [("rustup", rustup.map(|_| ())), ("rust-src", backport), ("rustc-web", packages)];
    let reasons = reasons.map(|(way, result)| {
        let reason = result.err().unwrap_or_else(|| anyhow!("succeeded, but without the files"));
        format!("{way}: {reason:#}")
    });
    bail!(
        "missing: a core library for {target}.\n  {}\nOne of these gives it:\n  \
         rustup component add rust-src --toolchain {RUST}\n  \
         the package rust-src {RUST} of Debian's {DEBIAN_SUITE}, its usr/src/rustc-{RUST}/library copied to {}\n  \
         apt-get install {}",
        reasons.join("\n  "),
        library.display(),
        DEBIAN_PACKAGES.join(" "),
    )
}

/// Cargo wants the lock file of the library beside `core`.
fn has_sources(library: &Path) -> bool {
    library.join("Cargo.lock").is_file() && library.join("core/src/lib.rs").is_file()
}

fn has_prebuilt(target: &str) -> bool {
    let folder = command::output(command::program(DEBIAN_RUSTC).args([
        "--print",
        "target-libdir",
        "--target",
        target,
    ]));
    let files = folder.ok().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

fn sources_from_debian(library: &Path) -> Result<()> {
    let unpacked = workspace::tools().join("rust-src");
    debian::unpack(DEBIAN_SUITE, "rust-src", &format!("{RUST}*"), &unpacked)?;
    let source = unpacked.join(format!("usr/src/rustc-{RUST}/library"));
    let folder = library.parent().context("the library has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Complete or not there at all: an interrupted copy must not look like a library.
    let partial = library.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    command::run(command::program("cp").arg("-r").arg(&source).arg(&partial))?;
    if library.exists() {
        fs::remove_dir_all(library).with_context(|| format!("cannot replace {}", library.display()))?;
    }
    fs::rename(&partial, library).with_context(|| format!("cannot create {}", library.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

fn ensure_bpf_linker() -> Result<()> {
    let wanted = format!("bpf-linker {BPF_LINKER}");
    let is_there = || {
        command::output(command::program("bpf-linker").arg("--version"))
            .is_ok_and(|version| version == wanted)
    };
    if is_there() {
        return Ok(());
    }
    let tools = workspace::tools();
    command::announce(&format!("{wanted} into {}, once: a minute or two", tools.display()));
    let mut cargo = command::program("cargo");
    cargo.args(["install", &format!("bpf-linker@{BPF_LINKER}"), "--locked", "--root"]).arg(&tools);
    command::run(&mut cargo)
        .with_context(|| format!("missing: {wanted}. Run: cargo install bpf-linker@{BPF_LINKER} --locked"))?;
    if !is_there() {
        bail!("bpf-linker in {} is not version {BPF_LINKER}", tools.display());
    }
    Ok(())
}
