//! B7 and B8: how long a change of a service takes until a new connection obeys it, and how long everything takes
//! when nothing is there yet. End to end; for kube-proxy also the restoring of the same rules alone.
use std::{
    collections::BTreeMap,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    baseline::{self, Node, Origin, real::Cluster},
    bench::Bench,
    interrupt,
    load::{
        client::monotonic,
        wire::{Order, Report as Answer},
    },
    measure::statistics::{Spread, percentile},
    report::{Line, Target, Unit},
    station::Station,
    system::{Backend, Kind, Setup, System, millrace::Millrace, services::ServiceSet},
};

/// kube-proxy waits a second after one synchronisation before it begins the next. A change that comes later is taken
/// up at once; the cool-down is not what is measured.
const REST: Duration = Duration::from_millis(1200);

/// Between attempts of the client.
const PAUSE: Duration = Duration::from_micros(200);

/// A change that is not in force by then never will be.
const PATIENCE: Duration = Duration::from_mins(5);

/// Marks the figures of restoring rules without kube-proxy.
const ALONE: &str = ", restore alone";

/// What Millrace should reach: at most this long, and this many times faster than restoring the rules alone.
const CHANGE_TARGETS: &[(usize, f64)] = &[(10, 14.0), (1_000, 140.0), (10_000, 2_000.0), (50_000, 14_000.0)];
const CHANGE_MOST: f64 = 1.0;
const COLD_TARGETS: &[(usize, f64, f64)] =
    &[(1_000, 10.0, 20.0), (10_000, 100.0, 35.0), (50_000, 500.0, 110.0)];

/// What was measured, in milliseconds, by system and number of services.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    samples: BTreeMap<(What, String, usize), Vec<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Change,
    Cold,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Change => "one service changed",
            Self::Cold => "cold start",
        }
    }
}

/// How often something is measured.
struct Budget {
    least: usize,
    most: usize,
    time: Duration,
}

impl Budget {
    fn samples(&self, mut measure: impl FnMut(usize) -> Result<f64>) -> Result<Vec<f64>> {
        let begun = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < self.least || (samples.len() < self.most && begun.elapsed() < self.time) {
            interrupt::check()?;
            samples.push(measure(samples.len())?);
        }
        Ok(samples)
    }
}

/// B7.
pub(super) fn change(bench: &mut Bench<'_>) -> Result<()> {
    let figures = measured(bench)?;
    for ((_, name, size), samples) in of(&figures, What::Change) {
        let what = format!("{}: {name}@{size}", What::Change.name());
        let is_millrace = name.starts_with(Kind::Millrace.name());
        line(bench, "B7", what.clone(), samples, None);
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        if let (true, Some(p99)) = (is_millrace, percentile(&sorted, 99.0)) {
            let target = Some(Target::AtMost(CHANGE_MOST));
            line(bench, "B7", format!("{what}, p99"), &[p99], target);
        }
    }
    compare(bench, "B7", &figures, What::Change, |size| {
        CHANGE_TARGETS.iter().find(|(of, _)| *of == size).map(|(_, ratio)| *ratio)
    });
    Ok(())
}

/// B8.
pub(super) fn cold(bench: &mut Bench<'_>) -> Result<()> {
    let figures = measured(bench)?;
    for ((_, name, size), samples) in of(&figures, What::Cold) {
        let is_millrace = name.starts_with(Kind::Millrace.name());
        let target = COLD_TARGETS.iter().find(|(of, ..)| is_millrace && of == size);
        let target = target.map(|(_, most, _)| Target::AtMost(*most));
        line(bench, "B8", format!("{}: {name}@{size}", What::Cold.name()), samples, target);
    }
    compare(bench, "B8", &figures, What::Cold, |size| {
        COLD_TARGETS.iter().find(|(of, ..)| *of == size).map(|(.., ratio)| *ratio)
    });
    Ok(())
}

fn of(figures: &Figures, what: What) -> impl Iterator<Item = (&(What, String, usize), &Vec<f64>)> {
    figures.samples.iter().filter(move |((of, ..), _)| *of == what)
}

