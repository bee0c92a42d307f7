//! B13: memory of the agent, and of kube-proxy, by the number of services.
use anyhow::Result;
use serde_json::json;

use crate::{
    bench::Bench,
    measure::statistics::Spread,
    report::{Curve, Plot, Point, Scale, Target, Unit},
    system::{Footprint, Kind},
};

const CASE: &str = "B13";
/// Services that the target is about.
const TARGET: usize = 30_000;
const MIB: f64 = 1024.0 * 1024.0;

#[expect(clippy::cast_precision_loss, reason = "bytes of a machine")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Footprints by number of services.
fn footprints(bench: &mut Bench<'_>, kind: Kind) -> Result<Vec<(usize, Footprint)>> {
    let mut footprints = Vec::new();
    let mut sizes = bench.sizes(CASE, kind);
    // The number that the target is about.
    if kind == Kind::Millrace && sizes.last().is_some_and(|most| *most > TARGET) {
        sizes.push(TARGET);
        sizes.sort_unstable();
    }
    for size in sizes {
        let footprint = bench.station(Bench::setup(kind, size))?.system().footprint()?;
        bench.raw.note(&json!({
            "measurement": "memory", "contender": kind.name(), "services": size,
            "rss": footprint.rss, "pss": footprint.pss, "kernel": footprint.kernel,
        }))?;
        footprints.push((size, footprint));
    }
    Ok(footprints)
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut curves = Vec::new();
    for kind in bench.service_kinds() {
        let footprints = footprints(bench, kind)?;
        let mut points = Vec::new();
        for (size, footprint) in footprints.iter().filter(|(_, footprint)| footprint.rss > 0) {
            let target = match (kind, *size) {
                (Kind::Millrace, 0..=10) => Some(Target::AtMost(25.0)),
                (Kind::Millrace, TARGET) => Some(Target::AtMost(150.0)),
                _ => None,
            };
            let (rss, pss) = (float(footprint.rss) / MIB, float(footprint.pss) / MIB);
            let line = |what: &str| format!("{what}: {kind}@{size}");
            let report = &mut bench.report;
            report.samples(CASE, line("RSS"), Unit::Mebibytes, Spread::exactly(rss), (1, target));
            report.samples(CASE, line("PSS"), Unit::Mebibytes, Spread::exactly(pss), (1, None));
            let x = f64::from(u32::try_from(*size)?);
            points.push(Point { x, y: rss, low: rss, high: rss });
        }
        curves.push(Curve { name: kind.to_string(), points });
    }
    bench.report.plot(Plot {
        name: "memory".to_owned(),
        title: "Resident memory of the agent, and of kube-proxy".to_owned(),
        x: ("services".to_owned(), Scale::Logarithmic),
        y: ("MiB".to_owned(), Scale::Linear),
        curves,
    });
    Ok(())
}
