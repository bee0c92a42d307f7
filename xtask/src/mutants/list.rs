//! The lists of mutants, `tests/mutants/*.txt`: what an attacker would change, and which test finds it.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

/// One list: the mutants of a stage or of a hook.
#[derive(Debug)]
pub(crate) struct List {
    path: PathBuf,
    /// Where its mutants are looked for: the nearest first.
    pub(crate) suites: Vec<Suite>,
    pub(crate) mutants: Vec<Mutant>,
    text: String,
}

/// Tests of one target, by parts of their names; all of them without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) target: String,
    pub(crate) filters: Vec<String>,
}

/// A small change of the programs that makes them wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) why: String,
    hunks: Vec<Hunk>,
    /// The test that is known to find it.
    pub(crate) found_by: Option<Test>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) target: String,
    pub(crate) name: String,
}

/// Lines that stand in a file once, and what stands in their place.
#[derive(Debug, PartialEq, Eq)]
struct Hunk {
    /// From the root of the workspace.
    file: PathBuf,
    old: Vec<String>,
    new: Vec<String>,
}

/// Every list, in the order of their names.
pub(crate) fn all() -> Result<Vec<List>> {
    let folder = workspace::root().join("tests/mutants");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.into_iter().map(List::read).collect()
}

impl List {
    fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut list = Self { path, suites: Vec::new(), mutants: Vec::new(), text };
        for (number, line) in list.text.lines().enumerate() {
            let place = || format!("{}:{}", list.path.display(), number + 1);
            add(line, &mut list.suites, &mut list.mutants).with_context(place)?;
        }
        ensure!(!list.suites.is_empty(), "{}: no line begins with %", list.path.display());
        Ok(list)
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes down what found a mutant.
    pub(crate) fn record(&mut self, name: &str, found_by: &Test) -> Result<()> {
        let row = format!("! {} {}", found_by.target, found_by.name);
        let mut lines = Vec::new();
        let mut is_its = false;
        for line in self.text.lines() {
            if let Some((other, _)) = heading(line) {
                is_its = other == name;
            }
            if is_its && line.starts_with("! ") {
                continue;
            }
            lines.push(line.to_owned());
            if is_its && heading(line).is_some() {
                lines.push(row.clone());
            }
        }
        self.text = lines.join("\n") + "\n";
        fs::write(&self.path, &self.text).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Takes in one line of a list.
fn add(line: &str, suites: &mut Vec<Suite>, mutants: &mut Vec<Mutant>) -> Result<()> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    if let Some((name, why)) = heading(line) {
        let (name, why) = (name.to_owned(), why.to_owned());
        ensure!(mutants.iter().all(|mutant| mutant.name != name), "a second mutant {name}");
        mutants.push(Mutant { name, why, hunks: Vec::new(), found_by: None });
        return Ok(());
    }
    if let Some(suite) = line.strip_prefix("% ") {
        let mut words = suite.split_whitespace().map(str::to_owned);
        let target = words.next().context("no test target")?;
        suites.push(Suite { target, filters: words.collect() });
        return Ok(());
    }
    let mutant = mutants.last_mut().context("no mutant has begun: `== name: why`")?;
    let (sign, rest) = line.split_at(line.char_indices().nth(1).map_or(line.len(), |(at, _)| at));
    match sign {
        "!" => {
            let (target, name) = rest.trim().split_once(' ').context("a target and a test")?;
            mutant.found_by = Some(Test { target: target.to_owned(), name: name.to_owned() });
        }
        "@" => {
            mutant.hunks.push(Hunk { file: rest.trim().into(), old: Vec::new(), new: Vec::new() });
        }
        "-" | "+" | " " => {
            let hunk = mutant.hunks.last_mut().context("no file: `@ path`")?;
            if sign != "+" {
                hunk.old.push(rest.to_owned());
            }
            if sign != "-" {
                hunk.new.push(rest.to_owned());
            }
        }
        _ => bail!("a line begins with #, %, ==, !, @, +, - or a space"),
    }
    Ok(())
}

/// `== name: why`.
fn heading(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("== ")?.split_once(": ")
}

impl Mutant {
    /// The texts of its files with the change in them.
    pub(crate) fn apply(&self, read: impl Fn(&Path) -> Result<String>) -> Result<BTreeMap<PathBuf, String>> {
        ensure!(!self.hunks.is_empty(), "mutant {} changes nothing", self.name);
        let mut texts = BTreeMap::new();
        for hunk in &self.hunks {
            let text = match texts.remove(&hunk.file) {
                Some(text) => text,
                None => read(&hunk.file)?,
            };
            let place = || format!("mutant {} of {}", self.name, hunk.file.display());
            texts.insert(hunk.file.clone(), hunk.apply(&text).with_context(place)?);
        }
        Ok(texts)
    }
}

impl Hunk {
    /// Where a line begins and ends in spaces is not compared: a formatter may move it.
    fn apply(&self, text: &str) -> Result<String> {
        ensure!(self.old != self.new && !self.old.is_empty(), "a change without lines");
        let lines: Vec<&str> = text.lines().collect();
        let is_here =
            |at: &[&str]| at.iter().zip(&self.old).all(|(line, wanted)| line.trim() == wanted.trim());
        let places: Vec<usize> = lines
            .windows(self.old.len())
            .enumerate()
            .filter_map(|(index, at)| is_here(at).then_some(index))
            .collect();
        let [place] = places[..] else {
            bail!("these lines stand there {} times, not once:\n{}", places.len(), self.old.join("\n"));
        };
        let after = &lines[place + self.old.len()..];
        let mut changed: Vec<&str> = lines[..place].to_vec();
        changed.extend(self.new.iter().map(String::as_str));
        changed.extend(after);
        Ok(changed.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Vec<Suite>, Vec<Mutant>)> {
        let (mut suites, mut mutants) = (Vec::new(), Vec::new());
        text.lines().try_for_each(|line| add(line, &mut suites, &mut mutants))?;
        Ok((suites, mutants))
    }

    const LIST: &str = "\
# A list.
% program_flows conntrack::

== open: the door is open
! program_flows conntrack::it_is_shut
@ house.rs
 fn door() {
-    shut();
+    open();
";

    #[test]
    fn a_mutant_changes_the_lines_that_it_names() {
        let (suites, mutants) = parsed(LIST).unwrap();
        let expected = Suite { target: "program_flows".into(), filters: vec!["conntrack::".into()] };
        assert_eq!(suites, [expected]);
        let found_by = mutants[0].found_by.as_ref().unwrap();
        assert_eq!((&found_by.target[..], &found_by.name[..]), ("program_flows", "conntrack::it_is_shut"));
        let changed = mutants[0].apply(|_| Ok("fn door() {\n        shut();\n}\n".to_owned())).unwrap();
        let expected = "fn door() {\n    open();\n}\n".to_owned();
        assert_eq!(changed, BTreeMap::from([("house.rs".into(), expected)]));
    }

    #[test]
    fn a_change_that_fits_nowhere_or_twice_is_refused() {
        let (_, mutants) = parsed(LIST).unwrap();
        assert!(mutants[0].apply(|_| Ok("fn window() {\n    shut();\n}\n".to_owned())).is_err());
        let twice = "fn door() {\n    shut();\n}\n".repeat(2);
        let error = format!("{:#}", mutants[0].apply(|_| Ok(twice.clone())).unwrap_err());
        assert!(error.contains("2 times"), "{error}");
        assert!(parsed("- a line without a mutant").is_err());
        assert!(parsed(&LIST.repeat(2)).is_err(), "names are unique");
    }

    #[test]
    fn every_mutant_fits_the_programs_as_they_are() {
        let lists = all().unwrap();
        assert!(!lists.is_empty());
        for mutant in lists.iter().flat_map(|list| &list.mutants) {
            if let Err(error) = mutant.apply(workspace::read) {
                panic!("{error:#}\nThe programs have changed: change tests/mutants with them.");
            }
            assert!(
                mutant.found_by.is_some(),
                "nobody knows what finds {}: cargo xtask mutants",
                mutant.name
            );
        }
    }
}
