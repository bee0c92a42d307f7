//! B3, B4 and B15: the first packet of a flow, and the packets after it, one way through the node.
use std::{cell::RefCell, net::SocketAddrV4, rc::Rc};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    bench::{Bench, label},
    packets::{PacketPath, Sent, Stream, Transport, Varies, macs},
    report::{Curve, Plot, Point, Scale, Target, Unit},
    rounds::{Contender, Reading, Rounds},
    station::Station,
    system::{
        Backend, Kind, System,
        services::{SERVER_PORT, SINGLE_PORT, SINGLE_SERVER_PORT, SINGLE_VIP, ServiceSet},
    },
};

pub(super) const EACH: &str = "ns per packet";
/// The flows' first port.
const FIRST_PORT: u16 = 1024;
/// Flows whose first packets are sent in one pass: below the number of ports, and of what half-open flows may fill.
const NEW_FLOWS: u32 = 30_000;

/// What Millrace should reach against each back end, as the baseline's time by ours.
const FIRST_TARGETS: &[(Backend, usize, f64)] = &[
    (Backend::IptablesLegacy, 10, 3.0),
    (Backend::IptablesLegacy, 1_000, 3.8),
    (Backend::IptablesLegacy, 10_000, 16.0),
    (Backend::IptablesLegacy, 50_000, 80.0),
    (Backend::IptablesNft, 10, 4.0),
    (Backend::IptablesNft, 1_000, 9.0),
    (Backend::IptablesNft, 10_000, 60.0),
];

fn reading(sent: Sent) -> Reading {
    let each = sent.each.as_secs_f64() * 1e9;
    Reading { values: [(EACH, each)].into(), detail: json!({ "packets": sent.packets }) }
}

/// First packets of connections to the service in the middle of the list; without services, to a server.
pub(super) fn first_packets(system: &dyn System, flows: u32) -> Result<Stream> {
    let (source_mac, destination_mac) = macs(system, system.client().netns, 0)?;
    let setup = system.setup();
    let destination = if setup.kind.has_services() {
        ServiceSet::frontend(setup.services.middle())
    } else {
        SocketAddrV4::new(system.server_addr(0), SERVER_PORT)
    };
    Ok(Stream {
        transport: Transport::TcpSyn,
        source_mac,
        destination_mac,
        source: SocketAddrV4::new(system.client_addr(), FIRST_PORT),
        destination,
        varies: Varies::Source,
        flows,
    })
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The service of one endpoint; without services, that endpoint.
    Service,
    Pod,
}

/// Datagrams, and their answers; from the first port of a client on.
fn datagrams(system: &dyn System, to: To, first_port: u16, flows: u32) -> Result<[Stream; 2]> {
    let (client_mac, client_gateway) = macs(system, system.client().netns, 0)?;
    let (server_mac, server_gateway) = macs(system, system.server(0).netns, 1)?;
    let server = SocketAddrV4::new(system.server_addr(0), SINGLE_SERVER_PORT);
    let destination = match to {
        To::Service if system.setup().kind.has_services() => SocketAddrV4::new(SINGLE_VIP, SINGLE_PORT),
        To::Service | To::Pod => server,
    };
    let there = Stream {
        transport: Transport::Udp,
        source_mac: client_mac,
        destination_mac: client_gateway,
        source: SocketAddrV4::new(system.client_addr(), first_port),
        destination,
        varies: Varies::Source,
        flows,
    };
    let back = Stream {
        source_mac: server_mac,
        destination_mac: server_gateway,
        source: server,
        destination: there.source,
        varies: Varies::Destination,
        ..there
    };
    Ok([there, back])
}

/// Flows that are opened before the first of them is answered: a client does not wait with one for all others, and
/// half-open flows that are too many push each other out.
const OPENED_AT_ONCE: u32 = 10_000;

