//! What a guest said on its serial console.
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// How every line of ours begins; `verifier/src/main.rs` and [`super::guest`] print it.
const MARK: &str = "millrace: ";
/// What a kernel says when it gives up.
const PANIC: &str = "Kernel panic";
/// Lines of the console that an error shows.
const TAIL: usize = 25;

/// What the kernel made of the programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) release: String,
    pub(crate) programs: BTreeMap<String, Outcome>,
    pub(crate) traffic: Traffic,
}

/// What came of the tests with real packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// None were to be run.
    None,
    Passed {
        seconds: u32,
    },
    Failed {
        said: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Verified instructions, where the kernel counts them.
    Loaded {
        instructions: Option<u32>,
        milliseconds: u32,
    },
    Refused {
        reason: String,
        log: Vec<String>,
    },
}

/// Reads the whole console of a guest that ended.
pub(crate) fn report(console: &str) -> Result<Report> {
    if console.contains(PANIC) {
        bail!("the kernel panicked:\n{}", tail(console));
    }
    let mut release = None;
    let mut programs = BTreeMap::new();
    let mut logs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut ended, mut traffic) = (false, Traffic::None);
    for line in console.lines() {
        // A message of the kernel may stand before ours.
        let Some((_, said)) = line.split_once(MARK) else { continue };
        let (word, rest) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
        match word {
            "kernel" => release = Some(rest.to_owned()),
            "log" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                logs.entry(name).or_default().push(text.to_owned());
            }
            "loaded" => {
                let (name, outcome) = loaded(rest).with_context(|| format!("not understood: {line}"))?;
                programs.insert(name.to_owned(), outcome);
            }
            "refused" => {
                let (name, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                let log = logs.remove(name).unwrap_or_default();
                programs.insert(name.to_owned(), Outcome::Refused { reason: reason.to_owned(), log });
            }
            "error" => bail!("the guest failed: {rest}\n{}", tail(console)),
            // Until they say that they have passed, they have not.
            "traffic" if rest == "begins" => traffic = Traffic::Failed { said: tail(console) },
            "traffic" => {
                if let Some(seconds) = rest.strip_prefix("passed ").and_then(|seconds| seconds.parse().ok()) {
                    traffic = Traffic::Passed { seconds };
                }
            }
            "end" => ended = true,
            _ => bail!("not understood: {line}"),
        }
    }
    let release = release.with_context(|| format!("the guest said nothing:\n{}", tail(console)))?;
    if !ended || programs.is_empty() {
        bail!("the guest ended early:\n{}", tail(console));
    }
    Ok(Report { release, programs, traffic })
}

fn loaded(text: &str) -> Option<(&str, Outcome)> {
    let mut words = text.split_whitespace();
    let name = words.next()?;
    let instructions = match words.next()? {
        "-" => None,
        count => Some(count.parse().ok()?),
    };
    let milliseconds = words.next()?.parse().ok()?;
    words.next().is_none().then_some((name, Outcome::Loaded { instructions, milliseconds }))
}

/// The last lines of a console.
pub(crate) fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "Booting\r\nmillrace: kernel 6.1.0\r\nmillrace: loaded clock 12 3\r\n\
                         [    2.1] noise millrace: loaded from_pod - 4000\r\n\
                         millrace: log to_pod 7: (85) call unknown#190\r\nmillrace: log to_pod invalid func\r\n\
                         millrace: refused to_pod Invalid argument (os error 22)\r\nmillrace: end\r\n";

    #[test]
    fn a_whole_console_is_understood() {
        let report = report(WHOLE).unwrap();
        assert_eq!(report.release, "6.1.0");
        let loaded = |instructions, milliseconds| Outcome::Loaded { instructions, milliseconds };
        let log = vec!["7: (85) call unknown#190".into(), "invalid func".into()];
        let refused = Outcome::Refused { reason: "Invalid argument (os error 22)".into(), log };
        let programs = [
            ("clock".into(), loaded(Some(12), 3)),
            ("from_pod".into(), loaded(None, 4000)),
            ("to_pod".into(), refused),
        ];
        assert_eq!(report.programs, programs.into());
        assert_eq!(report.traffic, Traffic::None);
    }

    #[test]
    fn tests_have_passed_when_they_say_so_and_else_they_have_failed() {
        let traffic = |said: &str| report(&format!("{WHOLE}{said}")).unwrap().traffic;
        let begun = "millrace: traffic begins\nrunning 1 test\n";
        let passed = traffic(&format!("{begun}millrace: traffic passed 31\n"));
        assert_eq!(passed, Traffic::Passed { seconds: 31 });
        for ending in ["", "lost: 3\nmillrace: traffic failed\n"] {
            let Traffic::Failed { said } = traffic(&format!("{begun}{ending}")) else { panic!("passed") };
            assert!(said.contains("running 1 test"), "{said}");
        }
    }

    #[test]
    fn a_guest_that_did_not_end_well_is_an_error_with_its_last_words() {
        for (console, message) in [
            ("", "said nothing"),
            ("Decompressing\nhalf a line", "half a line"),
            ("millrace: kernel 6.1.0\nmillrace: loaded clock 12 3\n", "ended early"),
            ("millrace: kernel 6.1.0\nmillrace: end\n", "ended early"),
            ("millrace: kernel 6.1.0\nmillrace: loaded clock many 3\nmillrace: end\n", "not understood"),
            ("millrace: kernel 6.1.0\nmillrace: error load the object: EPERM\n", "load the object: EPERM"),
            (&format!("{WHOLE}Kernel panic - not syncing: VFS"), "not syncing: VFS"),
        ] {
            let error = format!("{:#}", report(console).unwrap_err());
            assert!(error.contains(message), "{message} is not in {error}");
        }
    }
}
