//! B2 and B6: connections of one request each, over numbers of services; and connecting alone.
use std::{net::SocketAddrV4, rc::Rc};

use anyhow::Result;
use serde_json::json;

use crate::{
    bench::{Bench, label},
    load::wire::{Order, Slice, Targets},
    report::{Curve, Plot, Point, Scale, Target, Unit},
    rounds::{Contender, Reading, Rounds},
    station::Station,
    system::{
        Backend, Hygiene, Kind, Setup,
        services::{SERVER_PORT, ServiceSet},
    },
};

const RATE: &str = "connections";
const CONNECT: &str = "connect p50";
const CONNECT_P90: &str = "connect p90";
const P99: &str = "p99";

/// What Millrace should reach against each back end, by number of services.
const RATE_TARGETS: &[(Backend, usize, f64)] = &[
    (Backend::IptablesLegacy, 10, 1.3),
    (Backend::IptablesLegacy, 1_000, 1.35),
    (Backend::IptablesLegacy, 10_000, 1.8),
    (Backend::IptablesLegacy, 50_000, 3.0),
    (Backend::IptablesNft, 10, 1.3),
    (Backend::IptablesNft, 1_000, 1.5),
    (Backend::IptablesNft, 10_000, 2.6),
    (Backend::IptablesNft, 50_000, 7.0),
];

/// How much faster connecting should be: the baseline's time as a multiple of Millrace's.
const CONNECT_TARGETS: &[(Backend, usize, f64)] =
    &[(Backend::IptablesLegacy, 10, 1.5), (Backend::IptablesLegacy, 10_000, 3.0)];

fn target(targets: &[(Backend, usize, f64)], backend: Backend, services: usize) -> Option<f64> {
    targets.iter().find(|(of, size, _)| (*of, *size) == (backend, services)).map(|(_, _, target)| *target)
}

fn reading(slice: &Slice) -> Reading {
    let mut values = vec![(RATE, slice.rate()), (P99, f64::from(slice.latency.p99) / 1e3)];
    if let Some(connect) = &slice.connect {
        values.push((CONNECT, f64::from(connect.p50) / 1e3));
        values.push((CONNECT_P90, f64::from(connect.p90) / 1e3));
    }
    Reading { values: values.into_iter().collect(), detail: json!(slice) }
}

/// All of a system's services, uniformly; without services, its servers.
fn targets(station: &Station) -> Targets {
    let setup = station.system().setup();
    let count = u32::try_from(setup.services.count).unwrap_or(u32::MAX);
    if setup.kind.has_services() {
        Targets::Range { first: ServiceSet::frontend(0), count }
    } else {
        Targets::One(station.system().target(0))
    }
}

fn per_packet(kind: Kind, services: usize) -> String {
    format!("{}, per packet", label(kind, services))
}

fn to_pod(kind: Kind) -> String {
    format!("{kind}, to the pod")
}

/// The measurement behind both cases.
fn measured(bench: &mut Bench<'_>) -> Result<Rounds> {
    bench.shared("connections", |bench| {
        let lasting = bench.options.lasting();
        let mut stations: Vec<(String, Rc<Station>)> = Vec::new();
        for kind in bench.kinds.clone() {
            let sizes = if kind.has_services() { bench.sizes("B2", kind) } else { vec![0] };
            for size in sizes {
                stations.push((label(kind, size), bench.station(Bench::setup(kind, size))?));
            }
        }
        let smallest = bench.smallest();
        let mut contenders = Vec::new();
        for (label, station) in &stations {
            let order = Order::Connections { targets: targets(station), lasting };
            contenders.push(Contender::new(label, move || Ok(reading(&station.slice(&order, false)?))));
            let Setup { kind: Kind::Millrace, services, .. } = station.system().setup() else { continue };
            let order = Order::Connections { targets: targets(station), lasting };
            contenders.push(Contender::new(per_packet(Kind::Millrace, services.count), move || {
                Ok(reading(&station.bystander_slice(&order)?))
            }));
            if services.count == smallest {
                let pod = SocketAddrV4::new(station.system().server_addr(0), SERVER_PORT);
                let order = Order::Connections { targets: Targets::One(pod), lasting };
                contenders.push(Contender::new(to_pod(Kind::Millrace), move || {
                    Ok(reading(&station.slice(&order, false)?))
                }));
            }
        }
        bench.rounds("connections", contenders)
    })
}

