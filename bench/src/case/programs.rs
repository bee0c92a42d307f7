//! B18: what the programs take per run in live traffic, and what the verifier walked through.
use std::{collections::BTreeMap, fs, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use bpf_maps::{
    MillraceDir, link, obj_get,
    program::{self, ProgramInfo},
};
use serde_json::json;

use super::packets::{To, establish, first_packets};
use crate::{
    bench::Bench,
    measure::statistics::Spread,
    packets::{PacketPath, Stream, Transport},
    report::{Curve, Plot, Point, Scale, Target, Unit},
    station::Station,
    system::{Kind, Setup, millrace::Millrace},
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

/// Where packets go, and whether a policy is on the way.
const PATHS: &[(&str, To, Option<usize>)] = &[
    ("to a pod, no policy", To::Pod, None),
    ("to a pod, policy", To::Pod, Some(0)),
    ("to a service, no policy", To::Service, None),
    ("to a service, policy", To::Service, Some(0)),
];

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.has(Kind::Millrace) {
        return Ok(());
    }
    let (quick, setup) = (bench.options.quick, Bench::setup(Kind::Millrace, bench.smallest()));
    let station = bench.station(setup)?;
    for (name, info) in programs(station.system().as_millrace().context("Millrace is Millrace")?)? {
        let insns = Spread::exactly(info.verified_insns.into());
        bench.report.samples(CASE, format!("verified instructions: {name}"), Unit::Count, insns, (1, None));
    }
    let statistics = Statistics::begin()?;
    let flows: &[u32] = if quick { &[1, 1_000] } else { &[1, 1_000, 10_000, 60_000] };
    let mut curves = Vec::new();
    for (path, to, policy_peers) in PATHS {
        let station = bench.station(Setup { policy_peers: *policy_peers, ..setup })?;
        let mut points = Vec::new();
        for flows in flows {
            let mut packets = PacketPath::open(station.system())?;
            station.system().forget_flows()?;
            let stream = establish(&mut packets, station.system(), *to, *flows)?;
            let repeat = if quick { 20_000 } else { 300_000 };
            let net = timed(bench, &station, &mut packets, &stream, repeat)?;
            let hardest = (*to, *policy_peers) == (To::Service, Some(0));
            let target = match flows {
                1_000 if hardest => Some(Target::AtMost(150.0)),
                60_000 if hardest => Some(Target::AtMost(350.0)),
                _ => None,
            };
            let what = format!("from_pod, established, {path}, {flows} flows");
            bench.report.samples(CASE, what, Unit::Nanoseconds, Spread::of(&net), (net.len(), target));
            let Spread { median, low, high, .. } = Spread::of(&net);
            points.push(Point { x: (*flows).into(), y: median, low, high });
        }
        curves.push(Curve { name: (*path).to_owned(), points });
    }
    let mut packets = PacketPath::open(station.system())?;
    let new = if quick { 3_000 } else { 30_000 };
    let stream = first_packets(station.system(), new)?;
    let net = timed(bench, &station, &mut packets, &stream, new)?;
    let what = "from_pod, first packet, to a service, policy";
    bench.report.samples(CASE, what, Unit::Nanoseconds, Spread::of(&net), (net.len(), None));
    drop((packets, statistics));
    bench.report.plot(Plot {
        name: "program-time".to_owned(),
        title: "The program at a pod, on a packet of an established flow".to_owned(),
        x: ("live flows".to_owned(), Scale::Logarithmic),
        y: ("ns per run, net of counting".to_owned(), Scale::Linear),
        curves,
    });
    Ok(())
}

/// Sends packets, round by round, and returns the time of one run of `from_pod` in each, less what counting takes.
fn timed(
    bench: &mut Bench<'_>,
    station: &Station,
    path: &mut PacketPath<'_>,
    stream: &Stream,
    packets: u32,
) -> Result<Vec<f64>> {
    let system = station.system();
    let millrace = system.as_millrace().context("Millrace is Millrace")?;
    let own = || programs(millrace)?.remove("from_pod").context("no link of from_pod is pinned");
    let mut net = Vec::new();
    for _ in 0..bench.options.rounds() {
        if stream.transport == Transport::TcpSyn {
            system.forget_flows()?;
        }
        let before = (own()?, path.counter()?);
        path.send(system.client().netns, stream, packets)?;
        let (time, floor) = (each(&before.0, &own()?), each(&before.1, &path.counter()?));
        bench.raw.note(&json!({
            "measurement": "program time", "flows": stream.flows, "transport": format!("{:?}", stream.transport),
            "from_pod": time, "floor": floor,
        }))?;
        // The counter does next to nothing: what it takes is what counting the time takes.
        net.push(time - floor);
    }
    Ok(net)
}
