//! The socket: who may talk, how much and how long.
use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_api::{
    API_VERSION, Error, ErrorKind, Reply, Request, SOCKET_NAME,
    wire::{self, LineBuffer},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Shared, invalid};

/// A request is one line that is sent at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Requests that are served at the same time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;

/// Pause after a failure to accept, which is a shortage of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot use the runtime directory {}: check --runtime-dir", .path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the runtime directory {} belongs to user {owner}, not to the agent: remove it or change --runtime-dir", .path.display())]
    ForeignDirectory { path: PathBuf, owner: u32 },
    #[error("another agent serves {}: stop it, or give this one another --runtime-dir", .path.display())]
    InUse { path: PathBuf },
    #[error("{} is not a socket: remove it or change --runtime-dir", .path.display())]
    InTheWay { path: PathBuf },
    #[error("cannot make the socket {}", .path.display())]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Takes the socket, for the agent's user only.
pub(super) fn bind(runtime_dir: &Path) -> Result<UnixListener, BindError> {
    prepare_directory(runtime_dir)?;
    let path = runtime_dir.join(SOCKET_NAME);
    let bind_error = |source| BindError::Bind { path: path.clone(), source };
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(bind_error(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::InTheWay { path }),
        Ok(_) if BlockingStream::connect(&path).is_ok() => return Err(BindError::InUse { path }),
        // Left by an agent that is gone.
        Ok(_) => fs::remove_file(&path).map_err(bind_error)?,
    }
    let listener = UnixListener::bind(&path).map_err(bind_error)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(bind_error)?;
    Ok(listener)
}

fn prepare_directory(path: &Path) -> Result<(), BindError> {
    let error = |source| BindError::Directory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    let owner = fs::metadata(path).map_err(error)?.uid();
    if owner != own_user() {
        return Err(BindError::ForeignDirectory { path: path.to_owned(), owner });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(error)
}

fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Accepts connections, each served by a task of its own.
pub(super) async fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    serve(stream, &shared).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the CNI socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn serve(mut stream: UnixStream, shared: &Shared) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own_user() => {}
        Ok(peer) => {
            tracing::warn!(user = peer.uid(), pid = ?peer.pid(), "refused a peer that is not root");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "refused a peer whose user is not known");
            return;
        }
    }
    let reply = match timeout(REQUEST_DEADLINE, receive(&mut stream)).await {
        Ok(Ok(request)) => shared.answer_and_note(request).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(invalid(format!("no request within {} s", REQUEST_DEADLINE.as_secs()))),
    };
    let reply = reply.unwrap_or_else(Reply::Error);
    match wire::encode_reply(reply) {
        Ok(line) => {
            // A peer that has gone away is not an error: whatever it asked for is done, and DEL will come.
            let _ = timeout(REQUEST_DEADLINE, stream.write_all(&line)).await;
        }
        Err(error) => tracing::error!(%error, "cannot write a reply"),
    }
}

async fn receive(stream: &mut UnixStream) -> Result<Request, Error> {
    let mut buffer = LineBuffer::default();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await.map_err(|error| invalid(format!("no request: {error}")))?;
        if let Some(line) = buffer.push(&chunk[..count]).map_err(|error| invalid(error.to_string()))? {
            return parse(&line);
        }
    }
}

/// Looks at the version first: the rest of another version's request may have another form.
fn parse(line: &[u8]) -> Result<Request, Error> {
    let mut envelope: Value = wire::decode(line).map_err(|error| invalid(error.to_string()))?;
    let version = envelope.get("version").and_then(Value::as_u64);
    if version != Some(API_VERSION.into()) {
        let version = version.map_or("none".to_owned(), |version| version.to_string());
        return Err(Error {
            kind: ErrorKind::Incompatible,
            message: format!(
                "the agent speaks version {API_VERSION} of its socket, the peer {version}: install agent, plugin and \
                 command of one release"
            ),
        });
    }
    let request = envelope.get_mut("request").map(Value::take).unwrap_or_default();
    serde_json::from_value(request).map_err(|error| invalid(format!("the request cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> ErrorKind {
        parse(line.as_bytes()).unwrap_err().kind
    }

    #[test]
    fn another_version_is_incompatible_whatever_it_asks() {
        assert_eq!(kind(r#"{"version":2,"request":{"do":"unheard-of"}}"#), ErrorKind::Incompatible);
        assert_eq!(kind("{}"), ErrorKind::Incompatible);
    }

    #[test]
    fn a_request_that_cannot_be_read_is_invalid() {
        assert_eq!(kind("nonsense"), ErrorKind::Invalid);
        assert_eq!(kind(r#"{"version":1,"request":{"do":"unheard-of"}}"#), ErrorKind::Invalid);
        assert_eq!(kind(r#"{"version":1}"#), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn the_socket_is_for_the_owner_only_and_replaces_one_that_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("run");
        for _ in 0..2 {
            let listener = bind(&runtime_dir).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
            assert_eq!((mode(&runtime_dir), mode(&runtime_dir.join(SOCKET_NAME))), (0o700, 0o600));
            drop(listener);
        }
    }

    #[tokio::test]
    async fn a_socket_in_use_is_left_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let _first = bind(dir.path()).unwrap();
        assert!(matches!(bind(dir.path()), Err(BindError::InUse { .. })));
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_the_socket_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SOCKET_NAME), "precious").unwrap();
        let error = bind(dir.path()).unwrap_err().to_string();
        assert!(error.contains(SOCKET_NAME) && error.contains("--runtime-dir"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(SOCKET_NAME)).unwrap(), "precious");
    }
}
