//! A virtual machine without KVM: a kernel, a first root in memory, and a serial console that is read to the end.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
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
use crate::{command, debian, workspace};

/// Idle it takes a minute; a busy machine makes that many.
const DEADLINE: Duration = Duration::from_mins(15);
const BUSYBOX: &str = "/bin/busybox";

pub(crate) const NEEDED: &[debian::Needed] = &[
    debian::Needed {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "virtual machines for other kernels",
    },
    debian::Needed { program: "busybox", package: "busybox-static", why: "shell of the virtual machines" },
    debian::Needed { program: "ip", package: "iproute2", why: "network namespaces in the virtual machines" },
    debian::Needed { program: "xz", package: "xz-utils", why: "modules of the virtual machines' kernels" },
    debian::Needed { program: "strip", package: "binutils", why: "smaller programs in the virtual machines" },
];

/// The first program. Locked memory is unlimited because kernels before 5.11 (d5299b67dd59) count maps by it.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ulimit -l unlimited
verifier-guest /dataplane
if [ -e /bin/netns ]; then
    for module in /modules/*; do insmod $module; done
    ip link set lo up
    echo 'millrace: traffic begins'
    begun=$(date +%s)
    export MILLRACE_PATIENCE_FACTOR=10
    if netns kernels:: --test-threads 1 --nocapture; then
        echo \"millrace: traffic passed $(($(date +%s) - begun))\"
    else
        echo 'millrace: traffic failed'
    fi
fi
poweroff -f
";

/// What the machine runs besides loading programs: tests, and what they start. They are found in one folder.
pub(crate) struct Programs {
    pub(crate) tests: PathBuf,
    pub(crate) others: Vec<PathBuf>,
}

/// Files of the first root by their names there: a shell, the program that loads, what it loads, and tests.
pub(crate) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    pub(crate) fn collect(loader: &Path, object: &Path, programs: Option<&Programs>) -> Result<Self> {
        let mut files = Self(BTreeMap::new());
        files.add("bin/busybox", read(Path::new(BUSYBOX))?);
        files.add("bin/verifier-guest", read(loader)?);
        files.add("dataplane", read(object)?);
        files.add("init", INIT.as_bytes().to_vec());
        if let Some(programs) = programs {
            files.add_program("netns", &programs.tests)?;
            for program in &programs.others {
                files.add_program(&program.file_name().unwrap_or_default().to_string_lossy(), program)?;
            }
        }
        Ok(files)
    }

    /// The first root, with modules that are loaded in this order.
    pub(crate) fn root(&self, modules: &[PathBuf]) -> Result<Vec<u8>> {
        let mut files: BTreeMap<String, &[u8]> =
            self.0.iter().map(|(name, content)| (name.clone(), content.as_slice())).collect();
        let modules = modules.iter().map(|module| read(module)).collect::<Result<Vec<_>>>()?;
        files.extend(
            modules
                .iter()
                .zip(0..)
                .map(|(module, number)| (format!("modules/{number}.ko"), module.as_slice())),
        );
        let folders: BTreeSet<&str> =
            files.keys().flat_map(|name| name.match_indices('/').map(|(at, _)| &name[..at])).collect();
        let mut entries: Vec<Entry<'_>> = folders.into_iter().map(Entry::Folder).collect();
        entries.extend(["dev", "proc", "run", "sys", "tmp"].map(Entry::Folder));
        entries.push(Entry::Device("dev/console", 5, 1));
        entries.push(Entry::Device("dev/null", 1, 3));
        entries.extend(files.iter().map(|(name, content)| Entry::Program(name, content)));
        Ok(archive(&entries))
    }

    fn add(&mut self, name: &str, content: Vec<u8>) {
        self.0.insert(name.to_owned(), content);
    }

    /// Adds a program of this machine, small, and the libraries that it needs.
    fn add_program(&mut self, name: &str, path: &Path) -> Result<()> {
        let small = workspace::target().join("vm").join(format!("{name}.stripped"));
        command::run(command::program("strip").arg("-o").arg(&small).arg(path))?;
        self.add(&format!("bin/{name}"), read(&small)?);
        let mut ldd = command::program("ldd");
        let needed = ldd.arg(path).output().context("cannot start ldd")?;
        // It fails for a program that needs none.
        for library in libraries(&String::from_utf8_lossy(&needed.stdout)) {
            self.add(library.trim_start_matches('/'), read(Path::new(library))?);
        }
        Ok(())
    }
}

/// The files in the output of `ldd`.
fn libraries(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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
    fn the_libraries_of_a_program_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<&str> = libraries(text).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
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
