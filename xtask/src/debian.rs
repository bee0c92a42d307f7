//! Debian packages: installing them, and taking one from another suite of the machine's own mirror.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, machine};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A program from a package.
pub(crate) struct Needed {
    /// Its name on the search path, or where it is when it is not there.
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// Installs the packages of the programs that are not on the search path.
pub(crate) fn ensure(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&Needed> = needed.iter().filter(|needed| !on_path(needed.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    let list: Vec<String> =
        missing.iter().map(|needed| format!("{} ({})", needed.program, needed.why)).collect();
    install(&packages).with_context(|| format!("missing: {}", list.join(", ")))
}

/// Installs packages from the machine's own suites.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get update && apt-get install {}", packages.join(" "));
    if !machine::is_root() || !on_path("apt-get") {
        bail!("cannot install packages here: as root, on Debian, run: {by_hand}");
    }
    command::announce(&format!("installing Debian packages: {}", packages.join(" ")));
    let apt = || {
        let mut apt = command::program("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-y");
        apt
    };
    command::run(apt().arg("update"))
        .and_then(|()| command::run(apt().args(["install", "--no-install-recommends"]).args(packages)))
        .with_context(|| format!("apt-get failed; by hand it is: {by_hand}"))
}

fn on_path(program: &str) -> bool {
    find(program).is_some()
}

/// The file of a program on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin".into(), "/sbin".into()];
    let mut files = std::env::split_paths(&path).chain(system).map(|folder: PathBuf| folder.join(program));
    files.find(|file| file.is_file())
}

/// Downloads one package version from `suite` of the configured mirror and unpacks it into `into`.
pub(crate) fn unpack(suite: &str, package: &str, version: &str, into: &Path) -> Result<()> {
    let suite = Suite::open(suite, &into.with_extension("apt"))?;
    suite.unpack(&format!("{package}={version}"), into)?;
    suite.close()
}

/// A suite of the configured mirror, with package lists of its own: those of the machine stay as they are.
pub(crate) struct Suite {
    private: PathBuf,
}

impl Suite {
    /// Fetches the package lists into the folder `private`.
    pub(crate) fn open(name: &str, private: &Path) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} does not exist: is this Debian? Run: apt-get install debian-archive-keyring");
        }
        let mirror =
            mirror(&configuration()?).context("no Debian mirror in the configuration of apt (/etc/apt)")?;
        let suite = Self { private: private.to_owned() };
        for folder in ["lists/partial", "archives/partial", "downloaded"] {
            create(&private.join(folder))?;
        }
        let list = suite.private.join("sources.list");
        fs::write(&list, format!("deb [signed-by={KEYRING}] {mirror} {name} main\n"))
            .with_context(|| format!("cannot write {}", list.display()))?;
        command::run(suite.apt("apt-get").args(["-q", "update"]))?;
        Ok(suite)
    }

    /// The packages that `package` depends on.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = command::output(self.apt("apt-cache").args(["depends", package]))?;
        Ok(dependencies(&text).map(String::from).collect())
    }

    /// Downloads a package, `NAME` or `NAME=VERSION`, and unpacks it into `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        create(into)?;
        command::run(self.apt("apt-get").args(["-q", "download", package]))?;
        let archive = fs::read_dir(self.downloaded())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no package {package}"))?;
        command::run(command::program("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
        // The next package must not be taken for this one.
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }

    /// Removes the package lists.
    pub(crate) fn close(self) -> Result<()> {
        fs::remove_dir_all(&self.private).with_context(|| format!("cannot remove {}", self.private.display()))
    }

    fn downloaded(&self) -> PathBuf {
        self.private.join("downloaded")
    }

    fn apt(&self, program: &str) -> Command {
        let private = &self.private;
        let mut apt = command::program(program);
        for (option, value) in [
            ("Dir::Etc::SourceList", private.join("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State::Lists", private.join("lists")),
            ("Dir::Cache", private.clone()),
            ("Dir::Cache::Archives", private.join("archives")),
        ] {
            apt.arg("-o").arg(format!("{option}={}", value.display()));
        }
        // The download belongs to whoever runs this, not to apt's own user, who cannot enter the folder.
        apt.args(["-o", "APT::Sandbox::User="]).current_dir(self.downloaded());
        apt
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The packages in the output of `apt-cache depends`.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: ")).map(str::trim)
    })
}

/// Everything apt is configured with, both formats.
fn configuration() -> Result<String> {
    let parts =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let files = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts);
    let active = files.filter(|path| {
        path.is_file()
            && path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
    });
    let mut text = String::new();
    for path in active {
        text.push_str(&fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
        text.push('\n');
    }
    Ok(text)
}

/// The first mirror of the Debian archive itself (not of its security suites) in one-line or deb822 configuration.
fn mirror(configuration: &str) -> Option<String> {
    let candidates = configuration.lines().filter_map(|line| {
        let line = line.trim();
        let words = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
        words.split_whitespace().find(|word| word.contains("://"))
    });
    candidates
        .map(|uri| uri.trim_end_matches('/'))
        .find(|uri| uri.rsplit('/').next() == Some("debian"))
        .map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_without_alternatives_and_the_rest_are_read() {
        let text = "linux-image-7.3.4\n  PreDepends: linux-base\n |Depends: <dracut>\n  Depends: linux-binary-7.3.4\n  \
                    Breaks: <fwupdate>\n  Suggests: linux-doc\n";
        assert_eq!(dependencies(text).collect::<Vec<_>>(), ["linux-base", "linux-binary-7.3.4"]);
    }

    #[test]
    fn the_mirror_is_found_in_deb822_configuration() {
        let text = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://mirror.example/debian-security\n\n\
                    Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror(text).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn the_mirror_is_found_in_one_line_configuration() {
        let text = "# deb http://old.example/debian x main\ndeb http://other.example/node_20.x nodistro main\n\
                    deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/a/debian/ trixie main\n";
        assert_eq!(mirror(text).as_deref(), Some("https://mirror.example/a/debian"));
    }

    #[test]
    fn configuration_without_debian_has_no_mirror() {
        assert_eq!(mirror("URIs: http://mirror.example/ubuntu\n"), None);
    }
}
