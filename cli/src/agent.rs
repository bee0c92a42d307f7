//! The agent's socket.
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use agent_api::{
    API_VERSION, Envelope, MAX_MESSAGE, Reply, Request, SOCKET_NAME, Status,
    client::{CallError, call},
};
use serde::Serialize;

/// How long the agent has for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the agent says of itself.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Agent {
    Running(Box<Status>),
    /// Nobody listens: the programs in the kernel go on without it.
    NotRunning,
    /// Somebody listens but gives no useful answer.
    Unclear {
        reason: String,
    },
}

/// Asks the agent for its status.
pub(crate) fn ask(runtime_dir: &Path) -> Agent {
    let path = runtime_dir.join(SOCKET_NAME);
    let unclear = |reason: String| Agent::Unclear { reason: format!("{}: {reason}", path.display()) };
    match exchange(&path) {
        Ok(line) => match serde_json::from_str(&line) {
            Ok(Reply::Status(status)) => Agent::Running(status),
            Ok(Reply::Error(error)) => unclear(error.message),
            Ok(
                Reply::Reserved(_)
                | Reply::Attached
                | Reply::Detached
                | Reply::Checked(_)
                | Reply::Health(_)
                | Reply::Named
                | Reply::Applied(_),
            ) => unclear("the answer is no status".to_owned()),
            Err(error) => {
                unclear(format!("the answer is not understood, it may be of another version: {error}"))
            }
        },
        Err(error) if is_absence(error.kind()) => Agent::NotRunning,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            unclear(format!("no answer within {} s", PATIENCE.as_secs()))
        }
        Err(error) => unclear(error.to_string()),
    }
}

/// Has the agent write its names as they are now. Why they may be older, if they may.
pub(crate) fn refresh_names(runtime_dir: &Path) -> Option<String> {
    let path = runtime_dir.join(SOCKET_NAME);
    match call(&path, Request::Names, PATIENCE) {
        // Of an agent that is gone they are those of its last moment.
        Ok(_) | Err(CallError::Unreachable { .. }) => None,
        Err(error) => Some(format!("names may be a moment old: {error}")),
    }
}

/// Nobody listens, or nobody ever did.
fn is_absence(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn exchange(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(&Envelope { version: API_VERSION, request: Request::Status })?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_MESSAGE as u64)).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// Answers one request with `answer`, and returns what was asked.
    fn answering(dir: &Path, answer: &'static str) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(dir.join(SOCKET_NAME)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            line
        })
    }

    #[test]
    fn a_missing_socket_means_that_the_agent_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ask(dir.path()), Agent::NotRunning));
    }

    #[test]
    fn a_socket_that_nobody_listens_on_means_that_the_agent_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
        assert!(matches!(ask(dir.path()), Agent::NotRunning));
    }

    #[test]
    fn the_status_of_a_running_agent_is_returned() {
        let dir = tempfile::tempdir().unwrap();
        let status = Reply::Status(Box::new(Status { node_name: "node-a".into(), ..Status::default() }));
        let answer = serde_json::to_string(&status).unwrap() + "\n";
        let server = answering(dir.path(), answer.leak());
        let Agent::Running(status) = ask(dir.path()) else { panic!("no status") };
        assert_eq!(status.node_name, "node-a");
        assert_eq!(server.join().unwrap(), "{\"version\":1,\"request\":{\"do\":\"status\"}}\n");
    }

    #[test]
    fn nonsense_is_reported_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let server = answering(dir.path(), "hello\n");
        let Agent::Unclear { reason } = ask(dir.path()) else { panic!("understood") };
        assert!(reason.contains(SOCKET_NAME) && reason.contains("not understood"), "{reason}");
        server.join().unwrap();
    }
}
