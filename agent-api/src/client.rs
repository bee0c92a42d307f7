//! One request to the agent, with a deadline. Blocking: for the CNI plugin and the CLI.
use std::{
    io,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::{
    API_VERSION, Envelope, Error, Reply, Request,
    wire::{self, LineBuffer, WireError},
};

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot connect to the agent's socket {}", .socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent did not answer on {} within {} ms", .socket.display(), .after.as_millis())]
    Timeout { socket: PathBuf, after: Duration },
    #[error("the connection to the agent on {} broke", .socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent's answer on {} cannot be read", .socket.display())]
    Wire {
        socket: PathBuf,
        #[source]
        source: WireError,
    },
    /// The agent's own answer.
    #[error(transparent)]
    Agent(#[from] Error),
}

/// Sends a request and waits for its reply. Never returns [`Reply::Error`]: that is [`CallError::Agent`].
///
/// # Errors
/// If the agent cannot be reached, does not answer in time, or answers with an error.
pub fn call(path: &Path, request: Request, timeout: Duration) -> Result<Reply, CallError> {
    let deadline = Instant::now() + timeout;
    let socket = path.to_owned();
    let wire_error = |source| CallError::Wire { socket: path.to_owned(), source };
    let io_error = |source: io::Error| {
        let socket = path.to_owned();
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            CallError::Timeout { socket, after: timeout }
        } else {
            CallError::Broken { socket, source }
        }
    };

    let mut stream = match open(path, timeout) {
        Ok(stream) => stream,
        Err(Errno::EAGAIN) => return Err(CallError::Timeout { socket, after: timeout }),
        Err(errno) => return Err(CallError::Unreachable { socket, source: errno.into() }),
    };
    let line = wire::encode(&Envelope { version: API_VERSION, request }).map_err(wire_error)?;
    stream.write_all(&line).map_err(io_error)?;

    let mut buffer = LineBuffer::default();
    let mut chunk = [0; 4096];
    let line = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::Timeout { socket, after: timeout });
        }
        stream.set_read_timeout(Some(left)).map_err(io_error)?;
        let count = match stream.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(io_error)?,
        };
        if let Some(line) = buffer.push(&chunk[..count]).map_err(wire_error)? {
            break line;
        }
    };
    let reply = wire::decode(&line).map_err(wire_error)?;
    if let Reply::Error(error) = reply { Err(error.into()) } else { Ok(reply) }
}

/// Connects. Connecting waits while the listener's queue is full, so it needs the time limit, too.
fn open(path: &Path, timeout: Duration) -> Result<UnixStream, Errno> {
    let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(&stream, SendTimeout, &TimeVal::microseconds(micros))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;
    use crate::ErrorKind;

    const SHORT: Duration = Duration::from_millis(200);

    fn answer_with(bytes: &'static [u8]) -> Result<Reply, CallError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cni.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).unwrap(), 0);
                stream.write_all(bytes).unwrap();
            });
            call(&path, Request::Status, SHORT)
        })
    }

    #[test]
    fn a_reply_is_returned() {
        assert_eq!(answer_with(b"{\"result\":\"detached\"}\n").unwrap(), Reply::Detached);
    }

    #[test]
    fn an_error_of_the_agent_is_an_error_of_the_call() {
        let error = answer_with(b"{\"result\":\"error\",\"kind\":\"try-again\",\"message\":\"not yet\"}\n");
        assert!(matches!(error, Err(CallError::Agent(Error { kind: ErrorKind::TryAgain, .. }))), "{error:?}");
    }

    #[test]
    fn a_connection_that_ends_without_an_answer_is_no_reply() {
        assert!(matches!(answer_with(b"{\"res"), Err(CallError::Wire { .. })));
    }

    #[test]
    fn an_agent_that_is_not_there_is_unreachable() {
        let error = call(Path::new("/nonexistent/cni.sock"), Request::Status, SHORT);
        assert!(matches!(error, Err(CallError::Unreachable { .. })), "{error:?}");
    }

    #[test]
    fn a_stopped_agent_costs_no_more_than_the_time_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cni.sock");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        // The first calls wait for an answer; once the listener's queue is full, connecting waits.
        let waiting: Vec<_> = (0..5).map(|_| open(&path, Duration::from_millis(1))).collect();
        assert!(waiting.iter().any(Result::is_err), "the queue of the listener did not fill");
        let start = Instant::now();
        assert!(matches!(call(&path, Request::Status, SHORT), Err(CallError::Timeout { .. })));
        assert!(start.elapsed() < 3 * SHORT, "{:?}", start.elapsed());
    }
}
