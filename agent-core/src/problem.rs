//! What cannot be done as asked, in words.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use crate::{
    entry::Frontend,
    ids::{ClassId, SetId},
    model::Family,
    plan::Plan,
    render::Desired,
};

/// Something that cannot be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What has to be rendered again for the problem to go.
    pub scope: Scope,
    /// Kind and name.
    pub object: String,
    /// What is wrong, what follows from it, and the remedy.
    pub text: String,
}

/// What a problem is about: the unit in which maps are rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Frontend(Frontend),
    /// The class of an address.
    Address(IpAddr),
    Endpoint(IpAddr),
    Set(SetId),
    Cell(SetId, ClassId),
    Cidrs(Family),
    Route(IpNetwork),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.text)
    }
}

/// The problems there are now.
#[derive(Clone, Debug, Default)]
pub struct ProblemLog {
    problems: BTreeMap<Scope, BTreeSet<Problem>>,
}

impl ProblemLog {
    /// Replaces the problems of all scopes that were rendered. Returns those that are new.
    pub fn record(&mut self, desired: &Desired, plan: &Plan) -> Vec<Problem> {
        let mut before = std::mem::take(&mut self.problems);
        if !desired.prune {
            let kept = before.extract_if(.., |scope, _| !is_rendered(*scope, desired));
            self.problems = kept.collect();
        }
        let mut new = Vec::new();
        for problem in desired.problems.iter().chain(&plan.problems) {
            if !before.get(&problem.scope).is_some_and(|known| known.contains(problem)) {
                new.push(problem.clone());
            }
            self.problems.entry(problem.scope).or_default().insert(problem.clone());
        }
        new
    }

    /// Every problem.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }
}

/// Whether a scope was rendered, so that its problems were found anew.
fn is_rendered(scope: Scope, desired: &Desired) -> bool {
    match scope {
        Scope::Frontend(frontend) => desired.frontends.contains_key(&frontend),
        Scope::Address(addr) => desired.classes.contains_key(&addr),
        Scope::Endpoint(addr) => desired.endpoints.contains_key(&addr),
        Scope::Set(set) => desired.sets.contains_key(&set),
        Scope::Cell(set, class) => {
            desired.sets.contains_key(&set) || desired.cells.contains_key(&(set, class))
        }
        Scope::Cidrs(_) => desired.cidrs.is_some(),
        Scope::Route(cidr) => desired.routes.contains_key(&cidr),
    }
}
