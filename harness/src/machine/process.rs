//! Processes inside a network namespace and a cgroup, ended when dropped.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Output},
    sync::{LazyLock, mpsc},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{cgroup::Cgroup, netns::Netns};

/// Capabilities have numbers of six bits.
const LAST_CAPABILITY: u8 = 63;

/// Where a process runs, and whether it may outlive this one.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub netns: &'a Netns,
    pub cgroup: &'a Cgroup,
    pub outlives: bool,
    /// The only capabilities that it may have, by number; `None`: all.
    pub capabilities: Option<&'static [u8]>,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command in a place.
    pub fn spawn(mut command: Command, place: Place<'_>) -> Result<Self> {
        let netns = place.netns.file().try_clone().context("duplicate a namespace")?;
        let procs = place.cgroup.path().join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let Place { outlives, capabilities, .. } = place;
        let enter = move || enter(&netns, &procs, outlives, capabilities);
        // SAFETY: between fork and exec `enter` makes only system calls; it takes no lock and no memory.
        unsafe { command.pre_exec(enter) };
        let child = spawn_from_lasting_thread(command).with_context(|| format!("start {program}"))?;
        Ok(Self { child })
    }

    /// Starts a command that enters its place by itself. It ends with this process.
    pub fn start(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        // SAFETY: between fork and exec `end_with_parent` makes only a system call.
        unsafe { command.pre_exec(end_with_parent) };
        let child = spawn_from_lasting_thread(command).with_context(|| format!("start {program}"))?;
        Ok(Self { child })
    }

    /// Starts a command in a network namespace, and in this process's own cgroup: moving to another one takes the
    /// kernel a grace period, 10 ms. It ends with this process.
    pub fn within(netns: &Netns, mut command: Command) -> Result<Self> {
        let netns = netns.file().try_clone().context("duplicate a namespace")?;
        // SAFETY: between fork and exec `join` makes only a system call.
        unsafe { command.pre_exec(move || join(&netns)) };
        Self::start(command)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub const fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal. A process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is a positive i32");
        // Not reaped yet, so the pid is still this child's.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Writes its whole input, then reads all that it prints. All three streams must be pipes.
    pub fn finish(mut self, input: &[u8]) -> Result<Output> {
        let mut stdin = self.child.stdin.take().context("standard input is not piped")?;
        // A process that does not read its input ends without it.
        let _ = stdin.write_all(input);
        drop(stdin);
        let mut output = Output { status: ExitStatus::default(), stdout: Vec::new(), stderr: Vec::new() };
        let mut stdout = self.child.stdout.take().context("standard output is not piped")?;
        stdout.read_to_end(&mut output.stdout).context("read standard output")?;
        let mut stderr = self.child.stderr.take().context("standard error is not piped")?;
        stderr.read_to_end(&mut output.stderr).context("read standard error")?;
        output.status = self.child.wait().context("wait for a process")?;
        Ok(output)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("look at a process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves the calling process into a place.
fn enter(netns: &File, procs: &File, outlives: bool, capabilities: Option<&[u8]>) -> io::Result<()> {
    write_zero(procs.as_raw_fd())?;
    join(netns)?;
    if let Some(kept) = capabilities {
        limit_capabilities(kept)?;
    }
    if outlives {
        // SAFETY: a system call without pointers.
        check(unsafe { libc::setsid() })
    } else {
        end_with_parent()
    }
}

/// Moves the calling process into a network namespace.
fn join(netns: &File) -> io::Result<()> {
    // SAFETY: a system call on an open descriptor.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Makes the calling process end with its parent, also when the parent is killed.
fn end_with_parent() -> io::Result<()> {
    // SAFETY: a system call without pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Removes all other capabilities from the bounding set, so that exec does not give them to root.
fn limit_capabilities(kept: &[u8]) -> io::Result<()> {
    for capability in (0..=LAST_CAPABILITY).filter(|capability| !kept.contains(capability)) {
        // SAFETY: a system call without pointers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) };
        match check(result) {
            // A kernel that has fewer.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

/// "0" stands for the writing process.
fn write_zero(procs: RawFd) -> io::Result<()> {
    // SAFETY: the buffer is one byte long.
    let written = unsafe { libc::write(procs, b"0".as_ptr().cast(), 1) };
    if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The parent-death signal is sent when the *thread* that forked ends, so one thread that never ends forks all.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The caller waits for this reply, so it is there.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::channel();
    let gone = || io::Error::other("the spawning thread is gone");
    SPAWNER.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
