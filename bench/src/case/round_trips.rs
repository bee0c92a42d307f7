//! B1: round trips over an established connection, policy on.
use std::{net::SocketAddrV4, rc::Rc};

use anyhow::Result;
use serde_json::json;

use crate::{
    bench::Bench,
    load::wire::{Order, Slice},
    report::{Target, Unit},
    rounds::{Contender, Reading},
    station::Station,
    system::{Backend, Kind, services::SERVER_PORT},
};

const CASE: &str = "B1";
pub(super) const RATE: &str = "round trips";
const P50: &str = "p50";
const P99: &str = "p99";

/// Of the slice, what is compared.
pub(super) fn reading(slice: &Slice) -> Reading {
    let values = [
        (RATE, slice.rate()),
        (P50, f64::from(slice.latency.p50) / 1e3),
        (P99, f64::from(slice.latency.p99) / 1e3),
    ];
    Reading { values: values.into(), detail: json!(slice) }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let services = bench.smallest();
    let lasting = bench.options.lasting();
    let stations: Vec<(Kind, Rc<Station>)> = bench
        .kinds
        .clone()
        .into_iter()
        .map(|kind| Ok((kind, bench.station(Bench::setup(kind, services))?)))
        .collect::<Result<_>>()?;
    let mut contenders = Vec::new();
    for (kind, station) in &stations {
        let order = |target| Order::RoundTrips { target, lasting };
        let to_service = order(station.system().target(0));
        contenders
            .push(Contender::new(kind.name(), move || Ok(reading(&station.slice(&to_service, false)?))));
        if *kind == Kind::Millrace {
            let per_packet = order(station.system().target(0));
            contenders.push(Contender::new(format!("{kind}, per packet"), move || {
                Ok(reading(&station.bystander_slice(&per_packet)?))
            }));
            let to_pod = order(SocketAddrV4::new(station.system().server_addr(0), SERVER_PORT));
            contenders.push(Contender::new(format!("{kind}, to the pod"), move || {
                Ok(reading(&station.slice(&to_pod, false)?))
            }));
        }
    }
    let labels: Vec<String> = contenders.iter().map(|contender| contender.label.clone()).collect();
    let rounds = bench.rounds("round trips", contenders)?;
    stations.iter().try_for_each(|(_, station)| station.part())?;
    let (plain, millrace) = (Kind::Plain.name(), Kind::Millrace.name());
    let report = &mut bench.report;
    report.ratio(CASE, &rounds, RATE, (millrace, plain), Some(Target::AtLeast(1.10)));
    for (backend, target) in
        [(Backend::IptablesLegacy, Some(1.18)), (Backend::IptablesNft, Some(1.25)), (Backend::Nftables, None)]
    {
        let to = Kind::KubeProxy(backend).name();
        report.ratio(CASE, &rounds, RATE, (millrace, to), target.map(Target::AtLeast));
    }
    for label in labels.iter().filter(|label| !["plain", "millrace"].contains(&label.as_str())) {
        report.ratio(CASE, &rounds, RATE, (label, plain), None);
    }
    for label in &labels {
        report.value(CASE, &rounds, (P50, Unit::Microseconds), label, None);
        report.value(CASE, &rounds, (P99, Unit::Microseconds), label, None);
    }
    Ok(())
}