fn line(bench: &mut Bench<'_>, case: &'static str, what: String, samples: &[f64], target: Option<Target>) {
    let basis = format!("{} samples", samples.len());
    bench.report.line(Line {
        case,
        what,
        unit: Unit::Milliseconds,
        measured: Spread::of(samples),
        target,
        basis,
    });
}

/// Like with like: the real kube-proxy beside Millrace on the same API, and restoring rules alone, which flatters
/// kube-proxy, beside Millrace on manifests. The targets are against the latter with iptables-legacy.
fn compare(
    bench: &mut Bench<'_>,
    case: &'static str,
    figures: &Figures,
    what: What,
    target: impl Fn(usize) -> Option<f64>,
) {
    for ((_, name, size), samples) in of(figures, what) {
        let restored = name.ends_with(ALONE);
        let ours = if restored { Kind::Millrace.name().to_owned() } else { fed_by_api() };
        let Some(millrace) = figures.samples.get(&(what, ours.clone(), *size)) else { continue };
        if name.starts_with(Kind::Millrace.name()) {
            continue;
        }
        let target =
            target(*size).filter(|_| *name == restoring(Backend::IptablesLegacy)).map(Target::AtLeast);
        // Measured one after the other: any pairs are as good as others.
        let pairs = samples.len().max(millrace.len());
        let ratio = |at: usize| samples[at % samples.len()] / millrace[at % millrace.len()];
        let ratios: Vec<f64> = (0..pairs).map(ratio).collect();
        bench.report.line(Line {
            case,
            what: format!("{}: {name} / {ours}, {size} services", what.name()),
            unit: Unit::Ratio,
            measured: Spread::of(&ratios),
            target,
            basis: format!("{} and {} samples", samples.len(), millrace.len()),
        });
    }
}

fn fed_by_api() -> String {
    format!("{}, fed by the API", Kind::Millrace)
}

fn restoring(backend: Backend) -> String {
    format!("{}{ALONE}", Kind::KubeProxy(backend))
}

/// The measurement behind both cases.
fn measured(bench: &mut Bench<'_>) -> Result<Rc<Figures>> {
    if let Some(figures) = &bench.control {
        return Ok(Rc::clone(figures));
    }
    // Idle systems would take part in the work.
    bench.retain(|_| false);
    let mut figures = Figures::default();
    let kinds: Vec<(Kind, Vec<usize>)> =
        bench.service_kinds().into_iter().map(|kind| (kind, bench.sizes("B7", kind))).collect();
    for size in bench.options.sizes() {
        let measured: Vec<Kind> =
            kinds.iter().filter(|(_, sizes)| sizes.contains(&size)).map(|(kind, _)| *kind).collect();
        // Fed once and kept until the last that wants it is done.
        let _cluster = match baseline::control_plane_unavailable() {
            None if !measured.is_empty() => Some(Cluster::for_routed(ServiceSet { count: size })?),
            None | Some(_) => None,
        };
        for kind in measured {
            measure(bench, &mut figures, Setup { policy_peers: None, ..Bench::setup(kind, size) })?;
        }
    }
    let figures = Rc::new(figures);
    bench.control = Some(Rc::clone(&figures));
    Ok(figures)
}

fn measure(bench: &mut Bench<'_>, figures: &mut Figures, setup: Setup) -> Result<()> {
    match setup.kind {
        Kind::Millrace => {
            let on_manifests = crate::system::build(setup)?;
            end_to_end(bench, figures, Kind::Millrace.name(), on_manifests)?;
            if let Some(why) = baseline::control_plane_unavailable() {
                bench.report.leave_out("B7", format!("Millrace fed by the API: {why}"));
                return Ok(());
            }
            let system = Millrace::fed_by_api(setup).context("Millrace fed by the API")?;
            end_to_end(bench, figures, &fed_by_api(), Box::new(system))
        }
        Kind::KubeProxy(backend) => {
            let node = Node::build(backend, setup, Origin::KubeProxy)
                .with_context(|| format!("the real kube-proxy with {} services", setup.services.count))?;
            end_to_end(bench, figures, setup.kind.name(), Box::new(node))?;
            match backend {
                Backend::IptablesLegacy | Backend::IptablesNft => {
                    restore_alone(bench, figures, backend, setup)
                }
                Backend::Nftables => Ok(()),
            }
        }
        Kind::Loopback | Kind::Plain => Ok(()),
    }
}