/// B2.
pub(super) fn rate(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B2";
    let rounds = measured(bench)?;
    let (sizes, kinds, quick) = (bench.options.sizes(), bench.service_kinds(), bench.options.quick);
    let report = &mut bench.report;
    let plain = Kind::Plain.name();
    report.ratio(CASE, &rounds, RATE, (Kind::Loopback.name(), plain), None);
    report.ratio(CASE, &rounds, RATE, (&to_pod(Kind::Millrace), plain), None);
    for size in &sizes {
        let millrace = label(Kind::Millrace, *size);
        report.ratio(CASE, &rounds, RATE, (&millrace, plain), Some(Target::AtLeast(1.0)));
        report.ratio(CASE, &rounds, RATE, (&per_packet(Kind::Millrace, *size), plain), None);
        for kind in &kinds {
            let Kind::KubeProxy(backend) = *kind else { continue };
            let other = label(*kind, *size);
            let target = target(RATE_TARGETS, backend, *size).map(Target::AtLeast);
            report.ratio(CASE, &rounds, RATE, (&millrace, &other), target);
            report.ratio(CASE, &rounds, RATE, (&other, plain), None);
        }
    }
    if let (Some(first), Some(last), true) = (sizes.first(), sizes.last(), bench.has(Kind::Millrace)) {
        let (small, large) = (label(Kind::Millrace, *first), label(Kind::Millrace, *last));
        let flatness = rounds.ratio(RATE, &large, &small);
        let report = &mut bench.report;
        report.ratio(CASE, &rounds, RATE, (&large, &small), None);
        // Generous: a machine under load moves a short slice by a third.
        report.expect(!quick || flatness.is_some_and(|ratio| ratio.median > 0.5), || {
            format!("{CASE}: {large} makes half of the connections of {small}")
        });
    }
    plot(
        bench,
        &rounds,
        "connections",
        "Connections per second, as a share of plain routing",
        |rounds, label| rounds.ratio(RATE, label, plain),
    );
    defaults(bench)
}

/// B6.
pub(super) fn connect(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B6";
    let rounds = measured(bench)?;
    let (sizes, kinds) = (bench.options.sizes(), bench.service_kinds());
    let report = &mut bench.report;
    let pod = to_pod(Kind::Millrace);
    for size in &sizes {
        let millrace = label(Kind::Millrace, *size);
        report.ratio(CASE, &rounds, CONNECT, (&millrace, &pod), Some(Target::AtMost(1.03)));
        report.ratio(CASE, &rounds, CONNECT, (&per_packet(Kind::Millrace, *size), &pod), None);
        report.ratio(CASE, &rounds, CONNECT, (&millrace, Kind::Plain.name()), None);
        for kind in &kinds {
            let Kind::KubeProxy(backend) = *kind else { continue };
            let target = target(CONNECT_TARGETS, backend, *size).map(Target::AtLeast);
            report.ratio(CASE, &rounds, CONNECT, (&label(*kind, *size), &millrace), target);
        }
    }
    let mut all: Vec<String> = vec![Kind::Loopback.name().into(), Kind::Plain.name().into(), pod];
    all.extend(kinds.iter().flat_map(|kind| sizes.iter().map(|size| label(*kind, *size))));
    for label in &all {
        report.value(CASE, &rounds, (CONNECT, Unit::Microseconds), label, None);
        report.value(CASE, &rounds, (CONNECT_P90, Unit::Microseconds), label, None);
    }
    plot(bench, &rounds, "connect", "Time to connect (p50), µs", |rounds, label| {
        rounds.value(CONNECT, label)
    });
    Ok(())
}

/// Curves of all systems over the number of services.
fn plot(
    bench: &mut Bench<'_>,
    rounds: &Rounds,
    name: &str,
    title: &str,
    value: impl Fn(&Rounds, &str) -> Option<crate::measure::statistics::Spread>,
) {
    let sizes = bench.options.sizes();
    let curves = bench.kinds.iter().map(|kind| {
        let points = sizes.iter().filter_map(|size| {
            let spread = value(rounds, &label(*kind, *size))?;
            let x = f64::from(u32::try_from(*size).ok()?);
            Some(Point { x, y: spread.median, low: spread.low, high: spread.high })
        });
        Curve { name: kind.to_string(), points: points.collect() }
    });
    let curves = curves.collect();
    bench.report.plot(Plot {
        name: name.to_owned(),
        title: title.to_owned(),
        x: ("services".to_owned(), Scale::Logarithmic),
        y: (title.to_owned(), Scale::Linear),
        curves,
    });
}

/// The same at the kernel's defaults: without hygiene, conntrack keeps what is closed and runs out of room.
fn defaults(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B2";
    let lasting = bench.options.lasting();
    let services = bench.smallest();
    let mut stations = Vec::new();
    for kind in bench.kinds.clone() {
        let setup = Setup { hygiene: Hygiene::KernelDefaults, ..Bench::setup(kind, services) };
        stations.push((kind, bench.station(setup)?));
    }
    let contenders = stations.iter().map(|(kind, station)| {
        let order = Order::Connections { targets: targets(station), lasting };
        // Failures are what may be found here.
        Contender::new(kind.name(), move || Ok(reading(&station.slice(&order, true)?)))
    });
    let contenders = contenders.collect();
    let rounds = bench.rounds("connections at kernel defaults", contenders)?;
    for (kind, _) in stations.iter().filter(|(kind, _)| *kind != Kind::Plain) {
        let of = kind.name();
        let Some(measured) = rounds.ratio(RATE, of, Kind::Plain.name()) else { continue };
        let (all, _) = rounds.count();
        bench.report.line(crate::report::Line {
            case: CASE,
            what: format!("{RATE} at kernel defaults: {of} / plain"),
            unit: Unit::Ratio,
            measured,
            target: None,
            basis: format!("{all} rounds"),
        });
    }
    drop(stations);
    bench.retain(|setup| setup.hygiene == Hygiene::Clean);
    Ok(())
}
