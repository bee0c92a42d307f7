//! One CPU for what is measured, ahead of everything else, and what the hypervisor took from it.
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

const PRIORITY: i32 = 10;

/// The CPU that client and server share: a wake-up on another one costs ten times what is measured.
pub(crate) const MEASURED: usize = 1;

/// Keeps this process, and the threads that it starts from here on, on the measured CPU.
pub(crate) fn pin() -> Result<()> {
    // SAFETY: plain old data, filled in before use; the call only reads it.
    let result = unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(MEASURED, &mut cpus);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus)
    };
    ensure!(result == 0, "CPU {MEASURED} cannot be used: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Puts this process ahead of all that is not real-time.
pub(crate) fn first_in_line() -> Result<()> {
    let priority = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the call reads one structure.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(result == 0, "SCHED_FIFO refused: {}", std::io::Error::last_os_error());
    Ok(())
}

/// CPUs of the machine that are online.
pub(crate) fn count() -> Result<usize> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    Ok(text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count())
}

/// Time of the measured CPU, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::of_line(&text, &format!("cpu{MEASURED} "))
    }

    fn of_line(text: &str, cpu: &str) -> Result<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(cpu));
        let Some(line) = line else { bail!("/proc/stat has no line {cpu:?}") };
        // user nice system idle iowait irq softirq steal; guest time is part of user time (proc(5)).
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let stolen = *ticks.get(7).context("/proc/stat tells no stolen time")?;
        Ok(Self { stolen, all: ticks.iter().sum() })
    }

    /// The share of the time since `earlier` that the hypervisor took away.
    pub(crate) fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let stolen = self.stolen.saturating_sub(earlier.stolen);
        if all == 0 { 0.0 } else { ticks(stolen) / ticks(all) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
fn ticks(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share() {
        let at = |line: &str| Ticks::of_line(line, "cpu1 ").expect("a line");
        let before = at("cpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 100 0 100 800 0 0 0 0 0 0\n");
        let after = at("cpu1 150 0 140 800 0 0 5 5 50 0\n");
        assert!((after.stolen_since(before) - 0.05).abs() < 1e-9);
        assert!(after.stolen_since(after).abs() < 1e-9);
    }
}
