//! Where mutants are built and tested: copies of the sources and of the test programs, so that nothing of the workspace's
//! own build changes.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::list::{Mutant, Suite, Test};
use crate::{build, build_ebpf, command, toolchain, workspace};

/// Folders at the root of the workspace that hold no sources.
const NO_SOURCES: [&str; 2] = ["target", ".git"];

/// Programs that tests start, beside the test programs.
const BESIDE: [&str; 4] = ["millrace-agent", "millrace", "millrace-cni", "netprobe"];

pub(crate) struct Workbench {
    folder: PathBuf,
    /// The programs of test targets.
    targets: BTreeMap<String, PathBuf>,
    /// The object as it is built from the sources as they are.
    original: Vec<u8>,
}

/// What became of a mutant.
pub(crate) enum Fate {
    FoundBy(Test),
    Lives,
}

impl Workbench {
    /// Builds what mutants need for the tests of some targets.
    pub(crate) fn prepare(wanted: &BTreeSet<&str>) -> Result<Self> {
        if wanted.iter().all(|target| is_of_programs(target)) {
            build_ebpf::build()?;
            command::run(command::cargo("build").args(build::EVERYTHING).args(["--bin", "verifier"]))?;
        } else {
            build::build(&build::Options::default())?;
        }
        let folder = workspace::target().join("mutants");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let workbench =
            Self { folder, targets: targets(wanted)?, original: read(&workspace::ebpf_object())? };
        copy(&workspace::root(), &workbench.source(), &NO_SOURCES)?;
        Ok(workbench)
    }

    fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// Runs tests on a mutant that was built, until one finds it: first the one that is known to, then those of the suites
    /// in turn.
    pub(crate) fn judge(&self, mutant: &Mutant, suites: &[Suite]) -> Result<Fate> {
        let place = self.folder.join(&mutant.name);
        let object = place.join("dataplane");
        let verifier = command::program(workspace::target().join("debug/verifier"))
            .env("MILLRACE_EBPF_OBJECT", &object)
            .stdout(Stdio::null())
            .status()?;
        ensure!(verifier.success(), "the kernel refuses mutant {}: choose another", mutant.name);
        let known = mutant.found_by.iter().map(|test| (&test.target, vec![test.name.clone()], true));
        let others = suites.iter().map(|suite| (&suite.target, suite.filters.clone(), false));
        let mut fate = Fate::Lives;
        for (target, filters, exact) in known.chain(others) {
            if let Some(name) = self.run(&place, &object, target, &filters, exact)? {
                fate = Fate::FoundBy(Test { target: target.clone(), name });
                break;
            }
        }
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        Ok(fate)
    }

    /// Builds the mutant into a folder of its own.
    pub(crate) fn build(&self, mutant: &Mutant) -> Result<()> {
        let changed = mutant.apply(workspace::read)?;
        for (file, text) in &changed {
            let source = self.source().join(file);
            fs::write(&source, text).with_context(|| format!("cannot write {}", source.display()))?;
        }
        let built = build_ebpf::build_copy(&self.source(), &self.folder.join("build"));
        for file in changed.keys() {
            workspace::publish(&workspace::root().join(file), &self.source().join(file))?;
        }
        let built = built.with_context(|| format!("mutant {} does not build", mutant.name))?;
        let place = self.folder.join(&mutant.name);
        workspace::publish(&built, &place.join("dataplane")).map(drop)
    }

    /// Runs tests of a target on an object. The first one that fails.
    fn run(
        &self,
        place: &Path,
        object: &Path,
        target: &str,
        filters: &[String],
        exact: bool,
    ) -> Result<Option<String>> {
        let program =
            self.targets.get(target).with_context(|| format!("there is no test target {target}"))?;
        let mut tests = if is_of_programs(target) {
            command::program(program)
        } else {
            self.with_agent(place, object, program)?
        };
        tests.args(filters).current_dir(workspace::root().join("tests")).env("MILLRACE_EBPF_OBJECT", object);
        if exact {
            tests.arg("--exact");
        }
        let started = tests.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut tests = started.with_context(|| format!("cannot start the tests of {target}"))?;
        let mut lines = BufReader::new(tests.stdout.take().context("tests have an output")?).lines();
        let mut failed = None;
        while let Some(line) = lines.next().transpose()? {
            let name = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
            let Some(name) = name else { continue };
            failed.get_or_insert_with(|| name.to_owned());
            if is_of_programs(target) {
                // One is enough, and what they have made goes with them.
                tests.kill()?;
                break;
            }
        }
        let status = tests.wait()?;
        ensure!(
            failed.is_some() || status.success(),
            "the tests of {target} ended with {status} and name no test"
        );
        Ok(failed)
    }

