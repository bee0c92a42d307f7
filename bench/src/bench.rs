//! A run: the systems that are up, and where their figures go.
use std::{collections::BTreeMap, rc::Rc, time::Instant};

use anyhow::Result;

use crate::{
    baseline::{self, Peers},
    case::control,
    interrupt,
    options::Options,
    report::{Report, raw::RawData},
    rounds::{Contender, Rounds},
    station::Station,
    system::{Hygiene, Kind, Setup, services::ServiceSet},
};

/// Everything that cases share.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) raw: RawData,
    pub(crate) report: Report,
    stations: BTreeMap<Setup, Rc<Station>>,
    measured: BTreeMap<String, Rounds>,
    /// What the cases of the control plane found; measured once.
    pub(crate) control: Option<Rc<control::Figures>>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(options: &'a Options, kinds: Vec<Kind>, raw: RawData, report: Report) -> Self {
        Self {
            options,
            kinds,
            raw,
            report,
            stations: BTreeMap::new(),
            measured: BTreeMap::new(),
            control: None,
        }
    }

    /// A system with that many services, with a policy that allows the client, and without what disturbs others.
    pub(crate) fn setup(kind: Kind, services: usize) -> Setup {
        // Plain routing is the same at every size.
        let count = if kind.has_services() { services } else { 0 };
        Setup {
            kind,
            services: ServiceSet { count },
            hygiene: Hygiene::Clean,
            policy_peers: (kind == Kind::Millrace).then_some(0),
            peers: Peers::Ipset,
        }
    }

    /// The station of a setup; built when it is wanted first, and resident from then on.
    pub(crate) fn station(&mut self, setup: Setup) -> Result<Rc<Station>> {
        if let Some(station) = self.stations.get(&setup) {
            return Ok(Rc::clone(station));
        }
        interrupt::check()?;
        let begun = Instant::now();
        let station = Rc::new(Station::build(setup)?);
        eprintln!(
            "    {} with {} services is up, after {:.1?}",
            setup.kind,
            setup.services.count,
            begun.elapsed()
        );
        self.stations.insert(setup, Rc::clone(&station));
        Ok(station)
    }

    /// Takes down the stations that are not wanted any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Setup) -> bool) {
        self.stations.retain(|setup, _| wanted(setup));
    }

    /// Sizes that a system is measured at; says which are left out.
    pub(crate) fn sizes(&mut self, case: &'static str, kind: Kind) -> Vec<usize> {
        let sizes = self.options.sizes();
        let Kind::KubeProxy(backend) = kind else { return sizes };
        let slow = |size: usize| baseline::too_slow(backend, size).filter(|_| !self.options.patient);
        let (left_out, taken): (Vec<_>, Vec<_>) =
            sizes.into_iter().map(|size| (size, slow(size))).partition(|(_, slow)| slow.is_some());
        for (size, why) in left_out {
            self.report.leave_out(case, format!("{kind} with {size} services: {}", why.unwrap_or_default()));
        }
        taken.into_iter().map(|(size, _)| size).collect()
    }

    pub(crate) fn smallest(&self) -> usize {
        self.options.sizes().first().copied().unwrap_or(1)
    }

    /// Kinds that know services.
    pub(crate) fn service_kinds(&self) -> Vec<Kind> {
        self.kinds.iter().copied().filter(|kind| kind.has_services()).collect()
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Interleaved rounds by the options of the run.
    pub(crate) fn rounds(&mut self, name: &str, contenders: Vec<Contender<'_>>) -> Result<Rounds> {
        Rounds::run(name, self.options.rounds(), self.options.lasting(), contenders, &mut self.raw)
    }

    /// A measurement that several cases look at; made once.
    pub(crate) fn shared(
        &mut self,
        name: &str,
        measure: impl FnOnce(&mut Self) -> Result<Rounds>,
    ) -> Result<Rounds> {
        if let Some(rounds) = self.measured.get(name) {
            return Ok(rounds.clone());
        }
        let rounds = measure(self)?;
        self.measured.insert(name.to_owned(), rounds.clone());
        Ok(rounds)
    }
}

/// How a contender is called.
pub(crate) fn label(kind: Kind, services: usize) -> String {
    if kind.has_services() { format!("{kind}@{services}") } else { kind.to_string() }
}
