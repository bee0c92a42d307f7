//! Whether what the documents name is there: files, links, headings, identifiers, commands.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// What documents may name.
#[derive(Default)]
struct House {
    /// Files and folders, from the root of the workspace.
    places: BTreeSet<PathBuf>,
    /// The words of the sources, and the names of their files.
    words: BTreeSet<String>,
    /// Commands of `cargo xtask`.
    commands: BTreeSet<String>,
}

/// A name that leads nowhere.
#[derive(Debug, PartialEq, Eq)]
struct Dead {
    line: usize,
    what: String,
}

/// Checks every document of the workspace.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let files = workspace::files()?;
    let mut house = House { commands: crate::commands().collect(), ..House::default() };
    let mut documents = Vec::new();
    for file in &files {
        let place = file.strip_prefix(&root).unwrap_or(file);
        house
            .places
            .extend(place.ancestors().filter(|place| !place.as_os_str().is_empty()).map(Path::to_owned));
        if place.extension().is_some_and(|extension| extension == "md") {
            documents.push((place, fs::read_to_string(file).with_context(|| place.display().to_string())?));
        } else if let Ok(text) = fs::read_to_string(file) {
            house.learn(place, &text);
        }
    }
    let mut count = 0;
    for (place, text) in &documents {
        let headings = |other: &Path| {
            let (_, text) = documents.iter().find(|(place, _)| *place == other)?;
            Some(text.lines().filter_map(heading).collect())
        };
        for Dead { line, what } in house.dead(place, text, headings) {
            eprintln!("{}:{line}: {what}", place.display());
            count += 1;
        }
    }
    if count > 0 {
        bail!("{count} names lead nowhere");
    }
    Ok(())
}

impl House {
    fn learn(&mut self, place: &Path, text: &str) {
        self.words.extend(words(text).map(str::to_owned));
        self.words.extend(place.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }

    /// The names in a document that lead nowhere. `headings` gives the anchors of a document.
    fn dead(
        &self,
        place: &Path,
        text: &str,
        headings: impl Fn(&Path) -> Option<BTreeSet<String>>,
    ) -> Vec<Dead> {
        let mut dead = Vec::new();
        let mut is_sample = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_sample = !is_sample;
                continue;
            }
            let mut report = |what: String| dead.push(Dead { line: number + 1, what });
            for command in line.split("cargo xtask ").skip(1).filter_map(|rest| words(rest).next()) {
                if !self.commands.contains(command) && command != "help" {
                    report(format!("no command `cargo xtask {command}`"));
                }
            }
            if is_sample {
                continue;
            }
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if !link.contains("://") && !self.leads(place, link, &headings) {
                    report(format!("no {link}"));
                }
            }
            for span in line.split('`').skip(1).step_by(2) {
                if let Some(name) = self.missing(span) {
                    report(format!("no `{name}`"));
                }
            }
        }
        dead
    }

    fn leads(&self, from: &Path, link: &str, headings: impl Fn(&Path) -> Option<BTreeSet<String>>) -> bool {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let to = if file.is_empty() { from.to_owned() } else { joined(from, file) };
        let has_anchor = |anchor: &str| headings(&to).is_some_and(|all| all.contains(anchor));
        (file.is_empty() || self.places.contains(&to)) && anchor.is_none_or(has_anchor)
    }

    /// The part of a span of code that names nothing, if it is a name of ours at all.
    fn missing<'a>(&self, span: &'a str) -> Option<&'a str> {
        let is_of = |extra: &str, text: &str| {
            text.chars().all(|letter| letter.is_ascii_alphanumeric() || extra.contains(letter))
        };
        if is_of("_-./", span) {
            let path = Path::new(span);
            let top = path.components().next().map(|first| PathBuf::from(first.as_os_str()));
            let is_inside = span.contains('/') && top.is_some_and(|top| self.places.contains(&top));
            let is_source =
                path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
            let is_there = || self.places.iter().any(|place| place.ends_with(path));
            return (is_inside || is_source).then_some(span).filter(|_| !is_there());
        }
        let name = span.strip_suffix("()").unwrap_or(span);
        // An IPv6 address is no path of modules.
        if is_of("_:", name) && name.contains("::") && !is_hex(name) {
            return name.split("::").find(|part| !part.is_empty() && !self.words.contains(*part));
        }
        None
    }
}

/// A link's file as seen from the root.
fn joined(from: &Path, link: &str) -> PathBuf {
    let mut place = from.parent().unwrap_or(Path::new("")).to_owned();
    for part in link.split('/') {
        match part {
            ".." => {
                place.pop();
            }
            "." | "" => {}
            part => place.push(part),
        }
    }
    place
}

fn is_hex(name: &str) -> bool {
    name.chars().all(|letter| letter.is_ascii_hexdigit() || letter == ':')
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

/// The anchor of a heading, as forges make it.
fn heading(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let letters = title.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
        _ => None,
    });
    Some(letters.flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house() -> House {
        let places = ["README.md", "docs", "docs/maps.md", "agent", "agent/src", "agent/src/link.rs"];
        let mut house = House {
            places: places.into_iter().map(PathBuf::from).collect(),
            commands: BTreeSet::from(["lint".to_owned()]),
            ..House::default()
        };
        house.learn(Path::new("agent/src/link.rs"), "pub(crate) fn follow(queue: &Queue) {}");
        house
    }

    fn dead(text: &str) -> Vec<String> {
        let headings =
            |place: &Path| (place == Path::new("docs/maps.md")).then(|| ["sizes".to_owned()].into());
        house().dead(Path::new("docs/a.md"), text, headings).into_iter().map(|dead| dead.what).collect()
    }

    #[test]
    fn what_is_there_may_be_named() {
        let text = "[a](maps.md), [b](../README.md), [c](maps.md#sizes), [d](https://example.org/x)\n\
                    `link.rs`, `agent/src/`, `src/link.rs`, `link::follow()`, `Queue`, `/sys/fs/bpf`, `target/x`, `fd00::1`\n\
                    `cargo xtask lint`\n```\n`agent/src/no.rs`\n```\n";
        assert_eq!(dead(text), [""; 0]);
    }

    #[test]
    fn what_is_not_there_is_found() {
        let text = "[a](old.md), [b](maps.md#none), [c](#none)\n`old.rs`, `agent/src/old`, `link::gone`\n\
                    ```\ncargo xtask gone\n```\n";
        let expected = [
            "no old.md",
            "no maps.md#none",
            "no #none",
            "no `old.rs`",
            "no `agent/src/old`",
            "no `gone`",
            "no command `cargo xtask gone`",
        ];
        assert_eq!(dead(text), expected);
    }

    #[test]
    fn a_heading_is_an_anchor() {
        assert_eq!(heading("## What is there, and *what* is not").unwrap(), "what-is-there-and-what-is-not");
        assert_eq!(heading("#![expect]"), None);
        assert_eq!(heading("text"), None);
    }
}
