//! The kernels that users have, where they come from, and what each cannot do.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, debian::Suite, workspace};

/// The metapackage of the kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel of Debian, pinned by the suite. What it lacks is listed, and checked: a program that starts to load, or is
/// refused for another reason, fails the run.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) refuses: &'static [Refusal],
    /// Whether Millrace runs on it: then packets are sent.
    pub(crate) is_supported: bool,
}

/// What a virtual machine needs of a kernel.
pub(crate) struct Image {
    pub(crate) vmlinuz: PathBuf,
    /// In the order in which they are loaded.
    pub(crate) modules: Vec<PathBuf>,
}

/// Pairs of interfaces, bridges of them (with what bridges need), and filters. What is built in has no file.
const MODULES: &[&str] = &["llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf"];

/// A program that a kernel does not load.
pub(crate) struct Refusal {
    pub(crate) program: &'static str,
    /// What the verifier's log says.
    pub(crate) because: &'static str,
}

/// `bpf_check_mtu`, a helper of v5.12 (34b2021cc616).
const NO_CHECK_MTU: &str = "invalid func unknown#163";
/// Global functions take pointers to other things than the context since v5.13 (e5069b9c23b3).
const NO_POINTER_TO_GLOBAL_FUNCTION: &str = "is not supported yet";

/// Point releases, not security updates: old ones of those expire, and apt refuses them.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        suite: "bullseye",
        refuses: &[
            Refusal { program: "from_pod", because: NO_CHECK_MTU },
            Refusal { program: "connect4", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "connect6", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "sendmsg4", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "sendmsg6", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "recvmsg4", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "recvmsg6", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "getpeername4", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "getpeername6", because: NO_POINTER_TO_GLOBAL_FUNCTION },
        ],
        is_supported: false,
    },
    Kernel { name: "6.1", suite: "bookworm", refuses: &[], is_supported: true },
    Kernel { name: "6.12", suite: "trixie", refuses: &[], is_supported: true },
    Kernel { name: "newest", suite: "trixie-backports", refuses: &[], is_supported: true },
];

impl Kernel {
    /// The kernel, fetched once.
    pub(crate) fn fetch(&self) -> Result<Image> {
        let vmlinuz = self.folder().join("vmlinuz");
        if !vmlinuz.exists() || !self.modules().exists() {
            command::announce(&format!("Linux {} from Debian's {}", self.name, self.suite));
            self.download(&vmlinuz).with_context(|| self.how_to_go_on(&vmlinuz))?;
        }
        let file = |name: &&str| self.modules().join(format!("{name}.ko"));
        let modules = MODULES.iter().map(file).filter(|path| path.exists()).collect();
        Ok(Image { vmlinuz, modules })
    }

    fn how_to_go_on(&self, kept: &Path) -> String {
        let others: Vec<&str> =
            KERNELS.iter().map(|kernel| kernel.name).filter(|name| *name != self.name).collect();
        format!(
            "cannot fetch Linux {} (package {PACKAGE} of Debian's {}). Put the vmlinuz of such a kernel at {} and \
             its modules ({}) into {}, or run the others: cargo xtask vm {}",
            self.name,
            self.suite,
            kept.display(),
            MODULES.join(", "),
            self.modules().display(),
            others.join(" ")
        )
    }

    fn folder(&self) -> PathBuf {
        workspace::target().join("vm/kernels").join(self.name)
    }

    fn modules(&self) -> PathBuf {
        self.folder().join("modules")
    }

