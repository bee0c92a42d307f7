//! What follows a failure of a watch, and how it is worded.
use std::error::Error as StdError;

use agent_core::update::Kind;
use kube::{Error, core::Status, runtime::watcher};

use crate::{
    convert::{Convert, kind_name},
    source::{Report, Subject},
};

/// What to do after a failure, once its wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the stream recover by itself.
    Continue,
    /// Begin with a new list.
    ListAgain,
}

/// After this many answers in a row that are failures, the position of the watch is not trusted any more.
const DISTRUST: u32 = 3;

/// HTTP status of a position that the server has forgotten.
const GONE: u16 = 410;

/// The failures in a row of a kind's watch.
#[derive(Debug)]
pub struct Recovery {
    kind: Kind,
    /// As RBAC names it.
    resource: String,
    failing: bool,
    reported: bool,
    /// Failures in a row that the server answered with.
    answers: u32,
}

impl Recovery {
    #[must_use]
    pub fn of<K: Convert>() -> Self {
        let (plural, group) = (K::plural(&()), K::group(&()));
        let resource = if group.is_empty() { plural.into_owned() } else { format!("{plural}.{group}") };
        Self { kind: K::KIND, resource, failing: false, reported: false, answers: 0 }
    }

    /// Whether the last thing that happened was a failure.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// The server answered as it should. Clears the report.
    pub fn worked(&mut self) -> Option<Report> {
        self.failing = false;
        self.answers = 0;
        let subject = Subject::Watch(self.kind);
        std::mem::take(&mut self.reported).then_some(Report { subject, problems: Vec::new() })
    }

    /// The watch failed.
    ///
    /// A stream that is told at its start that its position is gone would ask for the same position for ever, so
    /// it is replaced. A connection that fails says nothing about the position.
    pub fn failed(&mut self, error: &watcher::Error) -> (Step, Option<Report>) {
        self.failing = true;
        let status = status(error);
        if status.is_some() {
            self.answers += 1;
        }
        let gone = status.is_some_and(|status| status.code == GONE);
        let step = if gone || self.answers >= DISTRUST { Step::ListAgain } else { Step::Continue };
        if step == Step::ListAgain {
            self.answers = 0;
        }
        // A forgotten position is everyday business.
        let report = (!gone)
            .then(|| Report { subject: Subject::Watch(self.kind), problems: vec![self.sentence(error)] });
        self.reported |= report.is_some();
        (step, report)
    }

    fn sentence(&self, error: &watcher::Error) -> String {
        let verb = if matches!(error, watcher::Error::InitialListFailed(_)) { "list" } else { "watch" };
        let Self { resource, .. } = self;
        let rest = match (status(error).map(|status| (status.code, status)), client_error(error)) {
            (Some((401, _)), _) => "the API server does not accept the agent's credentials (401); renew the token or \
                                    certificate of its kubeconfig or service account"
                .to_owned(),
            (Some((403, status)), _) => format!(
                "the API server forbids it (403: {}); grant the verbs list and watch on {resource} in the agent's \
                 ClusterRole",
                status.message
            ),
            (Some((404, _)), _) => {
                "the API server does not know the resource (404); check that the address is a Kubernetes API server"
                    .to_owned()
            }
            (Some((code, status)), _) => {
                format!("the API server answers {code} ({}); see its log", status.message)
            }
            (None, Some(Error::Auth(source))) => {
                format!("there are no credentials ({}); check the user of the kubeconfig", root_cause(source))
            }
            (None, Some(Error::SerdeError(source))) => {
                format!("the API server sent what is not understood ({source}); check that the versions fit")
            }
            (None, Some(source)) => format!(
                "the API server cannot be reached ({}); check that it runs, its address and the network",
                root_cause(source)
            ),
            (None, None) => "the API server sent no resourceVersion; check that nothing rewrites its answers".to_owned(),
        };
        format!("cannot {verb} {}: {rest}; retried until it works", plural(kind_name(self.kind)))
    }
}

