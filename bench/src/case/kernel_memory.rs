//! B12: what a service with its endpoints takes in the kernel. Of rules: by how much slabs, vmalloc areas and per-CPU
//! memory grow while they are made. Of Millrace: what the kernel charges for its maps, beyond those of few services.
use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    baseline::{Node, Origin},
    bench::Bench,
    interrupt,
    measure::statistics::Spread,
    report::{Line, Target, Unit},
    system::{self, Backend, Kind, Setup},
};

const CASE: &str = "B12";
const KIB: f64 = 1024.0;

/// Fewer services drown in what else the kernel does meanwhile.
const FEWEST: usize = 1_000;

/// What Millrace should reach: at most this many bytes, and this much less than the rules.
const MOST: f64 = 0.6 * KIB;
const RATIOS: &[(Backend, f64)] = &[(Backend::IptablesLegacy, 15.0), (Backend::IptablesNft, 23.0)];

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    bench.retain(|_| false);
    let sizes: Vec<usize> = bench.options.sizes().into_iter().filter(|size| *size >= FEWEST).collect();
    if sizes.is_empty() {
        bench.report.leave_out(CASE, format!("it needs a size of at least {FEWEST} services"));
    }
    for size in sizes {
        let ours = bench.has(Kind::Millrace).then(|| of_maps(bench, size)).transpose()?;
        for kind in bench.service_kinds() {
            let Kind::KubeProxy(backend) = kind else { continue };
            if !bench.sizes(CASE, kind).contains(&size) {
                continue;
            }
            let theirs = of_rules(bench, backend, size)?;
            let Some(Charged { each: ours, all }) = ours else { continue };
            let services = f64::from(u32::try_from(size)?);
            let totals: Vec<f64> = theirs.iter().map(|bytes| bytes * services / all).collect();
            let what = format!("kernel memory, all of it: {kind} / millrace, {size} services");
            line(bench, what, Unit::Ratio, &totals, None);
            let ratios: Vec<f64> = theirs.iter().map(|bytes| bytes / ours).collect();
            let target =
                RATIOS.iter().find(|(of, _)| *of == backend).map(|(_, ratio)| Target::AtLeast(*ratio));
            line(
                bench,
                format!("kernel memory: {kind} / millrace, {size} services"),
                Unit::Ratio,
                &ratios,
                target,
            );
        }
    }
    Ok(())
}

/// What the kernel charges for maps, in bytes.
#[derive(Clone, Copy)]
struct Charged {
    /// For each service, beyond what is taken before there is one.
    each: f64,
    all: f64,
}

/// By the maps' own account.
fn of_maps(bench: &mut Bench<'_>, size: usize) -> Result<Charged> {
    let charged = |count: usize| {
        interrupt::check()?;
        let system = system::build(Setup { policy_peers: None, ..Bench::setup(Kind::Millrace, count) })?;
        system.footprint()?.kernel.context("Millrace tells the memory of its maps")
    };
    let (few, many) = (charged(1)?, charged(size)?);
    #[expect(clippy::cast_precision_loss, reason = "bytes of a machine")]
    let each = many.saturating_sub(few) as f64 / (size - 1) as f64;
    bench.raw.note(&json!({
        "measurement": "kernel memory", "contender": Kind::Millrace.name(), "services": size,
        "maps with one service": few, "maps": many,
    }))?;
    let what = format!("kernel memory of a service: millrace@{size}");
    line(bench, what, Unit::Bytes, &[each], Some(Target::AtMost(MOST)));
    #[expect(clippy::cast_precision_loss, reason = "bytes of a machine")]
    let all = many as f64;
    line(bench, format!("all maps: millrace@{size}"), Unit::Mebibytes, &[all / KIB / KIB], None);
    Ok(Charged { each, all })
}

/// Bytes for each service, several times.
fn of_rules(bench: &mut Bench<'_>, backend: Backend, size: usize) -> Result<Vec<f64>> {
    let kind = Kind::KubeProxy(backend);
    let setup = Setup { policy_peers: None, ..Bench::setup(kind, size) };
    let origin = if backend == Backend::Nftables { Origin::KubeProxy } else { Origin::Generated };
    let node = Node::build(backend, setup, origin)?;
    let repeats = if bench.options.quick { 1 } else { 3 };
    let mut each = Vec::new();
    for _ in 0..repeats {
        interrupt::check()?;
        let bytes = node.memory_of_rules()?;
        bench.raw.note(&json!({
            "measurement": "kernel memory", "contender": kind.name(), "services": size, "bytes": bytes,
        }))?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a machine")]
        each.push(bytes as f64 / size as f64);
    }
    line(bench, format!("kernel memory of a service: {kind}@{size}"), Unit::Bytes, &each, None);
    Ok(each)
}

fn line(bench: &mut Bench<'_>, what: String, unit: Unit, values: &[f64], target: Option<Target>) {
    let basis = format!("{} repeats", values.len());
    bench.report.line(Line { case: CASE, what, unit, measured: Spread::of(values), target, basis });
}
