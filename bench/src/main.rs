//! Benchmarks of Millrace beside kube-proxy and plain routing: `cargo xtask bench` builds and runs this.
mod baseline;
mod bench;
mod case;
mod interrupt;
mod load;
mod measure;
mod options;
mod packets;
mod preflight;
mod report;
mod rounds;
mod station;
mod system;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use crate::{
    bench::Bench,
    case::{CASES, What},
    options::{Options, Role},
    preflight::Ready,
    report::{Report, raw::RawData},
    system::services::ServiceSet,
};

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.role {
        Some(Role::Client { .. }) => load::client::run(),
        Some(Role::Server { number, addr, .. }) => load::server::serve(*number, *addr),
        Some(Role::CompareRules { services }) => compare_rules(*services),
        None if options.list => list(),
        None => run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of several things that `main` may do")]
fn list() -> Result<()> {
    for case in CASES {
        let needs = match case.what {
            What::Runs(_) => String::new(),
            What::Needs(what) => format!(" (needs {what})"),
        };
        println!("{:<4} {}{needs}", case.id, case.title);
    }
    Ok(())
}

fn compare_rules(count: usize) -> Result<()> {
    interrupt::watch()?;
    baseline::comparison::compare(ServiceSet { count })
}

fn run(options: &Options) -> Result<()> {
    interrupt::watch()?;
    let Ready { cases, kinds, absent, _lock } = preflight::check(options)?;
    let folder = folder(options)?;
    let begun = Instant::now();
    let raw = RawData::create(&folder)?;
    let mut bench = Bench::new(options, kinds, raw, Report::new(folder, options.quick));
    facts(&mut bench);
    for (kind, why) in absent {
        bench.report.leave_out("all", format!("{kind}: {why}"));
    }
    let mut failed = Vec::new();
    for case in cases {
        eprintln!("==> {} {}", case.id, case.title);
        match case.what {
            What::Needs(what) => bench.report.leave_out(case.id, format!("needs {what}")),
            What::Runs(measure) => {
                if let Err(error) = measure(&mut bench) {
                    bench.report.leave_out(case.id, format!("failed: {error:#}"));
                    failed.push(case.id);
                }
            }
        }
        if interrupt::came() {
            break;
        }
    }
    bench.report.fact("duration", format!("{:.0?}", begun.elapsed()));
    bench.report.write()?;
    eprintln!("==> results, raw data and plots are in {}", bench.report.folder().display());
    if interrupt::came() {
        bail!("interrupted: what was measured until then is kept");
    }
    if !failed.is_empty() || !bench.report.broken().is_empty() {
        bail!("cases that failed: {}; {}", failed.join(" "), bench.report.broken().join("; "));
    }
    Ok(())
}

/// The folder of the output; made when it is not there.
fn folder(options: &Options) -> Result<PathBuf> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let default = || PathBuf::from("target/bench").join(since_1970.as_secs().to_string());
    let folder = options.output.clone().unwrap_or_else(default);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// What a reader needs to know of the machine.
fn facts(bench: &mut Bench<'_>) {
    let first = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    bench.report.fact("kernel", first("/proc/sys/kernel/osrelease"));
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    bench.report.fact("CPU", format!("{count} × {}", model.unwrap_or("unknown")));
    bench.report.fact("load average at the start", first("/proc/loadavg"));
    let systems: Vec<&str> = bench.kinds.iter().map(|kind| kind.name()).collect();
    bench.report.fact("systems", systems.join(", "));
    let (rounds, lasting) = (bench.options.rounds(), bench.options.lasting());
    bench
        .report
        .fact("rounds", format!("{rounds}, slices of {lasting:?}, client and server on one CPU, SCHED_FIFO"));
}
