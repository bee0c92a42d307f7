//! What a run found: lines with a target and a verdict, curves, and what was not measured.
mod markdown;
pub(crate) mod raw;
mod svg;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::json;

pub(crate) use self::svg::{Curve, Plot, Point, Scale};
use crate::{measure::statistics::Spread, rounds::Rounds};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The whole confidence interval is on the right side.
    Met,
    /// The whole confidence interval is on the wrong side.
    Missed,
    /// The interval holds the target.
    Undecided,
    /// There is no target, or the run is a quick one.
    NotJudged,
}

impl Target {
    fn judge(self, measured: Spread) -> Verdict {
        let (right, wrong) = match self {
            Self::AtLeast(target) => (measured.low >= target, measured.high < target),
            Self::AtMost(target) => (measured.high <= target, measured.low > target),
        };
        match (right, wrong) {
            (true, _) => Verdict::Met,
            (_, true) => Verdict::Missed,
            (false, false) => Verdict::Undecided,
        }
    }
}

/// Units of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Ratio,
    PerSecond,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
    Mebibytes,
    Count,
    GigabitsPerSecond,
}

/// A figure as people read it.
pub(crate) struct Shown(pub(crate) f64, pub(crate) Unit);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, unit) = *self;
        match unit {
            Unit::Ratio if value.abs() < 10.0 => write!(f, "{value:.2}x"),
            Unit::Ratio => write!(f, "{value:.0}x"),
            Unit::PerSecond => write!(f, "{value:.0}/s"),
            Unit::Nanoseconds => write!(f, "{value:.0} ns"),
            Unit::Microseconds => write!(f, "{value:.1} µs"),
            Unit::Milliseconds if value < 10.0 => write!(f, "{value:.2} ms"),
            Unit::Milliseconds => write!(f, "{value:.0} ms"),
            Unit::Bytes => write!(f, "{value:.0} B"),
            Unit::Mebibytes => write!(f, "{value:.1} MiB"),
            Unit::Count => write!(f, "{value:.0}"),
            Unit::GigabitsPerSecond => write!(f, "{value:.1} Gbit/s"),
        }
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) case: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) measured: Spread,
    pub(crate) target: Option<Target>,
    /// Of how many rounds, and how many noisy ones were left out; or of how many samples.
    pub(crate) basis: String,
}

