//! The test tiers: each is run, timed and counted; a tier that ran nothing has failed.
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench, build, build_ebpf, cluster, command, debian, demo, image, lint, machine, tiers::Tier, vm,
};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run one tier only
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// The same, in short
    #[arg(value_enum, value_name = "TIER", conflicts_with = "tier")]
    only: Option<Tier>,
    /// Also run the tier `vm`, which fetches kernels, the tier `cluster`, which needs Go, the lints, the demo, and a quick run of the benchmarks
    #[arg(long, conflicts_with_all = ["tier", "only"])]
    all: bool,
}

/// Programs that the tests call.
pub(crate) const NEEDED: &[debian::Needed] = &[
    debian::Needed { program: "ip", package: "iproute2", why: "network namespaces and links of the tests" },
    debian::Needed { program: "nft", package: "nftables", why: "firewalls of hosts" },
    debian::Needed { program: "iptables-legacy", package: "iptables", why: "firewalls of hosts" },
    debian::Needed {
        program: "/usr/lib/cni/host-local",
        package: "containernetworking-plugins",
        why: "addresses of another network",
    },
];

/// What a tier did.
#[derive(Default, PartialEq, Eq, Debug)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Names of those that failed, as far as they were printed.
    failures: Vec<String>,
}

/// Builds everything and runs the tiers; ends with one line of totals.
pub(crate) fn test(options: &Options) -> Result<()> {
    let usual = if options.all { Tier::ALL.to_vec() } else { Tier::USUAL.to_vec() };
    let tiers = options.tier.or(options.only).map_or(usual, |tier| vec![tier]);
    if tiers.iter().any(|tier| !matches!(tier, Tier::Pure | Tier::Vm)) {
        machine::require_ebpf("the tiers above `pure` (`--tier pure` and `--tier vm` run the rest)")?;
        debian::ensure(NEEDED)?;
    }
    // The agent embeds it.
    build_ebpf::build()?;
    let mut total = Counts::default();
    let mut report = Vec::new();
    let mut problems = Vec::new();
    if options.all {
        report.push(step("lint", &mut problems, lint::lint));
    }
    for tier in tiers {
        let started = Instant::now();
        let counts = run(tier, &mut problems)?;
        total.passed += counts.passed;
        total.failed += counts.failed;
        let Counts { passed, failed, .. } = counts;
        report.push(line(tier.name(), started.elapsed(), &format!("{passed} passed, {failed} failed")));
    }
    if options.all {
        report.push(step("demo", &mut problems, || demo::play(&demo::Options::default())));
        report.push(step("bench", &mut problems, bench::quick));
    }
    println!("\n{}", report.join("\n"));
    println!("test: {} passed, {} failed", total.passed, total.failed);
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(())
}

/// Runs something that counts nothing and returns its line of the report.
fn step(name: &str, problems: &mut Vec<String>, run: impl FnOnce() -> Result<()>) -> String {
    let started = Instant::now();
    let result = run();
    let outcome = if result.is_ok() { "passed" } else { "failed" };
    problems.extend(result.err().map(|error| format!("{name}: {error:#}")));
    line(name, started.elapsed(), outcome)
}

fn line(name: &str, took: Duration, outcome: &str) -> String {
    format!("{name:<8} {:>7.1} s   {outcome}", took.as_secs_f64())
}

fn run(tier: Tier, problems: &mut Vec<String>) -> Result<Counts> {
    if tier == Tier::Vm {
        return Ok(kernels(problems));
    }
    if tier != Tier::Pure {
        // After the pure tier, whose build of the CNI plugin is not the static one.
        build::for_tests()?;
    }
    if tier == Tier::Cluster {
        cluster::build()?;
        image::image(&image::Options::default())?;
    }
    command::announce(&format!("tests of tier {}", tier.name()));
    let (mut counts, mut succeeded) = (Counts::default(), true);
    for mut cargo in tier.calls()? {
        succeeded &= count_tests(&mut cargo, &mut counts)?;
    }
    let name = tier.name();
    if counts.passed + counts.failed == 0 {
        problems.push(format!("tier {name} ran no test"));
    }
    if counts.ignored > 0 {
        problems.push(format!("tier {name} ignored {} tests", counts.ignored));
    }
    if counts.failed > 0 {
        let which = counts.failures.join(", ");
        problems.push(format!("tier {name}: {} tests failed: {which}", counts.failed));
    } else if !succeeded {
        problems.push(format!("tier {name} did not build or was ended"));
    }
    Ok(counts)
}

/// Counts each kernel as a test.
fn kernels(problems: &mut Vec<String>) -> Counts {
    let mut counts = Counts::default();
    let judged = match vm::judge(&vm::Options::default()) {
        Ok(judged) => judged,
        Err(error) => {
            problems.push(format!("tier vm: {error:#}"));
            return counts;
        }
    };
    for vm::Judged { kernel, problems: found } in judged {
        if found.is_empty() {
            counts.passed += 1;
        } else {
            counts.failed += 1;
            counts.failures.push(kernel.to_owned());
        }
        problems.extend(found);
    }
    counts
}

/// Runs the tests with their output shown, and counts by the closing line of each test program. Says whether cargo
/// ended well.
fn count_tests(cargo: &mut Command, counts: &mut Counts) -> Result<bool> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the output of cargo")?;
        println!("{line}");
        count(&line, counts);
    }
    Ok(child.wait().context("cannot wait for cargo")?.success())
}

fn count(line: &str, counts: &mut Counts) {
    let failure = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
    counts.failures.extend(failure.map(String::from));
    let Some(result) = line.strip_prefix("test result: ") else { return };
    for part in result.split([';', '.']) {
        let mut words = part.split_whitespace();
        let (Some(Ok(number)), Some(kind)) = (words.next().map(str::parse::<usize>), words.next()) else {
            continue;
        };
        match kind {
            "passed" => counts.passed += number,
            "failed" => counts.failed += number,
            "ignored" => counts.ignored += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_test_programs_add_up() {
        let mut counts = Counts::default();
        count(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            &mut counts,
        );
        count("test a::b ... ok", &mut counts);
        count("test a::c ... FAILED", &mut counts);
        count(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            &mut counts,
        );
        assert_eq!(counts, Counts { passed: 14, failed: 3, ignored: 1, failures: vec!["a::c".into()] });
    }
}
