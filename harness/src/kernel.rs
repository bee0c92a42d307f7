//! What the tests need of the kernel. A missing feature fails a test; it never skips one.
use std::{fs, path::Path};

use crate::machine::cgroup;

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// At least this kernel.
    Version(u32, u32),
    /// Type information of the kernel, for programs and maps.
    Btf,
    /// A cgroup v2 hierarchy, for the socket programs.
    Cgroup2,
    /// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN` and `CAP_BPF`, to make namespaces and load programs.
    Root,
}

/// What every test with real interfaces needs.
pub const NETNS: &[Need] = &[Need::Version(6, 6), Need::Btf, Need::Cgroup2, Need::Root];

/// The same on the oldest kernel that Millrace runs on, without tcx.
pub const OLDEST: &[Need] = &[Need::Version(6, 1), Need::Btf, Need::Cgroup2, Need::Root];

impl Need {
    /// What to do about it, when it is not met.
    #[must_use]
    pub fn unmet(self) -> Option<String> {
        match self {
            Self::Version(major, minor) => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                (version(&release) < Some((major, minor))).then(|| {
                    format!("kernel {} is older than {major}.{minor}: boot a newer one", release.trim())
                })
            }
            Self::Btf => (!Path::new("/sys/kernel/btf/vmlinux").exists()).then(|| {
                "/sys/kernel/btf/vmlinux is missing: boot a kernel with CONFIG_DEBUG_INFO_BTF".to_owned()
            }),
            Self::Cgroup2 => cgroup::root().err().map(|error| format!("{error:#}")),
            Self::Root => {
                const WANTED: u64 = 1 << 12 | 1 << 21 | 1 << 39;
                (effective_capabilities() & WANTED != WANTED)
                    .then(|| "CAP_NET_ADMIN, CAP_SYS_ADMIN or CAP_BPF is missing: run as root".to_owned())
            }
        }
    }
}

/// Fails the test when a need is not met.
pub fn require(needs: &[Need]) {
    let unmet: Vec<String> = needs.iter().filter_map(|need| need.unmet()).collect();
    assert!(unmet.is_empty(), "this test cannot run here: {}", unmet.join("; "));
}

/// Major and minor version of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(line.trim(), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_by_number() {
        assert_eq!(version("6.18.44-fc-v669\n"), Some((6, 18)));
        assert_eq!(version("6.6"), Some((6, 6)));
        assert!(version("5.10.0-30-amd64") < Some((6, 6)));
        assert!(version("garbage") < Some((6, 6)));
    }
}
