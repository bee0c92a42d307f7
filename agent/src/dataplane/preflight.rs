//! What the machine must offer, checked before anything is touched: one clear error each, with its remedy.
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aya::{
    programs::{ProgramError, SchedClassifier, TcAttachType},
    sys::SyscallError,
};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// What the machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "missing {missing}: run the agent as root, or add them in the pod's securityContext.capabilities"
    )]
    Capabilities { missing: Capabilities },
    #[error("Linux {release} is too old: tcx links, which replace programs without a gap, need 6.6 or later")]
    Kernel { release: String },
    #[error(
        "the kernel has no tcx (Linux {release}): it must be built with CONFIG_NET_XGRESS and CONFIG_BPF_SYSCALL"
    )]
    NoTcx { release: String },
    #[error(
        "no cgroup2 is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or name one with --cgroup-root"
    )]
    NoCgroup2,
    #[error("--cgroup-root {} is not a directory of a cgroup2 mount", .path.display())]
    NotCgroup2 { path: PathBuf },
    #[error("cannot read {path}")]
    Proc { path: &'static str, source: io::Error },
    #[error("cannot make sense of {path}: {content:?}")]
    ProcContent { path: &'static str, content: String },
}

/// A set of capabilities, as a mask of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What the agent needs, and why.
const NEEDED: [(u32, &str, &str); 3] = [
    (BPF, "CAP_BPF", "create maps and load programs"),
    (NET_ADMIN, "CAP_NET_ADMIN", "attach programs and set routes"),
    (PERFMON, "CAP_PERFMON", "load programs without the checks that make them five times slower"),
];

impl Capabilities {
    fn has(self, capability: u32) -> bool {
        self.0 & (1 << capability) != 0
    }

    /// What of [`NEEDED`] is not in this set. `CAP_SYS_ADMIN` includes the two younger ones.
    fn missing(self) -> Option<Self> {
        let implied = if self.has(SYS_ADMIN) { 1 << BPF | 1 << PERFMON } else { 0 };
        let needed = NEEDED.iter().fold(0, |mask, (capability, ..)| mask | 1 << capability);
        let missing = needed & !(self.0 | implied);
        (missing != 0).then_some(Self(missing))
    }

    /// The effective set in the text of `/proc/self/status`.
    fn effective_in(status: &str) -> Option<Self> {
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(hex.trim(), 16).ok().map(Self)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (capability, name, purpose) in NEEDED {
            if self.has(capability) {
                write!(f, "{separator}{name} (to {purpose})")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// Checks everything that is not about the pin directory, and finds the cgroup to attach to.
pub(crate) fn check(cgroup_root: Option<&Path>) -> Result<PathBuf, PreflightError> {
    let status = read("/proc/self/status")?;
    let capabilities = Capabilities::effective_in(&status)
        .ok_or(PreflightError::ProcContent { path: "/proc/self/status", content: status })?;
    if let Some(missing) = capabilities.missing() {
        return Err(PreflightError::Capabilities { missing });
    }
    check_kernel()?;
    find_cgroup2(cgroup_root)
}

fn check_kernel() -> Result<(), PreflightError> {
    let release = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    match version_of(&release) {
        Some(version) if version < (6, 6) => return Err(PreflightError::Kernel { release }),
        Some(_) => {}
        None => {
            return Err(PreflightError::ProcContent { path: "/proc/sys/kernel/osrelease", content: release });
        }
    }
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            Err(PreflightError::NoTcx { release })
        }
        // Opening foreign programs by their id needs CAP_SYS_ADMIN, which the agent does not: the query worked.
        _ => Ok(()),
    }
}

fn find_cgroup2(wanted: Option<&Path>) -> Result<PathBuf, PreflightError> {
    let Some(path) = wanted else {
        return cgroup2_mount_in(&read("/proc/self/mountinfo")?).ok_or(PreflightError::NoCgroup2);
    };
    // Where version 1 is mounted too, version 2 is a folder below.
    [path.to_owned(), path.join("unified")]
        .into_iter()
        .find(|path| statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .ok_or_else(|| PreflightError::NotCgroup2 { path: path.to_owned() })
}

/// Major and minor number of a release such as `6.6.12-cloud-amd64`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The mount point of the first cgroup2 in the text of `/proc/self/mountinfo` (proc(5)): fixed fields, any number
/// of optional ones, ` - `, and the type.
fn cgroup2_mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fixed, rest) = line.split_once(" - ")?;
        let mount_point = fixed.split(' ').nth(4)?;
        (rest.split(' ').next()? == "cgroup2").then(|| PathBuf::from(unescape(mount_point)))
    })
}

/// Undoes the kernel's escapes of white space and backslash: `\040` and the like.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

fn read(path: &'static str) -> Result<String, PreflightError> {
    fs::read_to_string(path).map_err(|source| PreflightError::Proc { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(cap_eff: &str) -> Option<String> {
        let status = format!(
            "Name:\tagent\nCapInh:\t0000000000000000\nCapEff:\t{cap_eff}\nCapBnd:\t000001ffffffffff\n"
        );
        Capabilities::effective_in(&status)?.missing().map(|missing| missing.to_string())
    }

    #[test]
    fn the_three_capabilities_are_enough() {
        assert_eq!(missing("000000c000001000"), None);
    }

    #[test]
    fn sys_admin_includes_bpf_and_perfmon() {
        assert_eq!(missing("0000000000201000"), None);
    }

    #[test]
    fn a_missing_capability_is_named_with_its_purpose() {
        let missing = missing("0000008000001000").unwrap_or_default();
        assert!(missing.starts_with("CAP_PERFMON (to "), "{missing}");
        assert!(!missing.contains("CAP_BPF"), "{missing}");
    }

    #[test]
    fn an_unprivileged_process_lacks_all_three() {
        let missing = missing("0000000000000000").unwrap_or_default();
        assert!(
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"].iter().all(|name| missing.contains(name)),
            "{missing}"
        );
    }

    #[test]
    fn a_status_without_capabilities_is_not_understood() {
        assert_eq!(Capabilities::effective_in("Name:\tagent\n"), None);
        assert_eq!(Capabilities::effective_in("CapEff:\tnone\n"), None);
    }

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        assert_eq!(version_of("6.6.12-cloud-amd64"), Some((6, 6)));
        assert_eq!(version_of("6.18-rc1"), Some((6, 18)));
        assert!(version_of("5.10.0-26-amd64") < Some((6, 6)));
        assert!(version_of("10.0") > Some((6, 6)));
        assert_eq!(version_of("linux"), None);
    }

    #[test]
    fn the_cgroup2_mount_is_found_beside_version_1_and_with_optional_fields() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755\n\
                         32 31 0:29 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n\
                         41 31 0:38 / /sys/fs/cgroup/two\\040words rw shared:6 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount_in(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/two words")));
        assert_eq!(cgroup2_mount_in("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
