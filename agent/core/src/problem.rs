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
            let rendered = rendered_scopes(desired);
            let kept = before.extract_if(.., |scope, _| !rendered.contains(scope));
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

fn rendered_scopes(desired: &Desired) -> BTreeSet<Scope> {
    let mut scopes: BTreeSet<Scope> = desired.frontends.keys().copied().map(Scope::Frontend).collect();
    scopes.extend(desired.classes.keys().copied().map(Scope::Address));
    scopes.extend(desired.endpoints.keys().copied().map(Scope::Endpoint));
    scopes.extend(desired.sets.keys().copied().map(Scope::Set));
    scopes.extend(desired.cells.keys().map(|(set, class)| Scope::Cell(*set, *class)));
    scopes.extend(desired.routes.keys().copied().map(Scope::Route));
    if desired.cidrs.is_some() {
        scopes.extend([Family::V4, Family::V6].map(Scope::Cidrs));
    }
    scopes
}
