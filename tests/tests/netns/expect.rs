//! What a connection is expected to come to.
#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else it came to is shown as it is")]
use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use harness::{
    eventually::{PATIENCE, eventually, patient},
    probe::{
        client::{HeldConnection, Probe},
        wire::{Answer, Outcome, Target, Transport},
    },
};

/// How long a connection that must come about may take.
pub(crate) const LONG: Duration = Duration::from_secs(3);
/// How long a connection that must not come about is tried.
pub(crate) const SHORT: Duration = Duration::from_millis(500);

/// The two transports that every case is tried with.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

pub(crate) const fn target(transport: Transport, to: SocketAddr) -> Target {
    Target { transport, to, from: None }
}

/// The answer to a connection that must come about at once.
pub(crate) fn answer(client: &Probe, target: Target) -> Result<Answer> {
    match client.probe_one(target, patient(LONG))? {
        Outcome::Answered(answer) => Ok(answer),
        outcome => bail!("{} to {target:?}: {outcome}", client.name()),
    }
}

/// The connection is answered by this server, at once.
pub(crate) fn is_answered_by(server: &str, client: &Probe, target: Target) -> Result<()> {
    let answer = answer(client, target)?;
    if answer.by != server {
        bail!("{} to {target:?}: answered by {} instead of {server}", client.name(), answer.by);
    }
    Ok(())
}

/// Nothing answers, refuses or resets, at once.
pub(crate) fn is_silent(client: &Probe, target: Target) -> Result<()> {
    match client.probe_one(target, patient(SHORT))? {
        Outcome::TimedOut => Ok(()),
        outcome => bail!("{} to {target:?}: {outcome} instead of silence", client.name()),
    }
}

/// The connection is answered, soon.
pub(crate) fn becomes_answered(client: &Probe, target: Target) -> Result<()> {
    eventually(format!("{} to {target:?} is answered", client.name()), PATIENCE, || {
        match client.probe_one(target, patient(SHORT))? {
            Outcome::Answered(_) => Ok(()),
            outcome => bail!("it is {outcome}"),
        }
    })
}

/// Connections that stay open, with what each is and where it goes: over both transports, each answered once.
pub(crate) fn held<'a>(
    client: &'a Probe,
    ends: &[SocketAddr],
) -> Result<Vec<(HeldConnection<'a>, Transport, SocketAddr)>> {
    let mut connections = Vec::new();
    for transport in TRANSPORTS {
        for to in ends {
            let (connection, outcome) = client.open(target(transport, *to), LONG)?;
            assert!(outcome.is_answered(), "{transport:?} {to}: {outcome}");
            connections.push((connection, transport, *to));
        }
    }
    Ok(connections)
}

/// Nothing comes back on connections that were open.
pub(crate) fn are_silent(connections: &[(HeldConnection<'_>, Transport, SocketAddr)]) -> Result<()> {
    for (connection, transport, to) in connections {
        assert_eq!(connection.exchange(SHORT)?, Outcome::TimedOut, "{transport:?} {to}");
    }
    Ok(())
}

/// All targets are answered, at once.
pub(crate) fn answers(client: &Probe, targets: &[Target]) -> Result<Vec<Answer>> {
    let outcomes = client.probe(targets, LONG)?;
    targets
        .iter()
        .zip(outcomes)
        .map(|(target, outcome)| match outcome {
            Outcome::Answered(answer) => Ok(answer),
            outcome => bail!("{} to {target:?}: {outcome}", client.name()),
        })
        .collect::<Result<_>>()
        .with_context(|| format!("{} targets of {}", targets.len(), client.name()))
}
