//! The table of a run.
use std::fmt::Write as _;

use super::{Report, Shown, Target, Verdict};

pub(super) const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::Missed => "missed",
        Verdict::Undecided => "within the noise",
        Verdict::NotJudged => "–",
    }
}

pub(super) fn target(target: Target) -> String {
    match target {
        Target::AtLeast(value) => format!("≥ {value}"),
        Target::AtMost(value) => format!("≤ {value}"),
    }
}

pub(super) fn document(report: &Report) -> String {
    let mut text = String::from("# Results\n\n");
    // Writing to a string cannot fail.
    for (name, value) in &report.facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    if report.quick {
        text.push_str(
            "\nA quick run: it shows that every case works. Its figures say little; nothing is judged.\n",
        );
    }
    text.push_str("\n| case | figure | target | measured | min – max | 95 % interval | of | verdict |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for line in &report.lines {
        let shown = |value| Shown(value, line.unit);
        let measured = &line.measured;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} – {} | {} – {} | {} | {} |",
            line.case,
            line.what,
            line.target.map(target).unwrap_or_default(),
            shown(measured.median),
            shown(measured.least),
            shown(measured.most),
            shown(measured.low),
            shown(measured.high),
            line.basis,
            word(report.verdict(line)),
        );
    }
    section(&mut text, "Left out", report.left_out.iter().map(|(case, why)| format!("{case}: {why}")));
    section(&mut text, "Invariants that did not hold", report.broken.iter().cloned());
    if !report.plots.is_empty() {
        text.push_str("\n## Plots\n\n");
        for plot in &report.plots {
            let _ = writeln!(text, "![{}]({}.svg)\n", plot.title, plot.name);
        }
    }
    text
}

fn section(text: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {title}\n");
    for item in items {
        let _ = writeln!(text, "- {item}");
    }
}
