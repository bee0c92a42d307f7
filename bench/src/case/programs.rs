//! B18: what the programs take per run in live traffic, and what the verifier walked through.
use std::{collections::BTreeMap, fs, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use bpf_maps::{
    MillraceDir, link, obj_get,
    program::{self, ProgramInfo},
};
use serde_json::json;

use super::packets::establish;
use crate::{
    bench::Bench,
    measure::statistics::Spread,
    packets::PacketPath,
    report::{Curve, Plot, Point, Scale, Target, Unit},
    system::{Kind, millrace::Millrace},
};

const CASE: &str = "B18";
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel counts runs and their time as long as this lives. Two looks at a clock are part of each run's time.
struct Statistics {
    before: String,
}

impl Statistics {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!("restore {SWITCH}: {error}");
        }
    }
}

/// What the kernel knows of the programs on the pinned links, by their whole names.
fn programs(millrace: &Millrace) -> Result<BTreeMap<String, ProgramInfo>> {
    let dir = MillraceDir::new(millrace.pins());
    let mut programs = BTreeMap::new();
    for name in dir.link_names()? {
        let link = obj_get(&dir.link_path(&name))?;
        let info = link::info(link.as_fd(), &name)?;
        let program = program::open(info.prog_id)?;
        let (_, program_name) = name.split_once(':').unwrap_or(("", &name));
        programs.insert(program_name.to_owned(), program::info(program.as_fd())?);
    }
    Ok(programs)
}

#[expect(clippy::cast_precision_loss, reason = "runs of seconds")]
fn each(before: &ProgramInfo, after: &ProgramInfo) -> f64 {
    let time = after.run_time_ns.saturating_sub(before.run_time_ns) as f64;
    time / after.run_count.saturating_sub(before.run_count).max(1) as f64
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.has(Kind::Millrace) {
        return Ok(());
    }
    let (quick, services, rounds) = (bench.options.quick, bench.smallest(), bench.options.rounds());
    let station = bench.station(Bench::setup(Kind::Millrace, services))?;
    let system = station.system();
    let millrace = system.as_millrace().context("Millrace is Millrace")?;
    for (name, info) in programs(millrace)? {
        let insns = Spread::exactly(info.verified_insns.into());
        bench.report.samples(CASE, format!("verified instructions: {name}"), Unit::Count, insns, (1, None));
    }
    let statistics = Statistics::begin()?;
    let flows: &[u32] = if quick { &[1, 1_000] } else { &[1, 1_000, 10_000, 60_000] };
    let packets = if quick { 20_000 } else { 300_000 };
    let mut points = Vec::new();
    for flows in flows {
        let mut path = PacketPath::open(system)?;
        system.forget_flows()?;
        let stream = establish(&mut path, system, *flows)?;
        let (mut net, mut gross) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = (programs(millrace)?, path.counter()?);
            path.send(system.client().netns, &stream, packets)?;
            let after = (programs(millrace)?, path.counter()?);
            let from_pod = |all: &BTreeMap<String, ProgramInfo>| {
                all.get("from_pod").cloned().context("no link of from_pod is pinned")
            };
            let own = each(&from_pod(&before.0)?, &from_pod(&after.0)?);
            // The counter does next to nothing: what it takes is what counting the time takes.
            let floor = each(&before.1, &after.1);
            bench.raw.note(
                &json!({ "measurement": "program time", "flows": flows, "from_pod": own, "floor": floor }),
            )?;
            gross.push(own);
            net.push(own - floor);
        }
        let target = match flows {
            1_000 => Some(Target::AtMost(150.0)),
            60_000 => Some(Target::AtMost(350.0)),
            _ => None,
        };
        let what = |what: &str| format!("from_pod, established flow to a service, {flows} flows, {what}");
        let (net, gross) = (Spread::of(&net), Spread::of(&gross));
        let count = rounds as usize;
        bench.report.samples(CASE, what("net"), Unit::Nanoseconds, net, (count, target));
        bench.report.samples(CASE, what("as counted"), Unit::Nanoseconds, gross, (count, None));
        points.push(Point { x: (*flows).into(), y: net.median, low: net.low, high: net.high });
    }
    drop(statistics);
    bench.report.plot(Plot {
        name: "program-time".to_owned(),
        title: "from_pod on a packet of an established flow to a service".to_owned(),
        x: ("live flows".to_owned(), Scale::Logarithmic),
        y: ("ns per run, net".to_owned(), Scale::Linear),
        curves: vec![Curve { name: "from_pod".to_owned(), points }],
    });
    Ok(())
}
