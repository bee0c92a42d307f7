//! What each kernel made of each program: the table, and what is wrong with it.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    console::{Outcome, Report, Traffic},
    kernels::Kernel,
};

/// A kernel and what it reported.
pub(crate) type Row<'a> = (&'a Kernel, Report);

/// Programs from top to bottom, kernels from left to right.
pub(crate) fn table(rows: &[Row<'_>], budget: &BTreeMap<String, u32>) -> String {
    let programs: BTreeSet<&String> = rows.iter().flat_map(|(_, report)| report.programs.keys()).collect();
    let mut text = format!("{:<16} {:>8}", "program", "budget");
    for (kernel, _) in rows {
        let _ = write!(text, " {:>10}", kernel.name);
    }
    for program in programs {
        let most = budget.get(program).map_or_else(|| "none".to_owned(), u32::to_string);
        let _ = write!(text, "\n{program:<16} {most:>8}");
        for (_, report) in rows {
            let cell = match report.programs.get(program) {
                Some(Outcome::Loaded { instructions: Some(count), .. }) => count.to_string(),
                Some(Outcome::Loaded { instructions: None, .. }) => "loads".to_owned(),
                Some(Outcome::Refused { .. }) => "refused".to_owned(),
                None => "missing".to_owned(),
            };
            let _ = write!(text, " {cell:>10}");
        }
    }
    let took = |report: &Report| {
        let loads = report.programs.values().map(|outcome| match outcome {
            Outcome::Loaded { milliseconds, .. } => *milliseconds,
            Outcome::Refused { .. } => 0,
        });
        f64::from(loads.sum::<u32>()) / 1e3
    };
    let _ = write!(text, "\n{:<25}", "seconds to load, emulated");
    for (_, report) in rows {
        let _ = write!(text, " {:>10.1}", took(report));
    }
    let _ = write!(text, "\n{:<25}", "seconds of traffic");
    for (_, report) in rows {
        let cell = match &report.traffic {
            Traffic::None => "none".to_owned(),
            Traffic::Passed { seconds } => seconds.to_string(),
            Traffic::Failed { .. } => "failed".to_owned(),
        };
        let _ = write!(text, " {cell:>10}");
    }
    for (kernel, report) in rows {
        let _ = write!(text, "\n{}: Linux {}, Debian {}", kernel.name, report.release, kernel.suite);
    }
    text
}

/// What is not as it must be on one kernel, one line each.
pub(crate) fn problems(kernel: &Kernel, report: &Report, budget: &BTreeMap<String, u32>) -> Vec<String> {
    let mut problems = Vec::new();
    for name in budget.keys().filter(|name| !report.programs.contains_key(*name)) {
        problems.push(format!("{name} has a budget, but was not loaded"));
    }
    for (name, outcome) in &report.programs {
        let known = kernel.refuses.iter().find(|refusal| refusal.program == name);
        match (outcome, known) {
            (Outcome::Loaded { .. }, Some(_)) => {
                problems.push(format!("{name} loads now: take it off the list of what this kernel refuses"));
            }
            (Outcome::Loaded { instructions, .. }, None) => match (instructions, budget.get(name)) {
                (Some(count), Some(most)) if count > most => {
                    problems.push(format!("{name}: {count} verified instructions, of {most} at most"));
                }
                (_, None) => problems.push(format!("{name} has no budget")),
                _ => {}
            },
            (Outcome::Refused { log, .. }, Some(known)) if says(log, known.because) => {}
            (Outcome::Refused { reason, log }, known) => {
                let other =
                    known.map_or_else(String::new, |known| format!(", and not for {:?}", known.because));
                problems.push(format!("{name} is refused{other}: {reason}\n    {}", log.join("\n    ")));
            }
        }
    }
    if let Traffic::Failed { said } = &report.traffic {
        problems.push(format!("the tests in it failed:\n{said}"));
    }
    problems.into_iter().map(|problem| format!("Linux {}: {problem}", report.release)).collect()
}

fn says(log: &[String], because: &str) -> bool {
    log.iter().any(|line| line.contains(because))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernels::Refusal;

    const NO_HELPER: &[Refusal] = &[Refusal { program: "to_pod", because: "invalid func unknown#190" }];

    fn loaded(instructions: impl Into<Option<u32>>) -> Outcome {
        Outcome::Loaded { instructions: instructions.into(), milliseconds: 1500 }
    }

    fn refused(log: &str) -> Outcome {
        Outcome::Refused { reason: "Invalid argument".into(), log: vec!["R1=ctx".into(), log.into()] }
    }

    fn report(to_pod: Outcome) -> Report {
        let programs = [("clock".into(), loaded(20)), ("to_pod".into(), to_pod)].into();
        Report { release: "6.1.0-50".into(), programs, traffic: Traffic::Passed { seconds: 40 } }
    }

    fn budget() -> BTreeMap<String, u32> {
        [("clock".into(), 50), ("to_pod".into(), 1000)].into()
    }

    fn kernel(refuses: &'static [Refusal]) -> Kernel {
        Kernel { name: "6.1", suite: "bookworm", refuses, is_supported: true }
    }

    fn found(refuses: &'static [Refusal], to_pod: Outcome) -> String {
        problems(&kernel(refuses), &report(to_pod), &budget()).join("\n")
    }

    #[test]
    fn what_loads_within_its_budget_and_what_is_known_to_be_refused_is_right() {
        for (refuses, to_pod) in [
            (&[][..], loaded(1000)),
            (&[], loaded(None)),
            (NO_HELPER, refused("7: invalid func unknown#190")),
        ] {
            assert_eq!(found(refuses, to_pod), "");
        }
    }

    #[test]
    fn everything_else_is_a_problem() {
        for (refuses, to_pod, message) in [
            (&[][..], loaded(1001), "to_pod: 1001 verified instructions, of 1000"),
            (&[], refused("R2 invalid mem access"), "R2 invalid mem access"),
            (NO_HELPER, refused("R2 invalid mem access"), "not for \"invalid func unknown#190\""),
            (NO_HELPER, loaded(10), "to_pod loads now"),
        ] {
            let found = found(refuses, to_pod);
            assert!(found.contains(message) && found.contains("6.1.0-50"), "{message} is not in {found}");
        }
    }

    #[test]
    fn failed_traffic_is_a_problem_that_says_what_the_tests_said() {
        let failed = Traffic::Failed { said: "lost: 3".into() };
        let report = Report { traffic: failed, ..report(loaded(1)) };
        let found = problems(&kernel(&[]), &report, &budget()).join("\n");
        assert!(found.contains("6.1.0-50: the tests in it failed:\nlost: 3"), "{found}");
    }

    #[test]
    fn programs_and_budgets_are_the_same_set() {
        let programs = [("new".into(), loaded(1))].into();
        let report = Report { release: "6.1".into(), programs, traffic: Traffic::Passed { seconds: 40 } };
        let found = problems(&kernel(&[]), &report, &[("old".into(), 1)].into()).join("\n");
        assert!(found.contains("old has a budget") && found.contains("new has no budget"), "{found}");
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel() {
        let (old, new) = (kernel(NO_HELPER), Kernel { name: "newest", ..kernel(&[]) });
        let rows = [(&old, report(refused("x"))), (&new, report(loaded(999)))];
        let expected = "\
program            budget        6.1     newest
clock                  50         20         20
to_pod               1000    refused        999
seconds to load, emulated        1.5        3.0
seconds of traffic                40         40
6.1: Linux 6.1.0-50, Debian bookworm
newest: Linux 6.1.0-50, Debian bookworm";
        assert_eq!(table(&rows, &budget()), expected);
    }
}
