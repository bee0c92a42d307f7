//! Interleaved rounds: A B C, A B C, … Only readings of one round are compared with each other.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    interrupt,
    measure::{cpu::Ticks, statistics::Spread},
    report::raw::RawData,
};

/// A round with more stolen time than this is noisy.
const NOISY: f64 = 0.02;
/// Fewer quiet rounds than this say too little: then the noisy ones count, too.
const ENOUGH: usize = 5;

/// What one slice told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Figures by name, in one unit per name.
    pub(crate) values: BTreeMap<&'static str, f64>,
    /// Everything, for the raw data.
    pub(crate) detail: Value,
}

/// One of those that take turns.
pub(crate) struct Contender<'a> {
    pub(crate) label: String,
    pub(crate) run: Box<dyn FnMut() -> Result<Reading> + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(label: impl Into<String>, run: impl FnMut() -> Result<Reading> + 'a) -> Self {
        Self { label: label.into(), run: Box::new(run) }
    }
}

/// All readings of a measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    labels: Vec<String>,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug)]
struct Round {
    readings: Vec<BTreeMap<&'static str, f64>>,
    stolen: f64,
}

impl Rounds {
    /// Lets the contenders take turns, after a turn each that does not count.
    pub(crate) fn run(
        name: &str,
        rounds: u32,
        slice: Duration,
        mut contenders: Vec<Contender<'_>>,
        raw: &mut RawData,
    ) -> Result<Self> {
        let labels: Vec<String> = contenders.iter().map(|contender| contender.label.clone()).collect();
        let turns = u32::try_from(contenders.len()).context("few contenders")?;
        eprintln!("    {name}: {turns} contenders, {rounds} rounds, {:.0?} a round", slice * turns);
        for contender in &mut contenders {
            interrupt::check()?;
            (contender.run)().with_context(|| format!("{name}: warm up {}", contender.label))?;
        }
        let mut done = Vec::new();
        let begun = Instant::now();
        for round in 1..=rounds {
            let before = Ticks::now()?;
            let mut readings = Vec::new();
            for contender in &mut contenders {
                interrupt::check()?;
                let reading = (contender.run)()
                    .with_context(|| format!("{name}, round {round}: {}", contender.label))?;
                raw.note(&json!({
                    "measurement": name, "round": round, "contender": contender.label,
                    "values": reading.values, "detail": reading.detail,
                }))?;
                readings.push(reading.values);
            }
            let stolen = Ticks::now()?.stolen_since(before);
            raw.note(
                &json!({ "measurement": name, "round": round, "stolen": stolen, "noisy": stolen > NOISY }),
            )?;
            done.push(Round { readings, stolen });
            let left = begun.elapsed() / round * (rounds - round);
            let mark = if stolen > NOISY { " (noisy)" } else { "" };
            eprintln!("    {name}: round {round} of {rounds}{mark}, {left:.0?} left");
        }
        Ok(Self { labels, rounds: done })
    }

    /// How many rounds there are, and how many of them count.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.rounds.len(), self.counting().count())
    }

    /// A figure of one contender.
    pub(crate) fn value(&self, figure: &str, of: &str) -> Option<Spread> {
        let of = self.position(of)?;
        let values: Option<Vec<f64>> =
            self.counting().map(|round| round.readings[of].get(figure).copied()).collect();
        values.map(|values| Spread::of(&values))
    }

    /// A figure of one contender as a ratio to another's, round by round.
    pub(crate) fn ratio(&self, figure: &str, of: &str, to: &str) -> Option<Spread> {
        self.compared(figure, of, to, |of, to| of / to)
    }

    /// By how much a figure of one contender exceeds another's, round by round.
    pub(crate) fn difference(&self, figure: &str, of: &str, to: &str) -> Option<Spread> {
        self.compared(figure, of, to, |of, to| of - to)
    }

    fn compared(&self, figure: &str, of: &str, to: &str, compare: fn(f64, f64) -> f64) -> Option<Spread> {
        let (of, to) = (self.position(of)?, self.position(to)?);
        let values: Option<Vec<f64>> = self
            .counting()
            .map(|round| Some(compare(*round.readings[of].get(figure)?, *round.readings[to].get(figure)?)))
            .collect();
        values.map(|values| Spread::of(&values))
    }

    fn position(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|known| known == label)
    }

    /// The quiet rounds; all, when too few are quiet.
    fn counting(&self) -> impl Iterator<Item = &Round> {
        let quiet = self.rounds.iter().filter(|round| round.stolen <= NOISY).count();
        let all = quiet < ENOUGH.min(self.rounds.len());
        self.rounds.iter().filter(move |round| all || round.stolen <= NOISY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(readings: &[(f64, f64, f64)]) -> Rounds {
        let of = |value: f64| BTreeMap::from([("rate", value)]);
        let rounds =
            readings.iter().map(|(a, b, stolen)| Round { readings: vec![of(*a), of(*b)], stolen: *stolen });
        Rounds { labels: vec!["a".into(), "b".into()], rounds: rounds.collect() }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine became twice as slow; the ratio did not change.
        let rounds = rounds(&[(20.0, 10.0, 0.0), (10.0, 5.0, 0.0), (20.0, 10.0, 0.0)]);
        let ratio = rounds.ratio("rate", "a", "b").expect("both are there");
        assert!((ratio.least - 2.0).abs() < 1e-9 && (ratio.most - 2.0).abs() < 1e-9, "{ratio:?}");
        assert_eq!(rounds.ratio("rate", "a", "c"), None);
        assert_eq!(rounds.ratio("p50", "a", "b"), None);
    }

    #[test]
    fn noisy_rounds_count_only_when_too_few_are_quiet() {
        let quiet = (10.0, 10.0, 0.0);
        let noisy = (1.0, 10.0, 0.5);
        let many = rounds(&[quiet, quiet, quiet, quiet, quiet, noisy]);
        assert_eq!(many.count(), (6, 5));
        let few = rounds(&[quiet, quiet, noisy, noisy, noisy]);
        assert_eq!(few.count(), (5, 5));
    }
}
