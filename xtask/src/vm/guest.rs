//! A virtual machine without KVM: a kernel, a first root in memory, and a serial console that is read to the end.
use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    console::tail,
    cpio::{Entry, archive},
};
use crate::{command, debian};

/// Idle it takes ten seconds; a busy machine makes that minutes.
const DEADLINE: Duration = Duration::from_mins(5);
const BUSYBOX: &str = "/bin/busybox";

pub(crate) const NEEDED: &[debian::Needed] = &[
    debian::Needed {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "virtual machines for other kernels",
    },
    debian::Needed { program: "busybox", package: "busybox-static", why: "shell of the virtual machines" },
];

/// The first program. Locked memory is unlimited because kernels before 5.11 (d5299b67dd59) count maps by it.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ulimit -l unlimited
verifier-guest /dataplane
poweroff -f
";

/// The first root: a shell, the program that loads, and what it loads.
pub(crate) fn root(loader: &Path, object: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (busybox, loader, object) = (read(Path::new(BUSYBOX))?, read(loader)?, read(object)?);
    Ok(archive(&[
        Entry::Folder("bin"),
        Entry::Folder("dev"),
        Entry::Folder("proc"),
        Entry::Folder("sys"),
        Entry::Device("dev/console", 5, 1),
        Entry::Device("dev/null", 1, 3),
        Entry::Program("bin/busybox", &busybox),
        Entry::Program("bin/verifier-guest", &loader),
        Entry::Program("dataplane", &object),
        Entry::Program("init", INIT.as_bytes()),
    ]))
}

/// Boots the kernel and returns all that it said, once it has switched itself off.
pub(crate) fn boot(kernel: &Path, root: &Path) -> Result<String> {
    let mut qemu = command::program("qemu-system-x86_64");
    // One processor: with more, emulation that runs side by side falls over code that the kernel patches.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1536", "-smp", "1"])
        .args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(root)
        .args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
    read_to_end(qemu, DEADLINE)
}

/// Runs a program that prints and ends, until `deadline`.
fn read_to_end(mut program: Command, deadline: Duration) -> Result<String> {
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        program.spawn().with_context(|| format!("cannot start {}", program.get_program().display()))?;
    let (sender, said) = mpsc::channel();
    for mut pipe in pipes(&mut child) {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let until = std::time::Instant::now() + deadline;
    let mut console = Vec::new();
    let text = |console: &[u8]| String::from_utf8_lossy(console).into_owned();
    loop {
        match said.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
            Ok(bytes) => console.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let ended = child.kill().and_then(|()| child.wait());
                ended.context("cannot end it")?;
                bail!(
                    "it did not end in {} s; its last words:\n{}",
                    deadline.as_secs(),
                    tail(&text(&console))
                );
            }
        }
    }
    let status = child.wait().context("cannot wait for its end")?;
    if !status.success() {
        bail!("it failed: {status}\n{}", tail(&text(&console)));
    }
    Ok(text(&console))
}

fn pipes(child: &mut Child) -> Vec<Box<dyn std::io::Read + Send>> {
    let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    stdout.into_iter().chain(stderr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn everything_that_a_guest_says_is_kept() {
        let said = read_to_end(shell("echo first; echo last"), DEADLINE).unwrap();
        assert_eq!(said, "first\nlast\n");
    }

    #[test]
    fn a_guest_that_hangs_is_ended_and_its_last_words_are_told() {
        let error =
            read_to_end(shell("echo still here; exec sleep 600"), Duration::from_secs(2)).unwrap_err();
        assert!(error.to_string().contains("still here"), "{error}");
    }

    #[test]
    fn a_machine_that_does_not_start_is_an_error() {
        let error = read_to_end(shell("echo no such option >&2; exit 1"), DEADLINE).unwrap_err();
        assert!(error.to_string().contains("no such option"), "{error}");
    }
}
