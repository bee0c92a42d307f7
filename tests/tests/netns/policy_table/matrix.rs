//! A matrix of connections, probed together and compared with what is expected.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use harness::{
    policy_table::Port,
    probe::{
        client::Probe,
        wire::{Outcome, Target},
    },
};

use super::lane::transport;

/// How long a connection is tried. A blocked one takes all of it.
const TRY: Duration = Duration::from_secs(1);
/// How long a cell may be wrong. The policy is in the maps by then, so this covers only a machine that is too busy.
const DEADLINE: Duration = Duration::from_secs(5);

/// One connection and what is expected of it.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) server: String,
    pub(super) port: Port,
    pub(super) address: IpAddr,
    pub(super) allowed: bool,
}

/// Connections by client.
#[derive(Default)]
pub(super) struct Matrix<'a> {
    rows: BTreeMap<String, (&'a Probe, Vec<Cell>)>,
}

impl<'a> Matrix<'a> {
    pub(super) fn add(&mut self, client: &'a Probe, cell: Cell) {
        let row = self.rows.entry(client.name().to_owned());
        row.or_insert_with(|| (client, Vec::new())).1.push(cell);
    }

    /// Probes everything. Cells that are wrong are probed again until the deadline; then everything must be right
    /// once more, at the same time.
    pub(super) fn check(&self, row: u32) -> Result<usize> {
        let begun = Instant::now();
        let count = self.rows.values().map(|(_, cells)| cells.len()).sum();
        let mut wrong = self.wrong()?;
        if wrong.is_empty() {
            return Ok(count);
        }
        let first = describe(&wrong);
        while !wrong.is_empty() && begun.elapsed() < DEADLINE {
            wrong =
                Self { rows: wrong.into_iter().map(|(name, row)| (name, row.again())).collect() }.wrong()?;
        }
        if wrong.is_empty() {
            wrong = self.wrong()?;
        }
        if !wrong.is_empty() {
            let cells: usize = wrong.values().map(|row| row.cells.len()).sum();
            bail!("{cells} of {count} cells are wrong: {}", describe(&wrong));
        }
        eprintln!("row {row}: right only after {:.1?}: {first}", begun.elapsed());
        Ok(count)
    }

    /// The cells that are not as expected.
    fn wrong(&self) -> Result<BTreeMap<String, WrongRow<'a>>> {
        std::thread::scope(|scope| {
            let probing: Vec<_> = self
                .rows
                .iter()
                .map(|(name, (client, cells))| (name, scope.spawn(move || wrong_cells(client, cells))))
                .collect();
            let mut wrong = BTreeMap::new();
            for (name, row) in probing {
                let row = row.join().map_err(|_| anyhow!("a probing thread panicked"))??;
                if !row.cells.is_empty() {
                    wrong.insert(name.clone(), row);
                }
            }
            Ok(wrong)
        })
    }
}

/// The cells of one client that are not as expected, and what they are.
struct WrongRow<'a> {
    client: &'a Probe,
    cells: Vec<(Cell, Outcome)>,
}

impl<'a> WrongRow<'a> {
    fn again(self) -> (&'a Probe, Vec<Cell>) {
        (self.client, self.cells.into_iter().map(|(cell, _)| cell).collect())
    }
}

fn wrong_cells<'a>(client: &'a Probe, cells: &[Cell]) -> Result<WrongRow<'a>> {
    let targets: Vec<Target> = cells
        .iter()
        .map(|cell| Target {
            transport: transport(cell.port.protocol),
            to: SocketAddr::new(cell.address, cell.port.number),
            from: None,
        })
        .collect();
    let outcomes = client.probe(&targets, TRY).context("probe")?;
    let is_right = |cell: &Cell, outcome: &Outcome| match outcome {
        Outcome::Answered(answer) => cell.allowed && answer.by == cell.server,
        Outcome::TimedOut => !cell.allowed,
        Outcome::Refused | Outcome::Reset | Outcome::Unreachable | Outcome::Failed(_) => false,
    };
    let cells =
        cells.iter().cloned().zip(outcomes).filter(|(cell, outcome)| !is_right(cell, outcome)).collect();
    Ok(WrongRow { client, cells })
}

fn describe(wrong: &BTreeMap<String, WrongRow<'_>>) -> String {
    const TOLD: usize = 12;
    let mut words: Vec<String> = wrong
        .iter()
        .flat_map(|(client, row)| {
            row.cells.iter().map(move |(cell, outcome)| {
                let expected = if cell.allowed { "open" } else { "silent" };
                format!(
                    "{client} > {} at {} {}: {outcome}, not {expected}",
                    cell.server, cell.address, cell.port
                )
            })
        })
        .collect();
    let more = words.len().saturating_sub(TOLD);
    words.truncate(TOLD);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join("; ")
}
