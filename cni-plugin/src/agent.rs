//! What the plugin asks of the agent, and what the runtime is told when it fails.
use std::{path::PathBuf, time::Duration};

use agent_api::{
    Attachment, ErrorKind, Health, Interface, Network, PodRef, Reply, Request,
    client::{CallError, call},
};

use crate::{
    config::NetConf,
    spec::{Code, Error},
};

/// The agent answers at once, or it is not serving.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the agent waits for the pod's policy, so that its own message arrives.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// DEL and STATUS must be quick, whatever the agent does.
const QUICK_TIMEOUT: Duration = Duration::from_secs(1);

/// The agent behind its socket.
pub(crate) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(crate) fn new(conf: &NetConf) -> Self {
        Self { socket: conf.socket() }
    }

    pub(crate) fn reserve(&self, attachment: &Attachment, pod: &PodRef) -> Result<Network, Error> {
        let request = Request::Reserve { attachment: attachment.clone(), pod: pod.clone() };
        let reply = self.ask(request, RESERVE_TIMEOUT)?;
        if let Reply::Reserved(network) = reply { Ok(network) } else { Err(self.unexpected(&reply)) }
    }

    pub(crate) fn attach(&self, attachment: &Attachment, interface: Interface) -> Result<(), Error> {
        let request = Request::Attach { attachment: attachment.clone(), interface };
        let reply = self.ask(request, ATTACH_TIMEOUT)?;
        if reply == Reply::Attached { Ok(()) } else { Err(self.unexpected(&reply)) }
    }

    pub(crate) fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let reply = self.ask(Request::Detach { attachment: attachment.clone() }, QUICK_TIMEOUT)?;
        if reply == Reply::Detached { Ok(()) } else { Err(self.unexpected(&reply)) }
    }

    /// What of an attachment is not in its place.
    pub(crate) fn check(&self, attachment: &Attachment) -> Result<Vec<String>, Error> {
        let request = Request::Check { attachment: attachment.clone() };
        match call(&self.socket, request, QUICK_TIMEOUT) {
            Ok(Reply::Checked(checked)) => Ok(checked.missing),
            Ok(reply) => Err(self.unexpected(&reply)),
            // An agent of an earlier release does not know the question: that it answers was all that was asked.
            Err(CallError::Agent(answer)) if answer.kind == ErrorKind::Invalid => Ok(Vec::new()),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Its answer is small, whatever the cluster is like: a question about everything would fail with everything.
    pub(crate) fn health(&self) -> Result<Health, Error> {
        let reply = self.ask(Request::Health, QUICK_TIMEOUT)?;
        if let Reply::Health(health) = reply { Ok(health) } else { Err(self.unexpected(&reply)) }
    }

    fn ask(&self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        call(&self.socket, request, timeout).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &CallError) -> Error {
        match error {
            CallError::Agent(answer) => {
                let code = match answer.kind {
                    ErrorKind::TryAgain => Code::TryAgain,
                    ErrorKind::Invalid => Code::InvalidConfig,
                    ErrorKind::Incompatible | ErrorKind::Internal => Code::Agent,
                };
                Error::new(code, answer.message.clone())
            }
            CallError::Wire { .. } => Error::new(
                Code::Agent,
                format!(
                    "millrace-agent on {} speaks another version: install plugin and agent of one release",
                    self.socket.display()
                ),
            )
            .because(error),
            CallError::Unreachable { .. } | CallError::Timeout { .. } | CallError::Broken { .. } => {
                Error::new(
                    Code::TryAgain,
                    format!(
                        "millrace-agent does not answer on {}: check that it runs on this node and that its \
                     --runtime-dir is the runtimeDir of the CNI configuration; the runtime tries again",
                        self.socket.display()
                    ),
                )
                .because(error)
            }
        }
    }

    fn unexpected(&self, reply: &Reply) -> Error {
        Error::new(Code::Agent, format!("millrace-agent on {} answered {reply:?}", self.socket.display()))
    }
}