fn end_to_end(
    bench: &mut Bench<'_>,
    figures: &mut Figures,
    name: &str,
    system: Box<dyn System>,
) -> Result<()> {
    let setup = system.setup();
    let (services, rest) = (setup.services, (setup.kind != Kind::Millrace).then_some(REST));
    eprintln!("    {name} with {} services is up", services.count);
    let station = Station::around(system)?;
    settle_on_first(&station)?;
    let changes = budget(bench, if rest.is_some() { 20 } else { 200 });
    let samples = changes.samples(|number| {
        if let Some(rest) = rest {
            thread::sleep(rest);
        }
        follow(&station, 1 - number % 2)
    })?;
    keep(bench, figures, What::Change, name, services, samples)?;
    let starts = Budget { least: if bench.options.quick { 1 } else { 3 }, most: 3, time: Duration::ZERO };
    let samples = starts.samples(|_| Ok(milliseconds(station.system().cold_sync()?)))?;
    keep(bench, figures, What::Cold, name, services, samples)
}

/// Gives the middle service its first endpoint alone, and waits until no connection goes to another: among all of them,
/// the first also answers by chance. From then on changes go back and forth between the first two.
fn settle_on_first(station: &Station) -> Result<()> {
    const IN_A_ROW: u32 = 100;
    follow(station, 0)?;
    let order = order(station, 0);
    let mut in_a_row = 0;
    while in_a_row < IN_A_ROW {
        interrupt::check()?;
        let at_once = matches!(station.client().order(&order)?, Answer::Obeyed { attempts: 1, .. });
        in_a_row = if at_once { in_a_row + 1 } else { 0 };
    }
    Ok(())
}

/// To connect to the middle service until the server of this number answers.
fn order(station: &Station, server: u8) -> Order {
    let target = ServiceSet::frontend(station.system().setup().services.middle());
    Order::Follow { target, server, pause: PAUSE, patience: PATIENCE }
}

/// Gives the middle service one endpoint; how long it took until a new connection reached it.
fn follow(station: &Station, endpoint: usize) -> Result<f64> {
    let system = station.system();
    let service = system.setup().services.middle();
    let server = u8::try_from(endpoint).context("few endpoints")?;
    let mut client = station.client();
    client.send(&order(station, server))?;
    let begun = monotonic()?;
    system.set_endpoints(service, &[endpoint])?;
    let obeyed = client.obeyed()?;
    Ok(milliseconds(Duration::from_nanos(obeyed.saturating_sub(begun))))
}

/// The generated rules of the same change and the same start, restored.
fn restore_alone(bench: &mut Bench<'_>, figures: &mut Figures, backend: Backend, setup: Setup) -> Result<()> {
    let node = Node::build(backend, setup, Origin::Generated)?;
    let (name, services) = (restoring(backend), setup.services);
    let changes = budget(bench, 20);
    let samples = changes
        .samples(|number| Ok(milliseconds(node.restore_change(services.middle(), &[1 - number % 2])?)))?;
    keep(bench, figures, What::Change, &name, services, samples)?;
    let starts = Budget { least: if bench.options.quick { 1 } else { 3 }, most: 3, time: Duration::ZERO };
    let samples = starts.samples(|_| Ok(milliseconds(node.restore_all()?)))?;
    keep(bench, figures, What::Cold, &name, services, samples)
}

fn budget(bench: &Bench<'_>, most: usize) -> Budget {
    if bench.options.quick {
        Budget { least: 3, most: 3, time: Duration::ZERO }
    } else {
        Budget { least: 5, most, time: Duration::from_mins(1) }
    }
}

fn keep(
    bench: &mut Bench<'_>,
    figures: &mut Figures,
    what: What,
    name: &str,
    services: ServiceSet,
    samples: Vec<f64>,
) -> Result<()> {
    bench.raw.note(&json!({
        "measurement": what.name(), "contender": name, "services": services.count, "milliseconds": samples,
    }))?;
    eprintln!("    {}: {name}@{}: {:.1?} ms", what.name(), services.count, Spread::of(&samples).median);
    figures.samples.insert((what, name.to_owned(), services.count), samples);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
