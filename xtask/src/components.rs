//! The components of a real cluster, built from the pinned Go modules in `harness/components/`. The first build takes a
//! quarter of an hour; its result is kept outside the work tree, under a name that its inputs make.
use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// Where the modules are, from the workspace's root.
const MODULES: &str = "harness/components";
/// Where builds are kept, if not in the user's cache.
const CACHE: &str = "MILLRACE_CACHE";
/// How often a long build says that it is still at it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// One program of a component.
struct Program {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    tags: &'static str,
    /// Settings of the linker that tell the program its version.
    version: &'static str,
}

/// In the order of the build: what others wait for comes first.
const PROGRAMS: &[Program] = &[
    Program {
        name: "etcd",
        module: "kubernetes",
        package: "go.etcd.io/etcd/server/v3",
        tags: "",
        version: "",
    },
    Program {
        name: "kube",
        module: "kubernetes",
        package: ".",
        tags: "",
        version: "-X k8s.io/component-base/version.gitVersion=v1.37.2 \
                  -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=37",
    },
    Program {
        name: "containerd",
        module: "containerd",
        package: "github.com/containerd/containerd/v2/cmd/containerd",
        tags: CONTAINERD_TAGS,
        version: CONTAINERD_VERSION,
    },
    Program {
        name: "containerd-shim-runc-v2",
        module: "containerd",
        package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        tags: CONTAINERD_TAGS,
        version: CONTAINERD_VERSION,
    },
    Program {
        name: "ctr",
        module: "containerd",
        package: "github.com/containerd/containerd/v2/cmd/ctr",
        tags: CONTAINERD_TAGS,
        version: CONTAINERD_VERSION,
    },
    Program {
        name: "coredns",
        module: "coredns",
        package: "github.com/coredns/coredns",
        tags: "",
        version: "",
    },
    Program { name: "helm", module: "helm", package: "helm.sh/helm/v4/cmd/helm", tags: "", version: "" },
];

/// Snapshotters that need C libraries or devices.
const CONTAINERD_TAGS: &str = "no_btrfs,no_zfs,no_devmapper";
const CONTAINERD_VERSION: &str = "-X github.com/containerd/containerd/v2/version.Version=2.4.2";

/// What the binary `kube` does when it is called by these names.
const KUBE_NAMES: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// Builds what is not built yet, and returns the folder of the programs.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = cache()?.join("cluster").join(inputs()?);
    let missing: Vec<&Program> =
        PROGRAMS.iter().filter(|program| !folder.join(program.name).exists()).collect();
    if !missing.is_empty() {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        command::announce(&format!(
            "components of a real cluster: {} programs, a quarter of an hour when nothing is built yet",
            missing.len()
        ));
    }
    for (number, program) in missing.iter().enumerate() {
        eprintln!("    {} of {}: {}", number + 1, missing.len(), program.name);
        build(program, &folder)?;
    }
    for name in KUBE_NAMES {
        link("kube", &folder.join(name))?;
    }
    Ok(folder)
}

/// Makes `path` a symbolic link to `to`, whatever it was before.
pub(crate) fn link(to: impl AsRef<Path>, path: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|old| old == to.as_ref()) {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    std::os::unix::fs::symlink(to.as_ref(), path).with_context(|| format!("cannot link {}", path.display()))
}

fn build(program: &Program, folder: &Path) -> Result<()> {
    let Program { name, module, package, tags, version } = program;
    // A build that is interrupted leaves no half program under the name.
    let partial = folder.join(format!("{name}.partial"));
    let mut go = go()?;
    go.current_dir(module_folder(module)).arg("build").arg("-trimpath");
    if !tags.is_empty() {
        go.args(["-tags", tags]);
    }
    go.args(["-ldflags", format!("-s -w {version}").trim_end()]);
    go.arg("-o").arg(&partial).arg(package);
    let child = go.spawn().context("cannot start `go`")?;
    wait(child, name).with_context(|| {
        format!(
            "cannot build {name} from {MODULES}/{module}; if modules could not be fetched, `go env GOPROXY` must \
             name a module proxy that this machine reaches"
        )
    })?;
    fs::rename(&partial, folder.join(name)).with_context(|| format!("cannot rename {}", partial.display()))
}

/// Waits for the build with a sign of life now and then: the compiler itself prints nothing for minutes.
fn wait(mut child: Child, name: &str) -> Result<()> {
    let started = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for `go`")? {
            if !status.success() {
                bail!("`go build` failed: {status}");
            }
            eprintln!("        {name} after {:.0} s", started.elapsed().as_secs_f64());
            return Ok(());
        }
        if started.elapsed() >= told + SIGN_OF_LIFE {
            told = started.elapsed();
            eprintln!("        {name}: {:.0} s so far", told.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// A name for everything that decides what is built.
fn inputs() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    command::output(go()?.arg("version"))?.hash(&mut hasher);
    for program in PROGRAMS {
        (program.name, program.package, program.tags, program.version).hash(&mut hasher);
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = module_folder(program.module).join(file);
            // Only one module has a program of its own.
            fs::read(&path).ok().hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn module_folder(module: &str) -> PathBuf {
    workspace::root().join(MODULES).join(module)
}

/// Go, found and without settings of the user that would change what is built.
fn go() -> Result<Command> {
    let in_place = Path::new("/usr/local/go/bin/go");
    let found = command::program("go").arg("version").output().is_ok_and(|output| output.status.success());
    if !found && !in_place.exists() {
        bail!(
            "`go` is not on the search path: the components of a cluster are built with Go 1.26 or later \
             (https://go.dev/dl/, or the package golang-go where it is recent enough)"
        );
    }
    let mut go = command::program(if found { Path::new("go") } else { in_place });
    go.env("CGO_ENABLED", "0").env_remove("GOFLAGS");
    Ok(go)
}

fn cache() -> Result<PathBuf> {
    let set = std::env::var_os(CACHE).map(PathBuf::from);
    let home = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let folder = set.or_else(|| Some(home()?.join("millrace")));
    folder.with_context(|| format!("there is no HOME: set {CACHE} to the folder where builds are kept"))
}
