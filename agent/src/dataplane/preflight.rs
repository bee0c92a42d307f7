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

use super::attach::By;
use crate::{config::Attach, net::clsact};

/// What the machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "missing {missing}: run the agent as root, or add them in the pod's securityContext.capabilities"
    )]
    Capabilities { missing: Capabilities },
    #[error(
        "the kernel has no tcx links (they came with 6.6): leave out --attach tcx, and filters of clsact do instead"
    )]
    NoTcx,
    #[error("the kernel has neither tcx links (since 6.6) nor {missing}: build or load one of the two")]
    NothingToAttachTo { missing: &'static str },
    #[error("the kernel has not {missing}: build or load it, or leave out --attach clsact")]
    NoClsact { missing: &'static str },
    #[error("cannot find out whether the kernel has the qdisc clsact")]
    Clsact(#[source] io::Error),
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

/// Checks everything that is not about the pin directory, and finds the cgroup to attach to, and how to attach to
/// interfaces.
pub(super) fn check(cgroup_root: Option<&Path>, attach: Attach) -> Result<(PathBuf, By), PreflightError> {
    let status = read("/proc/self/status")?;
    let capabilities = Capabilities::effective_in(&status)
        .ok_or(PreflightError::ProcContent { path: "/proc/self/status", content: status })?;
    if let Some(missing) = capabilities.missing() {
        return Err(PreflightError::Capabilities { missing });
    }
    let by = choose(attach, has_tcx(), || clsact::lacks().map_err(PreflightError::Clsact))?;
    Ok((find_cgroup2(cgroup_root)?, by))
}

/// Links where the kernel has them. `lacks` tells what is missing for filters.
fn choose(
    attach: Attach,
    has_tcx: bool,
    lacks: impl Fn() -> Result<Option<&'static str>, PreflightError>,
) -> Result<By, PreflightError> {
    match (attach, has_tcx) {
        (Attach::Auto | Attach::Tcx, true) => return Ok(By::Tcx),
        (Attach::Tcx, false) => return Err(PreflightError::NoTcx),
        (Attach::Auto, false) | (Attach::Clsact, _) => {}
    }
    match (lacks()?, attach) {
        (None, _) => Ok(By::Clsact),
        (Some(missing), Attach::Clsact) => Err(PreflightError::NoClsact { missing }),
        (Some(missing), _) => Err(PreflightError::NothingToAttachTo { missing }),
    }
}

/// Asked for the programs on a hook, a kernel without tcx (before 6.6, e420bed02507, or built without
/// `CONFIG_NET_XGRESS`) does not know what is meant.
fn has_tcx() -> bool {
    let asked = SchedClassifier::query_tcx("lo", TcAttachType::Ingress);
    // Opening foreign programs by their id needs CAP_SYS_ADMIN, which the agent does not: the query worked.
    !matches!(
        asked,
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::EINVAL)
    )
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
    fn links_are_used_where_the_kernel_has_them_and_filters_where_not() {
        let chosen = |attach, has_tcx, lacks: Option<&'static str>| {
            choose(attach, has_tcx, || Ok(lacks)).map_err(|error| error.to_string())
        };
        assert_eq!(chosen(Attach::Auto, true, Some("x")), Ok(By::Tcx));
        assert_eq!(chosen(Attach::Tcx, true, None), Ok(By::Tcx));
        assert_eq!(chosen(Attach::Auto, false, None), Ok(By::Clsact));
        assert_eq!(chosen(Attach::Clsact, true, None), Ok(By::Clsact));
        for (attach, lacks, named) in [
            (Attach::Auto, Some("the qdisc clsact"), "neither tcx links (since 6.6) nor the qdisc clsact"),
            (Attach::Clsact, Some("the classifier bpf"), "not the classifier bpf"),
            (Attach::Tcx, None, "no tcx links"),
        ] {
            let error = chosen(attach, false, lacks).unwrap_err();
            assert!(error.contains(named), "{named} is not in {error}");
        }
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
