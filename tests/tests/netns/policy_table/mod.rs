//! The policy table with real connections between real pods: every row, every step, every pair, by Service and by
//! pod address, in both families. A blocked connection is silent.
mod lane;
mod matrix;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Result, bail};
use harness::{kernel, policy_table, topology::Topology};

use self::lane::Lane;

/// Rows that run side by side, each lane with namespaces and pods of its own. The time goes into waiting for
/// time-outs.
const LANES: usize = 4;

#[test]
fn every_cell_of_the_policy_table_holds_in_both_families() -> Result<()> {
    kernel::require(kernel::NETNS);
    let begun = Instant::now();
    let topology = Topology::start()?;
    let rows = Mutex::new(VecDeque::from(policy_table::rows()?));
    let failures = Mutex::new(Vec::new());
    let cells = Mutex::new(0);
    std::thread::scope(|scope| {
        for number in 0..LANES {
            let (topology, rows, failures, cells) = (&topology, &rows, &failures, &cells);
            scope.spawn(move || {
                let fail =
                    |failure: String| failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                let lane = match Lane::build(topology, number) {
                    Ok(lane) => lane,
                    Err(error) => return fail(format!("lane {number}: {error:#}")),
                };
                loop {
                    let row = rows.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(row) = row else { return };
                    match lane.run(&row) {
                        Ok(probed) => *cells.lock().unwrap_or_else(PoisonError::into_inner) += probed,
                        Err(error) => fail(format!("row {}, {}: {error:#}", row.row, row.name)),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failures.is_empty() {
        bail!("{} rows fail:\n{}", failures.len(), failures.join("\n"));
    }
    println!("{} cells right in {:.1?}", cells.into_inner().unwrap_or_default(), begun.elapsed());
    topology.close()
}
