//! What the machine must offer to run eBPF programs: root, a recent kernel, its type information.
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Result, bail};

/// tcx links: v6.6, e420bed02507.
const OLDEST_KERNEL: (u32, u32) = (6, 6);
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Checks that the programs can run here; the error names everything that is missing.
pub(crate) fn require_ebpf(purpose: &str) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let missing = missing(is_root(), release.trim(), Path::new(KERNEL_BTF).exists());
    if !missing.is_empty() {
        bail!("{purpose} cannot run on this machine:\n  - {}", missing.join("\n  - "));
    }
    Ok(())
}

fn missing(root: bool, release: &str, btf: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if !root {
        missing
            .push("it needs root, to load eBPF programs and make network namespaces: run it as root".into());
    }
    if kernel_version(release).is_none_or(|version| version < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        missing.push(format!("it needs Linux {major}.{minor} or later, for tcx; this is {release:?}"));
    }
    if !btf {
        missing.push(format!("{KERNEL_BTF} does not exist: use a kernel built with CONFIG_DEBUG_INFO_BTF=y"));
    }
    missing
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_of_distributions_are_understood() {
        assert_eq!(kernel_version("6.12.57+deb13-amd64"), Some((6, 12)));
        assert_eq!(kernel_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(kernel_version(""), None);
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        assert!(missing(true, "6.6.0", true).is_empty());
        let all = missing(false, "6.1.0-40-amd64", false).join("\n");
        for part in ["root", "Linux 6.6", "6.1.0-40-amd64", KERNEL_BTF] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
    }
}
