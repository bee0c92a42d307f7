//! The Kubernetes API as source: one watch per kind, for ever.
//!
//! [`feed`] turns watch events into differences, [`recovery`] decides what follows a failure and words it.
pub mod client;
pub mod feed;
pub mod recovery;

use std::{
    fmt::Debug,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_core::update::Kind;
use futures::{FutureExt as _, Stream, StreamExt as _};
use kube::{
    Api, Client,
    runtime::watcher::{self, DefaultBackoff, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet, time};

use self::{
    feed::Feed,
    recovery::{Recovery, Step},
};
use super::{
    convert::{
        Convert, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service,
        endpoint_slice::{HEADLESS_LABEL, SERVICE_NAME_LABEL},
        service::PROXY_NAME_LABEL,
    },
    pulse::Watches,
    source::{Batch, Event, SourceConfig, SourceError},
};

/// The server ends a watch after this time; a dead connection is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;
/// A watch that has not failed for this long after a failure works again: a quiet kind sends nothing to prove it.
const WORKS_AGAIN: Duration = Duration::from_secs(10);
/// kube waits for up to a minute, jitter included. A thousand agents that ask once in this time are no load.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Events that are ready together are sent together, up to this many.
const BATCH_EVENTS: usize = 1024;

/// Runs the source until the receiver is dropped.
///
/// # Errors
/// When no client can be made. A server that does not answer is reported and retried instead.
pub async fn run(
    config: &SourceConfig,
    events: mpsc::Sender<Event>,
    pulse: &Arc<Watches>,
) -> Result<(), SourceError> {
    let client = client::connect(config).await?;
    let mut watches = JoinSet::new();
    watches.spawn(watch::<Service>(client.clone(), events.clone(), Arc::clone(pulse)));
    watches.spawn(watch::<EndpointSlice>(client.clone(), events.clone(), Arc::clone(pulse)));
    watches.spawn(watch::<Pod>(client.clone(), events.clone(), Arc::clone(pulse)));
    watches.spawn(watch::<Namespace>(client.clone(), events.clone(), Arc::clone(pulse)));
    watches.spawn(watch::<Node>(client.clone(), events.clone(), Arc::clone(pulse)));
    watches.spawn(watch::<NetworkPolicy>(client, events.clone(), Arc::clone(pulse)));
    // The watches end when this set is dropped. One that ends by itself has nobody to send to, or has failed.
    tokio::select! {
        () = events.closed() => {}
        _ = watches.join_next() => {}
    }
    Ok(())
}

/// What to watch of a kind.
fn selection(kind: Kind) -> watcher::Config {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    match kind {
        Kind::Service => config.labels(&format!("!{PROXY_NAME_LABEL}")).fields("spec.clusterIP!=None"),
        Kind::EndpointSlice => config.labels(&format!("{SERVICE_NAME_LABEL},!{HEADLESS_LABEL}")),
        Kind::Pod | Kind::Namespace | Kind::Node | Kind::NetworkPolicy => config,
    }
}

/// A wire type that can be watched.
trait Watched: Convert + Clone + Debug + DeserializeOwned + Send + 'static {}
impl<K: Convert + Clone + Debug + DeserializeOwned + Send + 'static> Watched for K {}

/// Watches a kind until the receiver is dropped.
async fn watch<K: Watched>(client: Client, events: mpsc::Sender<Event>, watches: Arc<Watches>) {
    let mut follower = Follower::<K> { watches, ..Follower::new(events) };
    loop {
        let mut stream = pin!(watcher(Api::<K>::all(client.clone()), selection(K::KIND)));
        loop {
            match follower.step(stream.as_mut()).await {
                Ok(Step::Continue) => {}
                Ok(Step::ListAgain) => break,
                Err(ReceiverGone) => return,
            }
        }
    }
}

/// Nobody takes events any more.
struct ReceiverGone;

/// Carries events of one kind from the API server's streams to the receiver.
struct Follower<K: Convert> {
    feed: Feed<K>,
    recovery: Recovery,
    /// Not reset by success, as a stream's own would be: a list that works between watches that do not must not
    /// turn into a storm of lists. It resets itself after two quiet minutes.
    backoff: DefaultBackoff,
    events: mpsc::Sender<Event>,
    watches: Arc<Watches>,
}

impl<K: Watched> Follower<K> {
    fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            feed: Feed::default(),
            recovery: Recovery::of::<K>(),
            backoff: DefaultBackoff::default(),
            events,
            watches: Arc::default(),
        }
    }

    /// Takes what the stream has next.
    async fn step<S>(&mut self, mut stream: Pin<&mut S>) -> Result<Step, ReceiverGone>
    where
        S: Stream<Item = watcher::Result<watcher::Event<K>>>,
    {
        // A list proves itself by its end; only a watch that is merely quiet needs the benefit of the doubt.
        let first = if self.recovery.is_failing() && !self.feed.is_listing() {
            let Ok(item) = time::timeout(WORKS_AGAIN, stream.next()).await else {
                self.watches.works(K::KIND);
                let reports = self.recovery.worked().into_iter().collect();
                self.send(Instant::now(), Batch { reports, ..Batch::default() }).await?;
                return Ok(Step::Continue);
            };
            item
        } else {
            stream.next().await
        };
        let seen = Instant::now();
        let mut batch = Batch::default();
        let mut next = first;
        for _ in 0..BATCH_EVENTS {
            match next {
                Some(Ok(event)) => {
                    // A list begins before the server is asked: that proves nothing.
                    if matches!(event, watcher::Event::Init) {
                        self.watches.lists(K::KIND);
                    } else {
                        self.watches.heard(K::KIND, seen);
                        batch.reports.extend(self.recovery.worked());
                    }
                    self.feed.take(event, &mut batch);
                }
                Some(Err(error)) => {
                    self.watches.failed(K::KIND);
                    let (step, report) = self.recovery.failed(&error);
                    batch.reports.extend(report);
                    self.send(seen, batch).await?;
                    time::sleep(self.backoff.next().map_or(WORKS_AGAIN, |wait| wait.min(LONGEST_WAIT))).await;
                    return Ok(step);
                }
                None => return self.send(seen, batch).await.map(|()| Step::ListAgain),
            }
            match stream.next().now_or_never() {
                Some(item) => next = item,
                None => break,
            }
        }
        self.send(seen, batch).await.map(|()| Step::Continue)
    }

    async fn send(&self, seen: Instant, batch: Batch) -> Result<(), ReceiverGone> {
        if batch.is_empty() {
            return Ok(());
        }
        self.events.send(Event { seen, batch }).await.map_err(|_| ReceiverGone)
    }
}

#[cfg(test)]
mod tests;
