//! `cargo xtask compare`: the benchmarks of this checkout beside those of another commit, in turns on the same machine.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{bench, command, machine, workspace};

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The commit to compare with, as git names it
    revision: String,
    /// Cases to run, as in B2
    #[arg(required = true)]
    cases: Vec<String>,
    /// How often each of the two is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..100))]
    rounds: u32,
    /// Numbers of services
    #[arg(long, default_value = "10,1000")]
    sizes: String,
    /// Length of a slice of load, in seconds
    #[arg(long, default_value = "1")]
    seconds: String,
}

/// What a run of the benchmarks says of one line: its figure, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    value: f64,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    More,
    Less,
    /// It is neither a time nor a rate.
    Nothing,
}

type Figures = BTreeMap<String, Figure>;

/// A line's ratios, here by there, over the rounds.
#[derive(Debug, PartialEq)]
struct Line {
    wanted: Wanted,
    median: f64,
    /// Of the median, distribution-free.
    interval: [f64; 2],
}

/// Another commit, checked out below this checkout's `target`.
pub(crate) struct Checkout {
    pub(crate) revision: String,
    /// For what is about it.
    pub(crate) folder: PathBuf,
    pub(crate) source: PathBuf,
}

impl Checkout {
    /// As git names it; checked out if it is not yet.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let revision = command::output(command::program("git").args(["rev-parse", "--short", name]))?;
        let folder = workspace::target().join("compare").join(&revision);
        let source = folder.join("source");
        if !source.exists() {
            let mut git = command::program("git");
            command::run(git.args(["worktree", "add", "--force", "--detach"]).arg(&source).arg(&revision))?;
            // The linker of eBPF programs takes longer to build than all the rest.
            let target = source.join("target");
            fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
            command::run(command::program("cp").arg("--recursive").arg(workspace::tools()).arg(&target))?;
        }
        Ok(Self { revision, folder, source })
    }

    /// A cargo that works there.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = command::cargo(subcommand);
        cargo.current_dir(&self.source).env_remove("CARGO_TARGET_DIR");
        cargo
    }
}

/// Builds the other commit in a worktree, measures both in turns, and fails where this checkout is worse.
pub(crate) fn compare(options: &Options) -> Result<()> {
    machine::require_ebpf("the benchmarks")?;
    let other = Checkout::of(&options.revision)?;
    let Checkout { revision, folder, .. } = &other;
    // What builds and what warms up is not measured.
    measure(options, None, &folder.join("first"))?;
    measure(options, Some(&other), &folder.join("first"))?;
    let mut ratios: BTreeMap<String, (Wanted, Vec<f64>)> = BTreeMap::new();
    for round in 1..=options.rounds {
        command::announce(&format!("round {round} of {}", options.rounds));
        let output = |whose: &str| folder.join(format!("{round}-{whose}"));
        // Whoever goes first may have a cooler machine.
        let (here, there) = if round % 2 == 1 {
            let here = measure(options, None, &output("here"))?;
            (here, measure(options, Some(&other), &output("there"))?)
        } else {
            let there = measure(options, Some(&other), &output("there"))?;
            (measure(options, None, &output("here"))?, there)
        };
        for (name, here) in here {
            if let Some(there) = there.get(&name).filter(|there| there.value > 0.0) {
                ratios.entry(name).or_insert((here.wanted, Vec::new())).1.push(here.value / there.value);
            }
        }
    }
    ensure!(!ratios.is_empty(), "the two have no line in common");
    let mut worse = Vec::new();
    println!("this checkout / {revision}, {} rounds", options.rounds);
    for (name, (wanted, ratios)) in ratios {
        let line = Line::of(wanted, ratios);
        let [least, most] = line.interval;
        println!("{name:<64} {:>6.3} ({least:.3} to {most:.3})  {}", line.median, line.verdict());
        if line.is_worse() {
            worse.push(name);
        }
    }
    println!("raw data: {}", folder.display());
    if worse.is_empty() { Ok(()) } else { bail!("worse than {revision}: {}", worse.join("; ")) }
}

/// Runs the benchmarks of this checkout, or of another, once.
fn measure(options: &Options, other: Option<&Checkout>, output: &Path) -> Result<Figures> {
    let systems = ["--systems", "plain,millrace", "--rounds", "1"];
    let mut arguments: Vec<_> = options.cases.iter().map(String::as_str).chain(systems).collect();
    arguments.extend(["--sizes", &options.sizes, "--seconds", &options.seconds]);
    arguments.extend(["--output", output.to_str().context("a path that is no text")?]);
    match other {
        None => bench::bench(&bench::Options::new(&arguments))?,
        Some(other) => command::run(other.cargo("xtask").arg("bench").args(arguments))?,
    }
    let results: PathBuf = output.join("results.json");
    let text = fs::read_to_string(&results).with_context(|| format!("cannot read {}", results.display()))?;
    figures(&text).with_context(|| format!("{} is not as the benchmarks write it", results.display()))
}