    fn download(&self, kept: &Path) -> Result<()> {
        let unpacked = self.folder().join("unpacked");
        let suite = Suite::open(self.suite, &self.folder().join("apt"))?;
        let image = dependency(&suite, PACKAGE, "linux-image-")?
            .with_context(|| format!("{PACKAGE} depends on no kernel"))?;
        // Since 7.0, Debian packs the image itself and its modules as packages of their own.
        let parts = ["linux-binary-", "linux-modules-"];
        let mut packages = Vec::new();
        for part in parts {
            packages.extend(dependency(&suite, &image, part)?);
        }
        if packages.is_empty() {
            packages.push(image.clone());
        }
        packages.iter().try_for_each(|package| suite.unpack(package, &unpacked))?;
        suite.close()?;
        let modules = self.folder().join("modules.partial");
        fs::create_dir_all(&modules).with_context(|| format!("cannot create {}", modules.display()))?;
        for name in MODULES {
            let begins = format!("{name}.ko");
            if let Some(found) = find(&unpacked, &|file| file.starts_with(&begins))? {
                let content = plain(&found)?;
                let path = modules.join(format!("{name}.ko"));
                fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        fs::rename(&modules, self.modules()).context("cannot keep the modules")?;
        let found = find(&unpacked, &|file| file.starts_with("vmlinuz"))?;
        let found = found.with_context(|| format!("{} hold no vmlinuz", packages.join(" and ")))?;
        workspace::publish(&found, kept)?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
    }
}

/// The kernels of these names; all of them for none.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Kernel>> {
    let known = || KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| KERNELS.iter().all(|kernel| kernel.name != **name)) {
        bail!("no kernel {unknown}; there are: {}", known());
    }
    Ok(KERNELS
        .iter()
        .filter(|kernel| names.is_empty() || names.iter().any(|name| name == kernel.name))
        .collect())
}

fn dependency(suite: &Suite, package: &str, prefix: &str) -> Result<Option<String>> {
    Ok(suite.dependencies(package)?.into_iter().find(|name| name.starts_with(prefix)))
}

/// A module as the kernel takes it; newer packages hold them compressed.
fn plain(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(module).with_context(|| format!("cannot read {}", module.display()));
    }
    let mut xz = command::program("xz");
    let output = xz.args(["-dc"]).arg(module).output().context("cannot start xz")?;
    if !output.status.success() {
        bail!("cannot unpack {}: {}", module.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// A file by its name, somewhere in an unpacked package.
fn find(folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&path, is_wanted)? {
                return Ok(Some(found));
            }
        } else if entry.file_type()?.is_file() && is_wanted(&entry.file_name().to_string_lossy()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TABLE: &str = include_str!("../../../docs/kernels.md");

    #[test]
    fn the_document_lists_what_each_kernel_refuses_and_nothing_else() {
        let documented: BTreeSet<Vec<String>> = TABLE
            .lines()
            .filter_map(|line| line.strip_prefix("| refused by ")?.strip_suffix('|'))
            .map(|row| row.split('|').take(3).map(|cell| cell.trim().replace('`', "")).collect())
            .collect();
        let listed = KERNELS.iter().flat_map(|kernel| {
            kernel
                .refuses
                .iter()
                .map(|Refusal { program, because }| [kernel.name, program, because].map(String::from).into())
        });
        assert_eq!(documented, listed.collect());
    }

    #[test]
    fn kernels_are_chosen_by_name_and_all_without_one() {
        let names = |chosen: Vec<&Kernel>| chosen.iter().map(|kernel| kernel.name).collect::<Vec<_>>();
        assert_eq!(names(chosen(&[]).unwrap()).len(), KERNELS.len());
        assert_eq!(names(chosen(&["6.12".into(), "5.10".into()]).unwrap()), ["5.10", "6.12"]);
        let error = chosen(&["6.7".into()]).err().unwrap().to_string();
        assert!(error.contains("6.7") && error.contains("5.10, 6.1, 6.12"), "{error}");
    }

    #[test]
    fn a_kernel_that_cannot_be_fetched_names_the_way_on() {
        let message = KERNELS[0].how_to_go_on(Path::new("/k/vmlinuz"));
        for part in ["5.10", "bullseye", "/k/vmlinuz", "cargo xtask vm 6.1 6.12 newest"] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}
