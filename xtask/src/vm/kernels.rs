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
}

/// A program that a kernel does not load.
pub(crate) struct Refusal {
    pub(crate) program: &'static str,
    /// What the verifier's log says.
    pub(crate) because: &'static str,
}

/// `bpf_set_retval`, a helper of v5.18 (b44123b4a3dc).
const NO_SET_RETVAL: &str = "invalid func unknown#187";
/// Global functions take pointers to other things than the context since v5.13 (e5069b9c23b3).
const NO_POINTER_TO_GLOBAL_FUNCTION: &str = "is not supported yet";
/// The memory that a global function was given holds keys of maps since v6.2 (d1673304097c).
const NO_KEY_IN_MEMORY: &str = "R2 type=mem expected=fp";

/// Point releases, not security updates: old ones of those expire, and apt refuses them.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        suite: "bullseye",
        refuses: &[
            Refusal { program: "connect4", because: NO_SET_RETVAL },
            Refusal { program: "connect6", because: NO_SET_RETVAL },
            Refusal { program: "sendmsg4", because: NO_SET_RETVAL },
            Refusal { program: "sendmsg6", because: NO_SET_RETVAL },
            Refusal { program: "from_netdev", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "from_pod", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "to_netdev", because: NO_POINTER_TO_GLOBAL_FUNCTION },
            Refusal { program: "to_pod", because: NO_POINTER_TO_GLOBAL_FUNCTION },
        ],
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        refuses: &[
            Refusal { program: "from_netdev", because: NO_KEY_IN_MEMORY },
            Refusal { program: "from_pod", because: NO_KEY_IN_MEMORY },
            Refusal { program: "to_netdev", because: NO_KEY_IN_MEMORY },
            Refusal { program: "to_pod", because: NO_KEY_IN_MEMORY },
        ],
    },
    Kernel { name: "6.12", suite: "trixie", refuses: &[] },
    Kernel { name: "newest", suite: "trixie-backports", refuses: &[] },
];

impl Kernel {
    /// The kernel's image, fetched once.
    pub(crate) fn fetch(&self) -> Result<PathBuf> {
        let kept = self.image();
        if kept.exists() {
            return Ok(kept);
        }
        command::announce(&format!("Linux {} from Debian's {}", self.name, self.suite));
        self.download(&kept).with_context(|| self.how_to_go_on(&kept))?;
        Ok(kept)
    }

    fn how_to_go_on(&self, kept: &Path) -> String {
        let others: Vec<&str> =
            KERNELS.iter().map(|kernel| kernel.name).filter(|name| *name != self.name).collect();
        format!(
            "cannot fetch Linux {} (package {PACKAGE} of Debian's {}). Put the vmlinuz of such a kernel at {}, or run \
             the others: cargo xtask vm {}",
            self.name,
            self.suite,
            kept.display(),
            others.join(" ")
        )
    }

    fn image(&self) -> PathBuf {
        workspace::target().join("vm/kernels").join(self.name).join("vmlinuz")
    }

    fn download(&self, kept: &Path) -> Result<()> {
        let folder = kept.parent().context("no folder for the kernel")?;
        let unpacked = folder.join("unpacked");
        let suite = Suite::open(self.suite, &folder.join("apt"))?;
        let image = dependency(&suite, PACKAGE, "linux-image-")?
            .with_context(|| format!("{PACKAGE} depends on no kernel"))?;
        // Since 7.0, Debian packs the image itself as a package of its own.
        let package = dependency(&suite, &image, "linux-binary-")?.unwrap_or(image);
        suite.unpack(&package, &unpacked)?;
        suite.close()?;
        let found = vmlinuz(&unpacked)?.with_context(|| format!("{package} holds no vmlinuz"))?;
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

/// The image of a kernel, somewhere in an unpacked package.
fn vmlinuz(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = vmlinuz(&path)? {
                return Ok(Some(found));
            }
        } else if entry.file_type()?.is_file() && entry.file_name().to_string_lossy().starts_with("vmlinuz") {
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