    /// The test program with an agent that holds the object: the agent embeds one, and finding and starting programs is
    /// the same wherever the test program stands.
    fn with_agent(&self, place: &Path, object: &Path, program: &Path) -> Result<Command> {
        let debug = workspace::target().join("debug");
        for name in BESIDE {
            let agent = place.join(name);
            if name == "millrace-agent" {
                let bytes = embed(read(&debug.join(name))?, &self.original, &stripped(object)?)?;
                fs::write(&agent, bytes).with_context(|| format!("cannot write {}", agent.display()))?;
                fs::set_permissions(&agent, fs::metadata(debug.join(name))?.permissions())?;
            } else {
                link(&debug.join(name), &agent)?;
            }
        }
        let tests = place.join("tests");
        link(program, &tests)?;
        Ok(command::program(tests))
    }
}

/// Puts another object where a program holds one. Behind it, up to the length of the first, there are zeros.
fn embed(mut program: Vec<u8>, original: &[u8], object: &[u8]) -> Result<Vec<u8>> {
    ensure!(object.len() <= original.len(), "the mutant's object is too long");
    let start = original.get(..4096).context("a short object")?;
    let place = program
        .windows(start.len())
        .enumerate()
        .find(|(at, window)| *window == start && program[*at..].starts_with(original))
        .map(|(at, _)| at)
        .context("the agent holds another object than the one that was built")?;
    let (head, rest) = program[place..place + original.len()].split_at_mut(object.len());
    head.copy_from_slice(object);
    rest.fill(0);
    Ok(program)
}

/// An object without what only debuggers read, which makes it much shorter.
fn stripped(object: &Path) -> Result<Vec<u8>> {
    let (sysroot, short) = (toolchain::sysroot()?, object.with_extension("short"));
    let objcopy = sysroot.join("lib/rustlib").join(toolchain::host()?).join("bin/rust-objcopy");
    let mut objcopy = command::program(objcopy);
    objcopy.env("LD_LIBRARY_PATH", sysroot.join("lib")).arg("--strip-debug").arg(object).arg(&short);
    command::run(&mut objcopy)?;
    read(&short)
}

/// Whether tests load the object themselves, without an agent.
fn is_of_programs(target: &str) -> bool {
    target.starts_with("program")
}

/// The programs of test targets, as cargo names them.
fn targets(wanted: &BTreeSet<&str>) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = command::cargo("test");
    cargo.args(build::EVERYTHING).args(["--no-run", "--message-format", "json"]);
    cargo.args(wanted.iter().flat_map(|target| ["--test", target]));
    let messages = command::output(&mut cargo)?;
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
        let name = target["name"].as_str().filter(|_| is_test)?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    Ok(messages.lines().filter_map(program).collect())
}

/// Copies what differs, but for some entries of the top folder.
fn copy(from: &Path, to: &Path, without: &[&str]) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() && !without.iter().any(|name| entry.file_name() == *name) {
            copy(&path, &copied, &[])?;
        } else if kind.is_file() {
            workspace::publish(&path, &copied)?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> Result<()> {
    // A copy over what is the same file already would leave nothing of it.
    if to.exists() {
        fs::remove_file(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    let copied = fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_takes_the_place_of_another_in_a_program() {
        let original: Vec<u8> = (0..5000_u32).map(|number| number.to_le_bytes()[0] ^ 0x55).collect();
        let program = [&[1; 100][..], &original[..4500], &[2; 7], &original, &[3; 9]].concat();
        let changed = embed(program.clone(), &original, &[7; 4100]).unwrap();
        let expected = [&[1; 100][..], &original[..4500], &[2; 7], &[7; 4100], &[0; 900], &[3; 9]].concat();
        assert!(changed == expected);
        assert!(embed(program.clone(), &original, &[7; 5001]).is_err());
        assert!(embed(program[..4700].to_vec(), &original, &[7; 10]).is_err());
    }
}
