//! The acts, in their order, and what they share.
pub(crate) mod policy;
pub(crate) mod readiness;
pub(crate) mod restart;
pub(crate) mod service;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use harness::{
    probe::{
        client::Probe,
        wire::{Outcome, Target, Transport},
    },
    topology::Node,
};

use crate::{cast::Cast, interrupt, show::Show};

/// Everything that a command prints.
const ALL: usize = usize::MAX;
/// A denied connection is silent; so long is listened to the silence.
const SILENCE: Duration = Duration::from_secs(1);
/// An answer that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests at a time.
const ROUND: usize = 25;

/// Makes requests and counts who answered; one without an answer is an error.
fn ask_many(
    from: &Probe,
    transport: Transport,
    to: SocketAddr,
    requests: usize,
) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..requests.div_ceil(ROUND) {
        interrupt::check()?;
        let target = Target { transport, to, from: None };
        for outcome in from.probe(&[target; ROUND], TIMEOUT)? {
            let Some(by) = outcome.by() else { bail!("{} to {to}: {outcome}", from.name()) };
            *answers.entry(by.to_owned()).or_default() += 1;
        }
    }
    Ok(answers)
}

/// Draws how many requests each web pod answered.
fn shares(show: &Show, cast: &Cast, answers: &BTreeMap<String, usize>) {
    let whole = answers.values().sum();
    for pod in &cast.webs {
        let count = answers.get(&full_name(pod)).copied().unwrap_or_default();
        show.share(pod.name(), &format!("node-{}", pod.node() + 1), count, whole);
    }
}

/// The name that a pod's servers answer with.
fn full_name(pod: &harness::topology::Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}

/// Tries a connection that must be answered.
fn reaches(show: &Show, who: &str, from: &Probe, to: SocketAddr) -> Result<()> {
    let outcome = from.probe_one(Target::tcp(to), TIMEOUT)?;
    let Some(by) = outcome.by() else { bail!("{who} to {to}: {outcome}") };
    show.good(&format!("{who:<28} answered by {by}"));
    Ok(())
}

/// Tries a connection that must end in silence.
fn is_denied(show: &Show, who: &str, from: &Probe, to: SocketAddr) -> Result<()> {
    let outcome = from.probe_one(Target::tcp(to), SILENCE)?;
    if outcome != Outcome::TimedOut {
        bail!("{who} to {to}, which is forbidden: {outcome}");
    }
    show.stopped(&format!("{who:<28} silence: not even a reset"));
    Ok(())
}

/// Runs the command line on a node and shows what it prints; of long output, only the first paragraphs.
fn millrace(show: &Show, node: &Node, arguments: &[&str], paragraphs: usize) -> Result<()> {
    let output = output(node, arguments)?;
    let shown: Vec<&str> = output.split("\n\n").take(paragraphs).collect();
    let quoted = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    let words: Vec<String> = arguments.iter().map(quoted).collect();
    let command = format!("millrace {}", words.join(" "));
    show.command(&format!("{command:<60} # on {}", node.spec().name), &shown.join("\n\n"));
    Ok(())
}

/// What the command line prints on a node.
fn output(node: &Node, arguments: &[&str]) -> Result<String> {
    let shown = node.millrace(arguments)?;
    // 3 is `why` saying no.
    if !matches!(shown.code, Some(0 | 3)) {
        bail!("millrace {}: {}", arguments.join(" "), shown.errors);
    }
    Ok(shown.text)
}
