//! A directory of Kubernetes YAML as source: the embedded default, without a cluster.
//!
//! [`settle`] decides when a changed file is ready to be read, [`directory`] reads what changed, [`document`]
//! parses a file, [`catalog`] merges the files and says what differs, [`copies`] keeps their last good content for
//! the next start.
pub mod catalog;
pub mod copies;
pub mod directory;
pub mod document;
mod json;
pub mod settle;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::mpsc::{self as std_mpsc, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use self::{
    catalog::{Catalog, Taken},
    copies::{Content, Copies},
    directory::Directory,
    settle::Settling,
};
use super::source::{Event, Look, SourceError};

/// How often the directory is compared with what is known of it, for changes without notification: the target of
/// a symbolic link, a file system that another machine writes to, the directory itself replaced.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);

/// What wakes the source.
enum Signal {
    Notified(notify::Result<notify::Event>),
    Look(Look),
    Stop,
}

/// Sends [`Signal::Stop`] also when its future is dropped.
struct StopOnDrop(std_mpsc::Sender<Signal>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // A source that has ended needs no stop.
        let _ = self.0.send(Signal::Stop);
    }
}

/// Runs the source until the receiver is dropped. The last good content of the files is kept in the folder `copies`.
///
/// # Errors
/// When the directory is missing or cannot be watched.
pub async fn run(
    dir: &Path,
    copies: &Path,
    events: mpsc::Sender<Event>,
    mut looks: mpsc::Receiver<Look>,
) -> Result<(), SourceError> {
    let (signals, woken) = std_mpsc::channel();
    let notifications = signals.clone();
    let directory = Directory::open(dir, move |event| {
        // The receiver outlives the watcher, except while both end.
        let _ = notifications.send(Signal::Notified(event));
    })?;
    let lookers = signals.clone();
    let stop = StopOnDrop(signals);
    let closed = events.clone();
    let copies = copies.to_owned();
    let (ended, mut end) = oneshot::channel();
    // Reading and parsing block; a thread of its own keeps them from the runtime's workers.
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || {
            let (copies, loaded) = Copies::open(&copies);
            let events = &events;
            thread::scope(|scope| {
                let (changes, to_keep) = std_mpsc::channel();
                // A change takes effect without waiting for the disk.
                scope.spawn(move || copies.follow(&to_keep, events));
                follow(directory, Catalog::new(loaded), &woken, events, &changes);
            });
            // The future may be gone already.
            let _ = ended.send(());
        })
        .map_err(SourceError::directory(dir))?;
    let forwarding = async {
        while let Some(look) = looks.recv().await {
            // A source that has ended does not answer.
            let _ = lookers.send(Signal::Look(look));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = forwarding => {}
        () = closed.closed() => {
            drop(stop);
            // An error means that the thread is gone, which is what is waited for.
            let _ = end.await;
        }
        // The thread ended by itself: nobody takes events, or it failed.
        _ = &mut end => {}
    }
    Ok(())
}

fn follow(
    mut directory: Directory,
    mut catalog: Catalog,
    woken: &std_mpsc::Receiver<Signal>,
    events: &mpsc::Sender<Event>,
    changes: &std_mpsc::Sender<BTreeMap<String, Content>>,
) {
    let mut settling = Settling::new(directory.path(), Instant::now());
    let mut compared = Instant::now();
    let mut lookers: Vec<Look> = Vec::new();
    loop {
        let now = Instant::now();
        if now >= compared + COMPARE_INTERVAL {
            compared = now;
            settling.compare_all(now);
        }
        let ready = settling.take_ready(now);
        if let Some(seen) = ready.seen {
            let findings = directory.read(&ready, |name| settling.is_unsettled(name));
            for name in &findings.fresh {
                settling.postpone(name, Instant::now());
            }
            let Taken { batch, copies } = catalog.take(findings);
            if !copies.is_empty() && changes.send(copies).is_err() {
                return;
            }
            if !batch.is_empty() && events.blocking_send(Event { seen, batch }).is_err() {
                return;
            }
        }
        if settling.next_ready().is_none() {
            // Everything was read that was there when they asked.
            for looker in lookers.drain(..) {
                let _unheard = looker.send(());
            }
        }
        let next_comparison = compared + COMPARE_INTERVAL;
        let wake = settling.next_ready().map_or(next_comparison, |at| at.min(next_comparison));
        match woken.recv_timeout(wake.saturating_duration_since(Instant::now())) {
            Ok(first) => {
                for signal in std::iter::once(first).chain(woken.try_iter()) {
                    match signal {
                        Signal::Notified(event) => settling.note(event, Instant::now()),
                        Signal::Look(looker) => {
                            settling.compare_all(Instant::now());
                            lookers.push(looker);
                        }
                        Signal::Stop => return,
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests;
