//! Who waits for an endpoint to come or to go.
use agent_api::{Error, ErrorKind};
use agent_core::{
    model::endpoint::{AttachmentId, Endpoint},
    render::{EndpointStatus, endpoint_status},
    state::ClusterState,
};
use tokio::sync::oneshot;

use super::{links, subject};
use crate::{
    dataplane::{AttachError, Dataplane},
    health::Problems,
    telemetry::chain,
};

/// Where an answer goes.
type Answer = oneshot::Sender<Result<(), Error>>;

/// The answers that are due.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    coming: Vec<(AttachmentId, Answer)>,
    going: Vec<(Option<Endpoint>, Answer)>,
}

impl Attachments {
    /// The programs are attached; what is left is the entry in the maps.
    pub(super) fn wait(&mut self, attachment: AttachmentId, done: Answer) {
        self.coming.push((attachment, done));
    }

    /// How many wait for an answer.
    pub(super) const fn waiting(&self) -> usize {
        self.coming.len()
    }

    /// The endpoint (if it was known) is to go.
    pub(super) fn leave(&mut self, endpoint: Option<Endpoint>, done: Answer) {
        self.going.push((endpoint, done));
    }

    /// Answers everybody whose endpoint has come or gone. Comes after the maps were written.
    pub(super) fn settle(&mut self, state: &ClusterState, dataplane: &mut Dataplane, problems: &Problems) {
        for (endpoint, done) in self.going.drain(..) {
            if let Some(endpoint) = endpoint {
                problems.resolve(&links::subject(&endpoint.host_ifname));
                match dataplane.detach(&endpoint) {
                    Ok(()) => problems.resolve(&subject(&endpoint)),
                    Err(error) => problems.report(&subject(&endpoint), &chain(&error)),
                }
            }
            // Who asked may be gone.
            let _unheard = done.send(Ok(()));
        }
        let coming = std::mem::take(&mut self.coming);
        for (attachment, done) in coming {
            let endpoint = state.endpoints().find(|endpoint| endpoint.attachment == attachment);
            let answer = match endpoint {
                _ if done.is_closed() => continue,
                None => Err(forgotten()),
                Some(endpoint) => match endpoint_status(state, &attachment) {
                    EndpointStatus::Rendered if dataplane.observed().has_endpoint(endpoint) => Ok(()),
                    EndpointStatus::Unknown => Err(forgotten()),
                    EndpointStatus::Rendered
                    | EndpointStatus::WaitingForSync
                    | EndpointStatus::WaitingForPod => {
                        self.coming.push((attachment, done));
                        continue;
                    }
                },
            };
            let _unheard = done.send(answer);
        }
    }
}

/// Answers that the programs cannot be attached.
pub(super) fn refuse(done: Answer, endpoint: &Endpoint, error: &AttachError) {
    let message = format!("pod {}: {}", endpoint.pod, chain(error));
    tracing::warn!("{message}");
    let _unheard = done.send(Err(Error { kind: ErrorKind::Internal, message }));
}

fn forgotten() -> Error {
    let message = "the attachment was deleted while it was being added".to_owned();
    Error { kind: ErrorKind::TryAgain, message }
}
