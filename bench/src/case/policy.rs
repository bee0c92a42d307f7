//! B9: what a NetworkPolicy costs, by the number of peers that it allows.
use std::rc::Rc;

use anyhow::Result;

use super::{packets, round_trips};
use crate::{
    baseline::Peers,
    bench::Bench,
    load::wire::Order,
    report::{Curve, Plot, Point, Scale, Target, Unit},
    rounds::{Contender, Rounds},
    station::Station,
    system::{Backend, Kind, Setup},
};

const CASE: &str = "B9";

/// Peers beside the client; the client comes last.
fn peers(quick: bool) -> &'static [usize] {
    if quick { &[0, 1_000] } else { &[0, 10, 100, 1_000, 10_000] }
}

/// Who is measured at every number of peers. Policies of kube-proxy's node are those of another program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Enforcer {
    kind: Kind,
    peers: Peers,
}

impl Enforcer {
    fn name(self) -> String {
        match (self.kind, self.peers) {
            (Kind::KubeProxy(_), Peers::Ipset) => format!("{} with ipset", self.kind),
            (Kind::KubeProxy(_), Peers::Linear) => format!("{}, a rule each", self.kind),
            (Kind::Millrace | Kind::Plain | Kind::Loopback, _) => self.kind.to_string(),
        }
    }
}

fn label(enforcer: Enforcer, peers: usize) -> String {
    format!("{}, {peers} peers", enforcer.name())
}

fn enforcers(bench: &Bench<'_>) -> Vec<Enforcer> {
    let legacy = Kind::KubeProxy(Backend::IptablesLegacy);
    [(Kind::Millrace, Peers::Ipset), (legacy, Peers::Ipset), (legacy, Peers::Linear)]
        .into_iter()
        .filter(|(kind, _)| bench.has(*kind))
        .map(|(kind, peers)| Enforcer { kind, peers })
        .collect()
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let (quick, services, lasting) = (bench.options.quick, bench.smallest(), bench.options.lasting());
    let plain = bench.station(Bench::setup(Kind::Plain, 0))?;
    let mut stations: Vec<(String, Rc<Station>)> = vec![(Kind::Plain.to_string(), plain)];
    for enforcer in enforcers(bench) {
        for count in peers(quick) {
            let Enforcer { kind, peers } = enforcer;
            let setup = Setup { policy_peers: Some(*count), peers, ..Bench::setup(kind, services) };
            stations.push((label(enforcer, *count), bench.station(setup)?));
        }
    }
    let contenders = stations.iter().map(|(label, station)| {
        let order = Order::RoundTrips { target: station.system().target(0), lasting };
        Contender::new(label, move || Ok(round_trips::reading(&station.slice(&order, false)?)))
    });
    let contenders = contenders.collect();
    let trips = bench.rounds("round trips under policies", contenders)?;
    let mut contenders = Vec::new();
    for (label, station) in &stations {
        contenders.push(packets::first_packets_of(label, station, quick)?);
    }
    let first = bench.rounds("first packets under policies", contenders)?;
    report(bench, &trips, &first);
    drop(stations);
    let resident = Bench::setup(Kind::Millrace, services).policy_peers;
    bench.retain(|setup| setup.policy_peers.is_none() || setup.policy_peers == resident);
    Ok(())
}

fn report(bench: &mut Bench<'_>, trips: &Rounds, first: &Rounds) {
    let (quick, enforcers) = (bench.options.quick, enforcers(bench));
    let (rate, each) = (round_trips::RATE, packets::EACH);
    let all = peers(quick);
    let (Some(none), Some(most)) = (all.first(), all.last()) else { return };
    let report = &mut bench.report;
    for enforcer in &enforcers {
        let judged = |target| (enforcer.kind == Kind::Millrace).then_some(target);
        let (few, many) = (label(*enforcer, *none), label(*enforcer, *most));
        report.ratio(CASE, trips, rate, (&many, &few), judged(Target::AtLeast(0.97)));
        report.ratio(CASE, trips, rate, (&many, Kind::Plain.name()), judged(Target::AtLeast(1.07)));
        report.ratio(CASE, first, each, (&many, &few), None);
        for peers in all {
            report.value(CASE, first, (each, Unit::Nanoseconds), &label(*enforcer, *peers), None);
        }
        report.difference(
            CASE,
            first,
            (each, Unit::Nanoseconds),
            (&many, &few),
            judged(Target::AtMost(200.0)),
        );
    }
    let curves = enforcers.iter().map(|enforcer| Curve {
        name: enforcer.name(),
        points: all
            .iter()
            .filter_map(|peers| {
                let spread = first.value(each, &label(*enforcer, *peers))?;
                // A logarithmic axis has no zero.
                let x = f64::from(u32::try_from((*peers).max(1)).ok()?);
                Some(Point { x, y: spread.median, low: spread.low, high: spread.high })
            })
            .collect(),
    });
    let curves = curves.collect();
    bench.report.plot(Plot {
        name: "policy-peers".to_owned(),
        title: "First packet of a connection that a policy allows".to_owned(),
        x: ("peers of the policy".to_owned(), Scale::Logarithmic),
        y: ("ns, generator included".to_owned(), Scale::Linear),
        curves,
    });
}
