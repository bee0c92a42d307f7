//! A long-running program of a cluster. It outlives its starter; a file remembers its process.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};

use super::{name::ClusterName, place::Place};
use crate::eventually::holds;

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many lines of its log an error shows.
const SHOWN_LINES: usize = 5;

/// One program of one machine of a cluster.
#[derive(Clone, Debug)]
pub struct Component {
    cluster: ClusterName,
    machine: String,
    name: &'static str,
}

impl Component {
    #[must_use]
    pub fn new(cluster: &ClusterName, machine: &str, name: &'static str) -> Self {
        Self { cluster: cluster.clone(), machine: machine.to_owned(), name }
    }

    /// The machine and the program.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}.{}", self.machine, self.name)
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.cluster.folder().join("logs").join(format!("{}.log", self.label()))
    }

    /// Starts the program in its place.
    pub fn start(&self, place: &Place, command: Command) -> Result<()> {
        self.start_with_input(place, command, Stdio::null())
    }

    /// Starts the program with something as its standard input.
    pub fn start_with_input(&self, place: &Place, mut command: Command, input: Stdio) -> Result<()> {
        let log = self.open_log()?;
        command.stdin(input).stdout(log.try_clone().context("duplicate a log file")?).stderr(log);
        place.enter(&mut command).with_context(|| format!("place of {}", self.label()))?;
        let leave_session = || setsid().map(drop).map_err(io::Error::from);
        // SAFETY: between fork and exec it makes one system call.
        unsafe { command.pre_exec(leave_session) };
        let mut child = command.spawn().with_context(|| format!("start {}", self.label()))?;
        let written = fs::write(self.pid_file(), child.id().to_string());
        // The program is not ended with its starter; while the starter lives, it takes note of the end.
        std::thread::spawn(move || child.wait());
        written.with_context(|| format!("write {}", self.pid_file().display()))
    }

    /// The process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // A process that ended leaves its number to others, and a zombie has no group.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let scope = self.cluster.scope();
        let is_ours = groups.lines().any(|line| line.split('/').any(|group| group == scope));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let is_dead = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']));
        (is_ours && !is_dead).then_some(pid)
    }

    /// Sends a signal. A program that does not run is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let pid = i32::try_from(pid).context("a process number")?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("signal {}", self.label())),
        }
    }

    /// Ends the program without asking it.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        holds(format!("end of {}", self.label()), PATIENCE, || self.pid().is_none())
    }

    /// Asks the program to end, and waits.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        holds(format!("end of {}", self.label()), PATIENCE, || self.pid().is_none())
    }

    /// An error with the end of the log, unless the program runs.
    pub fn check_runs(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        bail!("{} ended; its log {} ends:\n{}", self.label(), self.log().display(), last_lines(&self.log()))
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log();
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.with_context(|| format!("open {}", path.display()))
    }

    fn pid_file(&self) -> PathBuf {
        self.cluster.folder().join("run").join(format!("{}.pid", self.label()))
    }
}

/// The folders that components need.
pub(super) fn prepare(cluster: &ClusterName) -> Result<()> {
    for folder in ["logs", "run"] {
        let folder = cluster.folder().join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    Ok(())
}

/// Empties the log of a component that does not run.
pub(super) fn forget_log(component: &Component) -> Result<()> {
    let path = component.log();
    File::create(&path).map(drop).with_context(|| format!("empty {}", path.display()))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
