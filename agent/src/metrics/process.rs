//! What the kernel tells of the agent's own process.
use std::{
    fs,
    time::{Duration, SystemTime},
};

use nix::unistd::{SysconfVar, sysconf};

/// The process now. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    /// Bytes in memory.
    pub(super) resident: u64,
    pub(super) descriptors: usize,
}

impl Process {
    pub(super) fn read() -> Self {
        let text = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let ask = |what, otherwise: u64| {
            sysconf(what).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(otherwise)
        };
        let ticks = ask(SysconfVar::CLK_TCK, 100);
        Self {
            cpu: Duration::from_millis(cpu_ticks(&text("stat")) * 1000 / ticks.max(1)),
            resident: resident_pages(&text("statm")) * ask(SysconfVar::PAGE_SIZE, 4096),
            // One of them is the folder's.
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1)),
        }
    }
}

/// User and system time in `/proc/PID/stat`; the name of the process, in brackets, may hold anything.
fn cpu_ticks(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn resident_pages(statm: &str) -> u64 {
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The release of the running kernel.
pub(super) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), 300);
        assert_eq!(cpu_ticks(""), 0);
        assert_eq!(resident_pages("500 200 100 1 0 300 0"), 200);
        assert_eq!(resident_pages(""), 0);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::read();
        assert!(process.resident > 100_000 && process.descriptors >= 3, "{process:?}");
        assert!(!kernel().is_empty());
    }
}