fn plural(name: &str) -> String {
    name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"))
}

fn client_error(error: &watcher::Error) -> Option<&Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

/// What the server answered, if it did.
fn status(error: &watcher::Error) -> Option<&Status> {
    if let watcher::Error::WatchError(status)
    | watcher::Error::InitialListFailed(Error::Api(status))
    | watcher::Error::WatchStartFailed(Error::Api(status))
    | watcher::Error::WatchFailed(Error::Api(status)) = error
    {
        Some(status)
    } else {
        None
    }
}

/// The innermost error: `Connection refused` rather than `client error (Connect)`.
fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use kube::{Error, core::Status, runtime::watcher};

    use super::{Recovery, Step};
    use crate::convert::{EndpointSlice, Service};

    fn answer(code: u16, message: &str) -> Error {
        Error::Api(Box::new(Status { code, message: message.to_owned(), ..Status::default() }))
    }

    fn refused() -> Error {
        Error::Service(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
    }

    fn sentence(error: &watcher::Error) -> String {
        Recovery::of::<EndpointSlice>().failed(error).1.unwrap().problems.remove(0)
    }

    #[test]
    fn a_position_that_is_gone_at_the_start_of_a_watch_is_given_up_silently() {
        let mut recovery = Recovery::of::<Service>();
        let (step, report) = recovery.failed(&watcher::Error::WatchStartFailed(answer(410, "too old")));
        assert_eq!(step, Step::ListAgain);
        assert!(report.is_none() && recovery.is_failing());
        assert!(recovery.worked().is_none(), "nothing to clear");
    }

    #[test]
    fn three_bad_answers_in_a_row_end_the_trust_in_the_position() {
        let mut recovery = Recovery::of::<Service>();
        let failure = || watcher::Error::WatchStartFailed(answer(500, "etcd"));
        let steps: Vec<_> = (0..6).map(|_| recovery.failed(&failure()).0).collect();
        let expected = [Step::Continue, Step::Continue, Step::ListAgain];
        assert_eq!(steps, [expected, expected].concat());
        recovery.failed(&failure());
        assert!(recovery.worked().is_some());
        assert_eq!(recovery.failed(&failure()).0, Step::Continue, "counted from the last success");
    }

    #[test]
    fn kinds_have_their_plurals() {
        assert_eq!(["NetworkPolicy", "Pod"].map(super::plural), ["NetworkPolicies", "Pods"]);
    }

    #[test]
    fn a_server_that_cannot_be_reached_costs_no_list() {
        let mut recovery = Recovery::of::<Service>();
        for _ in 0..10 {
            assert_eq!(recovery.failed(&watcher::Error::WatchStartFailed(refused())).0, Step::Continue);
        }
    }

    #[test]
    fn each_failure_names_the_cause_and_the_remedy() {
        let forbidden = r#"endpointslices.discovery.k8s.io is forbidden: User "agent" cannot list resource"#;
        for (error, expected) in [
            (
                watcher::Error::InitialListFailed(answer(403, forbidden)),
                "cannot list EndpointSlices: the API server forbids it (403: endpointslices.discovery.k8s.io is forbidden: \
                 User \"agent\" cannot list resource); grant the verbs list and watch on endpointslices.discovery.k8s.io \
                 in the agent's ClusterRole; retried until it works",
            ),
            (
                watcher::Error::WatchStartFailed(answer(401, "Unauthorized")),
                "cannot watch EndpointSlices: the API server does not accept the agent's credentials (401); renew the \
                 token or certificate of its kubeconfig or service account; retried until it works",
            ),
            (
                watcher::Error::InitialListFailed(refused()),
                "cannot list EndpointSlices: the API server cannot be reached (connection refused); check that it runs, \
                 its address and the network; retried until it works",
            ),
        ] {
            assert_eq!(sentence(&error), expected);
        }
    }
}