/// The lines about Millrace in the results of a run.
fn figures(results: &str) -> Result<Figures> {
    let results: Value = serde_json::from_str(results)?;
    let mut figures = Figures::new();
    for line in results["lines"].as_array().context("no lines")? {
        let (case, what) =
            (line["case"].as_str().context("no case")?, line["what"].as_str().context("no name")?);
        if !what.contains("millrace") && case != "B18" {
            continue;
        }
        let target = line["target"].as_str().and_then(|target| target.chars().next());
        let wanted = match (target, line["unit"].as_str()) {
            (Some('≥'), _) => Wanted::More,
            (Some('≤'), _) | (_, Some("Nanoseconds" | "Microseconds")) => Wanted::Less,
            (_, Some("Ratio")) if what.starts_with("ns ") => Wanted::Less,
            (_, Some("Ratio")) => Wanted::More,
            _ => Wanted::Nothing,
        };
        let value = line["median"].as_f64().context("no median")?;
        figures.insert(format!("{case} {what}"), Figure { value, wanted });
    }
    Ok(figures)
}

impl Line {
    fn of(wanted: Wanted, mut ratios: Vec<f64>) -> Self {
        ratios.sort_unstable_by(f64::total_cmp);
        let count = ratios.len();
        let median = f64::midpoint(ratios[(count - 1) / 2], ratios[count / 2]);
        let outside = outside(count);
        Self { wanted, median, interval: [ratios[outside], ratios[count - 1 - outside]] }
    }

    /// Worse by more than chance: the whole interval is on the wrong side.
    fn is_worse(&self) -> bool {
        let [least, most] = self.interval;
        match self.wanted {
            Wanted::More => most < 1.0,
            Wanted::Less => least > 1.0,
            Wanted::Nothing => false,
        }
    }

    fn verdict(&self) -> &'static str {
        let [least, most] = self.interval;
        match self.wanted {
            Wanted::Nothing => "",
            _ if self.is_worse() => "worse",
            Wanted::More if least > 1.0 => "better",
            Wanted::Less if most < 1.0 => "better",
            Wanted::More | Wanted::Less => "as before",
        }
    }
}

/// How many of the sorted values lie outside of the median's interval on each side, so that it holds the true median with a
/// probability of at least 95 %: the sign test. All values are inside when there are fewer than nine.
fn outside(count: usize) -> usize {
    let mut outside = 0;
    let mut ways = 1.0;
    let mut tail = 1.0;
    let all = 2_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    for taken in 0..count / 2 {
        // `tail` ways in which at most `taken` values are below the median.
        if tail / all > 0.025 {
            break;
        }
        outside = taken;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let next = ways * (count - taken) as f64 / (taken + 1) as f64;
        ways = next;
        tail += ways;
    }
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_follows_the_sign_test() {
        // Tables of the sign test at 5 %, two-sided: with 9 values one is outside on each side, with 12 two, with 20 five.
        let expected = [(3, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5)];
        for (count, expected) in expected {
            assert_eq!(outside(count), expected, "{count} values");
        }
    }

    #[test]
    fn a_line_is_worse_when_its_whole_interval_is() {
        let verdict = |wanted, ratios: &[f64]| Line::of(wanted, ratios.to_vec()).verdict();
        assert_eq!(verdict(Wanted::Less, &[1.2, 1.1, 1.3]), "worse");
        assert_eq!(verdict(Wanted::More, &[1.2, 1.1, 1.3]), "better");
        assert_eq!(verdict(Wanted::More, &[0.9, 0.8, 0.7]), "worse");
        assert_eq!(verdict(Wanted::Less, &[0.9, 1.1, 0.7]), "as before");
        assert_eq!(verdict(Wanted::Nothing, &[2.0, 2.0, 2.0]), "");
        assert!((Line::of(Wanted::Less, vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
    }

    #[test]
    fn only_lines_about_millrace_are_read() {
        let results = r#"{ "lines": [
            { "case": "B1", "what": "round trips: millrace / plain", "unit": "Ratio", "median": 1.1, "target": "≥ 1.1" },
            { "case": "B1", "what": "round trips: loopback / plain", "unit": "Ratio", "median": 1.2, "target": null },
            { "case": "B4", "what": "ns per packet, 10 flows: millrace / plain", "unit": "Ratio", "median": 0.9, "target": null },
            { "case": "B18", "what": "verified instructions: to_pod", "unit": "Count", "median": 9, "target": null },
            { "case": "B18", "what": "from_pod, 1,000 flows", "unit": "Nanoseconds", "median": 120.0, "target": null }
        ] }"#;
        let figures = figures(results).unwrap();
        let wanted: Vec<_> = figures.iter().map(|(name, figure)| (name.as_str(), figure.wanted)).collect();
        let expected = [
            ("B1 round trips: millrace / plain", Wanted::More),
            ("B18 from_pod, 1,000 flows", Wanted::Less),
            ("B18 verified instructions: to_pod", Wanted::Nothing),
            ("B4 ns per packet, 10 flows: millrace / plain", Wanted::Less),
        ];
        assert_eq!(wanted, expected);
        assert!((figures["B18 from_pod, 1,000 flows"].value - 120.0).abs() < 1e-9);
        assert!(super::figures("{}").is_err());
    }
}
