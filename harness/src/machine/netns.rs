//! Named network namespaces, as `ip netns` makes them.
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps its names.
pub const FOLDER: &str = "/run/netns";

/// A network namespace that disappears when dropped, unless it was made to last.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    lasts: bool,
}

impl Netns {
    /// Makes a namespace with its loopback interface up.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("create {FOLDER}"))?;
        let path = Path::new(FOLDER).join(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        // A thread of its own: the calling thread stays in its namespace.
        let made = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let source = Some("/proc/thread-self/ns/net");
                mount(source, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            made.join().map_err(|_| anyhow!("the thread panicked"))
        });
        let opened = made
            .and_then(|made| made.context("make a network namespace"))
            .and_then(|()| File::open(&path).with_context(|| format!("open {}", path.display())));
        match opened {
            Ok(file) => {
                let netns = Self { name: name.to_owned(), file, lasts: false };
                netns.ip("link set lo up")?;
                Ok(netns)
            }
            Err(error) => {
                delete(name);
                Err(error)
            }
        }
    }

    /// Makes a namespace that stays until [`delete`] removes it.
    pub fn create_lasting(name: &str) -> Result<Self> {
        let mut netns = Self::create(name)?;
        netns.lasts = true;
        Ok(netns)
    }

    /// Opens a namespace that somebody else made, and leaves it there.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(FOLDER).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file, lasts: true })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `CNI_NETNS` and `ip -n` understand.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// The namespace itself, for `setns`.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Runs a function on a thread inside the namespace.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside =
                scope.spawn(|| setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| function()));
            match inside.join() {
                Ok(result) => result.with_context(|| format!("enter network namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs lines of `ip` inside the namespace.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut ip = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run `ip`: install iproute2")?;
        ip.stdin.take().expect("piped").write_all(lines.as_bytes()).context("write to `ip`")?;
        let output = ip.wait_with_output().context("wait for `ip`")?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!("in {}: {lines:?}: {}", self.name, message.trim());
        }
        Ok(())
    }

    /// Sets kernel switches below `/proc/sys/net` of the namespace.
    pub fn sysctl(&self, switches: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            switches.iter().try_for_each(|(name, value)| {
                let path = Path::new("/proc/sys/net").join(name);
                fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
            })
        })?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.lasts {
            delete(&self.name);
        }
    }
}

/// Removes the name of a namespace, if it is there; the namespace goes with its last user.
pub fn delete(name: &str) {
    let path = Path::new(FOLDER).join(name);
    // Not mounted when creation failed half way.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("remove {}: {error}", path.display());
        }
        _ => {}
    }
}
