//! What reaches the reconciler, in waves: whatever waits at one moment is taken in together, before the maps are
//! brought up to date once.
use std::time::Instant;

use agent_sources::source::Event;
use tokio::sync::{mpsc, watch};

use crate::{
    cni_server::{CniEvent, NodeNetwork},
    net::watch::Changes,
};

/// Inputs of one wave, at most.
const MAX_WAVE: usize = 1024;

/// The reconciler's ends of the channels.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) source: mpsc::Receiver<Event>,
    pub(crate) cni: mpsc::Receiver<CniEvent>,
    pub(crate) node: watch::Sender<NodeNetwork>,
    /// Changes of the node's own network.
    pub(crate) network: Changes,
}

/// What somebody sent.
#[derive(Debug)]
pub(super) enum Input {
    Source(Event),
    Cni(CniEvent),
    /// Others changed the node's network.
    NetworkChanged,
    /// Something of ours may be gone from it.
    EntriesChanged,
}

impl Input {
    /// Whether somebody asks how things are.
    const fn is_question(&self) -> bool {
        matches!(self, Self::Cni(CniEvent::Status { .. } | CniEvent::Health { .. } | CniEvent::Check { .. }))
    }
}

impl Inbox {
    /// Waits for an input, but not longer than until `due`, and takes everything that waits then. `None` when the
    /// source or the CNI server is gone.
    pub(super) async fn wave(&mut self, due: Option<Instant>) -> Option<Vec<Input>> {
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut wave = Vec::new();
        tokio::select! {
            event = self.source.recv() => wave.push(Input::Source(event?)),
            event = self.cni.recv() => wave.push(Input::Cni(event?)),
            () = self.network.surroundings.notified() => wave.push(Input::NetworkChanged),
            () = self.network.entries.notified() => wave.push(Input::EntriesChanged),
            () = timer => {}
        }
        while wave.len() < MAX_WAVE
            && let Some(input) = self.waiting()
        {
            wave.push(input);
        }
        // Asked now, they are about what was done and told already: an agent that has only just heard of its node
        // cannot serve pods yet.
        wave.sort_by_key(|input| !input.is_question());
        Some(wave)
    }

    fn waiting(&mut self) -> Option<Input> {
        let event = self.source.try_recv().ok().map(Input::Source);
        event.or_else(|| self.cni.try_recv().ok().map(Input::Cni))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_sources::source::Batch;
    use tokio::sync::oneshot;

    use super::*;

    fn inbox(queue: usize) -> (mpsc::Sender<Event>, mpsc::Sender<CniEvent>, Inbox) {
        let (events, source) = mpsc::channel(queue);
        let (cni_events, cni) = mpsc::channel(queue);
        let (node, _) = watch::channel(NodeNetwork::default());
        (events, cni_events, Inbox { source, cni, node, network: Changes::default() })
    }

    fn event() -> Event {
        Event { seen: Instant::now(), batch: Batch::default() }
    }

    #[tokio::test]
    async fn a_burst_from_both_sides_is_one_wave() {
        let (events, cni_events, mut inbox) = inbox(8);
        for _ in 0..3 {
            events.try_send(event()).unwrap();
            cni_events.try_send(CniEvent::Status { reply: oneshot::channel().0 }).unwrap();
        }
        assert_eq!(inbox.wave(None).await.map(|wave| wave.len()), Some(6));
    }

    #[tokio::test]
    async fn a_question_is_answered_before_what_comes_with_it_is_taken_in() {
        let (events, cni_events, mut inbox) = inbox(8);
        events.try_send(event()).unwrap();
        cni_events.try_send(CniEvent::Settle { reply: oneshot::channel().0 }).unwrap();
        cni_events.try_send(CniEvent::Status { reply: oneshot::channel().0 }).unwrap();
        let wave = inbox.wave(None).await.unwrap();
        // Which of the other two was taken first is chance.
        let is_status = |input: &Input| matches!(input, Input::Cni(CniEvent::Status { .. }));
        assert_eq!(wave.iter().position(is_status), Some(0), "{wave:?}");
        assert_eq!(wave.len(), 3);
    }

    #[tokio::test]
    async fn a_flood_does_not_keep_the_maps_waiting() {
        let (events, _cni_events, mut inbox) = inbox(MAX_WAVE + 1);
        for _ in 0..=MAX_WAVE {
            events.try_send(event()).unwrap();
        }
        assert_eq!(inbox.wave(None).await.map(|wave| wave.len()), Some(MAX_WAVE));
        assert_eq!(inbox.wave(None).await.map(|wave| wave.len()), Some(1));
    }

    #[tokio::test]
    async fn a_timer_ends_the_wait_with_an_empty_wave() {
        let (_events, _cni_events, mut inbox) = inbox(1);
        let due = Instant::now() + Duration::from_millis(1);
        assert_eq!(inbox.wave(Some(due)).await.map(|wave| wave.len()), Some(0));
    }

    #[tokio::test]
    async fn the_end_of_either_side_ends_the_waves() {
        let (events, _cni_events, mut inbox) = inbox(1);
        drop(events);
        assert!(inbox.wave(None).await.is_none());
    }
}
