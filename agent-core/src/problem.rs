//! What cannot be done as asked, in words.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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

/// Objects that a sentence names, when more of them have the same problem.
const NAMED: usize = 3;

/// Different problems that are told. Whoever has more is helped by a number, not by a longer list.
const TOLD: usize = 25;

/// Problems as people read them, each an object (which may be empty) and what is wrong with it: objects with the same
/// problem share a sentence, in the order of the first, and there are never more than can be read.
#[must_use]
pub fn told_together(problems: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let mut groups: Vec<(String, Vec<String>, usize)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for (object, text) in problems {
        let at = *index.entry(text).or_insert_with_key(|text| {
            groups.push((text.clone(), Vec::new(), 0));
            groups.len() - 1
        });
        let (_, named, count) = &mut groups[at];
        if named.contains(&object) {
            continue;
        }
        *count += 1;
        if named.len() < NAMED {
            named.push(object);
        }
    }
    let untold: usize = groups.iter().skip(TOLD).map(|(_, _, count)| count).sum();
    let mut told: Vec<String> = groups
        .into_iter()
        .take(TOLD)
        .map(|(text, named, count)| {
            let more = if count > named.len() {
                format!(" and {} more", count - named.len())
            } else {
                String::new()
            };
            match named.join(", ") {
                nobody if nobody.is_empty() => text,
                names => format!("{names}{more}: {text}"),
            }
        })
        .collect();
    if untold > 0 {
        told.push(format!("and {untold} more problems beside these, which show when these are solved"));
    }
    told
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(problems: &[(&str, &str)]) -> Vec<String> {
        told_together(problems.iter().map(|&(object, text)| (object.to_owned(), text.to_owned())))
    }

    #[test]
    fn objects_with_the_same_problem_share_a_sentence() {
        assert_eq!(told(&[]), Vec::<String>::new());
        assert_eq!(
            told(&[("a", "is wrong"), ("", "all is lost"), ("a", "is late")]),
            ["a: is wrong", "all is lost", "a: is late"]
        );
        assert_eq!(
            told(&[("a", "is wrong"), ("b", "is late"), ("c", "is wrong"), ("a", "is wrong")]),
            ["a, c: is wrong", "b: is late"]
        );
        let five = ["a", "b", "c", "d", "e"].map(|object| (object, "is wrong"));
        assert_eq!(told(&five), ["a, b, c and 2 more: is wrong"]);
    }

    #[test]
    fn what_is_too_much_to_read_is_counted() {
        let texts: Vec<String> = (0..TOLD + 7).map(|n| format!("is wrong for the reason {n}")).collect();
        let problems: Vec<(&str, &str)> = texts.iter().map(|text| ("a", text.as_str())).collect();
        let told = told(&problems);
        assert_eq!(told.len(), TOLD + 1);
        assert!(told[TOLD].starts_with("and 7 more problems"), "{}", told[TOLD]);
    }
}
