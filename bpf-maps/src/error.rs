//! What can go wrong, said so that a person can act on it.
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A property of a map that its programs and readers must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Kind,
    KeySize,
    ValueSize,
    Flags,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "map type",
            Self::KeySize => "key size",
            Self::ValueSize => "value size",
            Self::Flags => "flags",
        })
    }
}

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Open,
    OpenById,
    Pin,
    Info,
    Lookup,
    Update,
    Delete,
    Dump,
    LinkUpdate,
    Detach,
    Query,
    TestRun,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open | Self::OpenById => "open",
            Self::Pin => "pin",
            Self::Info => "inspect",
            Self::Lookup => "look up in",
            Self::Update => "write to",
            Self::Delete => "delete from",
            Self::Dump => "dump",
            Self::LinkUpdate => "swap the program of",
            Self::Detach => "detach",
            Self::Query => "list the programs of",
            Self::TestRun => "test-run",
        })
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation} {object}: {}", meaning(*.operation, .source))]
    Syscall {
        operation: Operation,
        /// The map's name, or the path of a pin.
        object: String,
        source: io::Error,
    },
    /// A batch stopped in the middle. The entries before are done, the rest is not.
    #[error("cannot {operation} {map} after {done} of {total} entries: {}", meaning(*.operation, .source))]
    Partial { operation: Operation, map: String, done: usize, total: usize, source: io::Error },
    #[error(
        "{map} ({}) has {field} {found}, this version expects {expected}: it was made by another version; \
         drain the node, remove {} and start the agent again",
        .path.display(),
        .path.parent().unwrap_or(.path).display()
    )]
    Layout { map: String, path: PathBuf, field: Field, expected: u32, found: u32 },
    #[error(
        "the maps in {} are of ABI version {found}, which this version does not know: run the agent that made them, or drain \
         the node, remove that directory and start this agent again",
        .path.display()
    )]
    Abi { path: PathBuf, found: u32 },
    #[error(
        "{map} is of version {found}, this command reads version {expected}: use the `millrace` of the agent that runs here"
    )]
    Version { map: String, found: u32, expected: u32 },
    #[error("{map} has map type {kind}, which this version cannot read")]
    UnknownKind { map: String, kind: u32 },
    #[error("{map} takes {expected} bytes of {part}, not {found}")]
    Size { map: String, part: &'static str, expected: usize, found: usize },
    #[error("{} is not a bpffs: mount -t bpf bpf {}", .path.display(), .path.display())]
    NotBpffs { path: PathBuf },
    #[error("{} belongs to user {owner} with mode {mode:o}, so others may change the maps: \
         chown root {} && chmod 700 {}", .path.display(), .path.display(), .path.display())]
    Unsafe { path: PathBuf, owner: u32, mode: u32 },
    #[error("{} is in use by another agent: one agent per pin directory, give this one another --bpffs", .path.display())]
    Locked { path: PathBuf },
    #[error("cannot {operation} {}: {source}", .path.display())]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    pub(crate) fn pin(operation: Operation, path: &Path, source: io::Error) -> Self {
        Self::Syscall { operation, object: path.display().to_string(), source }
    }

    /// The kernel's error number behind this error.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Syscall { source, .. } | Self::Partial { source, .. } | Self::Path { source, .. } => {
                source.raw_os_error()
            }
            Self::Layout { .. }
            | Self::Abi { .. }
            | Self::Version { .. }
            | Self::UnknownKind { .. }
            | Self::Size { .. }
            | Self::NotBpffs { .. }
            | Self::Unsafe { .. }
            | Self::Locked { .. } => None,
        }
    }

    /// Whether nothing is at the path.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }

    /// Whether the caller lacks a right.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Whether the map has no room for another entry.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Syscall { operation: Operation::Update, .. }
                | Self::Partial { operation: Operation::Update, .. }
        ) && matches!(self.errno(), Some(libc::E2BIG | libc::ENOSPC))
    }
}

/// The kernel's error text, and what it means for this operation.
fn meaning(operation: Operation, source: &io::Error) -> String {
    let hint = match (source.raw_os_error(), operation) {
        (Some(libc::E2BIG | libc::ENOSPC), Operation::Update) => "the map is full",
        (Some(libc::EPERM), Operation::OpenById) => "the capability CAP_SYS_ADMIN is missing",
        (Some(libc::EPERM), Operation::LinkUpdate | Operation::TestRun) => {
            "the capability CAP_BPF or CAP_NET_ADMIN is missing"
        }
        (Some(libc::EPERM), _) => "the capability CAP_BPF is missing",
        (Some(libc::EACCES), _) => "only root may open the pins",
        (Some(libc::ENOENT), Operation::Open) => "nothing is pinned there",
        (Some(libc::EEXIST), Operation::Pin) => "something is pinned there already",
        (Some(libc::ENOMEM), _) => "no memory, or the memory limit of the cgroup is reached",
        _ => return source.to_string(),
    };
    format!("{hint} ({source})")
}