/// Everything a run found.
#[derive(Debug)]
pub(crate) struct Report {
    folder: PathBuf,
    quick: bool,
    lines: Vec<Line>,
    plots: Vec<Plot>,
    /// Case, what was not measured, and why.
    left_out: Vec<(&'static str, String)>,
    /// Invariants that did not hold.
    broken: Vec<String>,
    facts: Vec<(String, String)>,
}

impl Report {
    pub(crate) const fn new(folder: PathBuf, quick: bool) -> Self {
        Self {
            folder,
            quick,
            lines: Vec::new(),
            plots: Vec::new(),
            left_out: Vec::new(),
            broken: Vec::new(),
            facts: Vec::new(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Something about the machine or the run.
    pub(crate) fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }

    pub(crate) fn line(&mut self, line: Line) {
        let verdict = self.verdict(&line);
        eprintln!(
            "    {} {}: {} [{} – {}] {}",
            line.case,
            line.what,
            Shown(line.measured.median, line.unit),
            Shown(line.measured.least, line.unit),
            Shown(line.measured.most, line.unit),
            markdown::word(verdict)
        );
        self.lines.push(line);
    }

    /// A figure of samples that were not taken in turns.
    pub(crate) fn samples(
        &mut self,
        case: &'static str,
        what: impl Into<String>,
        unit: Unit,
        measured: Spread,
        (count, target): (usize, Option<Target>),
    ) {
        let (what, basis) = (what.into(), format!("{count} samples"));
        self.line(Line { case, what, unit, measured, target, basis });
    }

    /// A ratio from interleaved rounds, when both contenders took part.
    pub(crate) fn ratio(
        &mut self,
        case: &'static str,
        rounds: &Rounds,
        figure: &'static str,
        (of, to): (&str, &str),
        target: Option<Target>,
    ) {
        let Some(measured) = rounds.ratio(figure, of, to) else { return };
        let (all, counted) = rounds.count();
        let what = format!("{figure}: {of} / {to}");
        self.line(Line { case, what, unit: Unit::Ratio, measured, target, basis: basis(all, counted) });
    }

    /// A difference from interleaved rounds, when both contenders took part.
    pub(crate) fn difference(
        &mut self,
        case: &'static str,
        rounds: &Rounds,
        (figure, unit): (&'static str, Unit),
        (of, to): (&str, &str),
        target: Option<Target>,
    ) {
        let Some(measured) = rounds.difference(figure, of, to) else { return };
        let (all, counted) = rounds.count();
        let what = format!("{figure}: {of} − {to}");
        self.line(Line { case, what, unit, measured, target, basis: basis(all, counted) });
    }

    /// A figure of one contender from interleaved rounds.
    pub(crate) fn value(
        &mut self,
        case: &'static str,
        rounds: &Rounds,
        (figure, unit): (&'static str, Unit),
        of: &str,
        target: Option<Target>,
    ) {
        let Some(measured) = rounds.value(figure, of) else { return };
        let (all, counted) = rounds.count();
        let what = format!("{figure}: {of}");
        self.line(Line { case, what, unit, measured, target, basis: basis(all, counted) });
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    pub(crate) fn leave_out(&mut self, case: &'static str, why: impl Into<String>) {
        let why = why.into();
        eprintln!("    {case} left out: {why}");
        self.left_out.push((case, why));
    }

    /// Notes an invariant that does not hold; the run then ends without success.
    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            eprintln!("    does not hold: {what}");
            self.broken.push(what);
        }
    }

    pub(crate) fn broken(&self) -> &[String] {
        &self.broken
    }

    fn verdict(&self, line: &Line) -> Verdict {
        match line.target {
            Some(target) if !self.quick => target.judge(line.measured),
            _ => Verdict::NotJudged,
        }
    }

    /// Writes the table, the figures and the plots.
    pub(crate) fn write(&mut self) -> Result<()> {
        let number = |case: &str| case.trim_start_matches(char::is_alphabetic).parse().unwrap_or(u32::MAX);
        self.lines.sort_by_key(|line| number(line.case));
        self.left_out.sort_by_key(|(case, _)| number(case));
        let write = |name: &str, text: &str| {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("results.md", &markdown::document(self))?;
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                let Spread { median, least, most, low, high } = line.measured;
                json!({
                    "case": line.case, "what": line.what, "unit": format!("{:?}", line.unit),
                    "median": median, "min": least, "max": most, "ci95": [low, high],
                    "target": line.target.map(markdown::target), "basis": line.basis,
                    "verdict": markdown::word(self.verdict(line)),
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(
            &json!({ "facts": self.facts, "lines": lines, "left out": self.left_out }),
        )
        .context("encode the results")?;
        write("results.json", &text)?;
        self.plots.iter().try_for_each(|plot| write(&format!("{}.svg", plot.name), &svg::draw(plot)))
    }
}

fn basis(all: usize, counted: usize) -> String {
    match all - counted {
        0 => format!("{all} rounds"),
        noisy => format!("{counted} rounds, {noisy} noisy ones left out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        let spread = |low, high| Spread { median: 1.0, least: 0.5, most: 1.5, low, high };
        assert_eq!(Target::AtLeast(0.9).judge(spread(0.95, 1.1)), Verdict::Met);
        assert_eq!(Target::AtLeast(1.2).judge(spread(0.95, 1.1)), Verdict::Missed);
        assert_eq!(Target::AtLeast(1.0).judge(spread(0.95, 1.1)), Verdict::Undecided);
        assert_eq!(Target::AtMost(1.1).judge(spread(0.95, 1.1)), Verdict::Met);
        assert_eq!(Target::AtMost(0.9).judge(spread(0.95, 1.1)), Verdict::Missed);
    }
}