/// Makes flows that both ends have used.
pub(super) fn establish(
    path: &mut PacketPath<'_>,
    system: &dyn System,
    to: To,
    flows: u32,
) -> Result<Stream> {
    let mut opened = 0;
    while opened < flows {
        let some = OPENED_AT_ONCE.min(flows - opened);
        let first_port = u16::try_from(opened).ok().and_then(|opened| FIRST_PORT.checked_add(opened));
        let first_port = first_port.context("more flows than a client has ports")?;
        let [there, back] = datagrams(system, to, first_port, some)?;
        path.send(system.client().netns, &there, some).context("first packets")?;
        path.send(system.server(0).netns, &back, some).context("answers")?;
        path.send(system.client().netns, &there, some).context("second packets")?;
        opened += some;
    }
    let [there, _] = datagrams(system, to, FIRST_PORT, flows)?;
    Ok(there)
}

fn stations(
    bench: &mut Bench<'_>,
    case: &'static str,
    all_sizes: bool,
) -> Result<Vec<(String, Rc<Station>)>> {
    let mut stations = Vec::new();
    for kind in bench.kinds.clone() {
        let sizes = match kind {
            Kind::Loopback => continue,
            Kind::Plain => vec![0],
            Kind::Millrace | Kind::KubeProxy(_) if all_sizes => bench.sizes(case, kind),
            Kind::Millrace | Kind::KubeProxy(_) => vec![bench.smallest()],
        };
        for size in sizes {
            stations.push((label(kind, size), bench.station(Bench::setup(kind, size))?));
        }
    }
    Ok(stations)
}

/// A contender whose flows are new in every turn.
pub(super) fn first_packets_of<'a>(label: &str, station: &'a Station, quick: bool) -> Result<Contender<'a>> {
    let system = station.system();
    let flows = if quick { 3_000 } else { NEW_FLOWS };
    let stream = first_packets(system, flows)?;
    let mut path = PacketPath::open(system)?;
    Ok(Contender::new(label, move || {
        system.forget_flows()?;
        Ok(reading(path.send(system.client().netns, &stream, flows)?))
    }))
}

/// The measurement behind B3 and B15.
fn first(bench: &mut Bench<'_>) -> Result<Rounds> {
    bench.shared("first packets", |bench| {
        let stations = stations(bench, "B3", true)?;
        let mut contenders = Vec::new();
        for (label, station) in &stations {
            contenders.push(first_packets_of(label, station, bench.options.quick)?);
        }
        bench.rounds("first packets", contenders)
    })
}

/// B3.
pub(super) fn first_packet(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B3";
    let rounds = first(bench)?;
    let (sizes, kinds) = (bench.options.sizes(), bench.service_kinds());
    let report = &mut bench.report;
    let plain = Kind::Plain.name();
    report.value(CASE, &rounds, (EACH, Unit::Nanoseconds), plain, None);
    for size in &sizes {
        let millrace = label(Kind::Millrace, *size);
        report.value(CASE, &rounds, (EACH, Unit::Nanoseconds), &millrace, Some(Target::AtMost(2000.0)));
        report.ratio(CASE, &rounds, EACH, (&millrace, plain), Some(Target::AtMost(1.9)));
        for kind in &kinds {
            let Kind::KubeProxy(backend) = *kind else { continue };
            let other = label(*kind, *size);
            let target = FIRST_TARGETS.iter().find(|(of, at, _)| (*of, *at) == (backend, *size));
            report.value(CASE, &rounds, (EACH, Unit::Nanoseconds), &other, None);
            report.ratio(
                CASE,
                &rounds,
                EACH,
                (&other, &millrace),
                target.map(|(_, _, ratio)| Target::AtLeast(*ratio)),
            );
        }
    }
    let point = |size: usize, kind: Kind| {
        let spread = rounds.value(EACH, &label(kind, size))?;
        let x = f64::from(u32::try_from(size).ok()?);
        Some(Point { x, y: spread.median / 1e3, low: spread.low / 1e3, high: spread.high / 1e3 })
    };
    let curves = bench.kinds.iter().filter(|kind| **kind != Kind::Loopback).map(|kind| Curve {
        name: kind.to_string(),
        points: sizes.iter().filter_map(|size| point(*size, *kind)).collect(),
    });
    let curves = curves.collect();
    report.plot(Plot {
        name: "first-packet".to_owned(),
        title: "First packet of a connection, one way, by number of services".to_owned(),
        x: ("services".to_owned(), Scale::Logarithmic),
        y: ("µs, generator included".to_owned(), Scale::Logarithmic),
        curves,
    });
    Ok(())
}

/// B15.
pub(super) fn flatness(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B15";
    let rounds = first(bench)?;
    let (sizes, quick) = (bench.options.sizes(), bench.options.quick);
    let (Some(least), Some(most)) = (sizes.first(), sizes.last()) else { return Ok(()) };
    for kind in bench.service_kinds() {
        let target = (kind == Kind::Millrace).then_some(Target::AtMost(1.25));
        let (large, small) = (label(kind, *most), label(kind, *least));
        bench.report.ratio(CASE, &rounds, EACH, (&large, &small), target);
        if kind == Kind::Millrace {
            let ratio = rounds.ratio(EACH, &large, &small);
            // Generous: what grows with services grows by their number.
            bench.report.expect(!quick || ratio.is_some_and(|ratio| ratio.median < 3.0), || {
                format!(
                    "{CASE}: the first packet costs three times as much with {most} services as with {least}"
                )
            });
        }
    }
    Ok(())
}

/// B4.
pub(super) fn established(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "B4";
    let quick = bench.options.quick;
    let flows: &[u32] = if quick { &[1, 1_000] } else { &[1, 10, 100, 1_000, 10_000, 60_000] };
    let packets = if quick { 20_000 } else { 500_000 };
    let stations = stations(bench, CASE, false)?;
    let mut curves: Vec<(Kind, Curve)> = Vec::new();
    for flows in flows {
        let mut contenders = Vec::new();
        for (_, station) in &stations {
            let system = station.system();
            let kind = system.setup().kind;
            let path = RefCell::new(PacketPath::open(system)?);
            system.forget_flows()?;
            let stream = establish(&mut path.borrow_mut(), system, To::Service, *flows)
                .with_context(|| format!("{kind}, {flows} flows"))?;
            contenders.push(Contender::new(kind.name(), move || {
                Ok(reading(path.borrow_mut().send(system.client().netns, &stream, packets)?))
            }));
        }
        let rounds = bench.rounds(&format!("established packets of {flows} flows"), contenders)?;
        report_established(bench, CASE, *flows, &rounds, &mut curves);
    }
    bench.report.plot(Plot {
        name: "established-packet".to_owned(),
        title: "A packet of an established flow to a service, one way".to_owned(),
        x: ("live flows".to_owned(), Scale::Logarithmic),
        y: ("ns, generator included".to_owned(), Scale::Linear),
        curves: curves.into_iter().map(|(_, curve)| curve).collect(),
    });
    Ok(())
}

fn report_established(
    bench: &mut Bench<'_>,
    case: &'static str,
    flows: u32,
    rounds: &Rounds,
    curves: &mut Vec<(Kind, Curve)>,
) {
    let (plain, millrace) = (Kind::Plain.name(), Kind::Millrace.name());
    let targets = match flows {
        1 => Some((0.78, 2.4)),
        60_000 => Some((0.9, 2.6)),
        _ => None,
    };
    let kinds: Vec<Kind> = bench.kinds.iter().copied().filter(|kind| *kind != Kind::Loopback).collect();
    let mut line = |of: &str, to: &str, target: Option<Target>| {
        let Some(measured) = rounds.ratio(EACH, of, to) else { return };
        let what = format!("{EACH}, {flows} flows: {of} / {to}");
        bench.report.line(crate::report::Line {
            case,
            what,
            unit: Unit::Ratio,
            measured,
            target,
            basis: format!("{} rounds", rounds.count().1),
        });
    };
    line(millrace, plain, targets.map(|(of_plain, _)| Target::AtMost(of_plain)));
    for kind in &kinds {
        let Kind::KubeProxy(backend) = *kind else { continue };
        let against = targets.filter(|_| backend == Backend::IptablesLegacy);
        line(kind.name(), millrace, against.map(|(_, by)| Target::AtLeast(by)));
    }
    for kind in kinds {
        let Some(spread) = rounds.value(EACH, kind.name()) else { continue };
        let point = Point { x: flows.into(), y: spread.median, low: spread.low, high: spread.high };
        match curves.iter_mut().find(|(of, _)| *of == kind) {
            Some((_, curve)) => curve.points.push(point),
            None => curves.push((kind, Curve { name: kind.to_string(), points: vec![point] })),
        }
    }
}
