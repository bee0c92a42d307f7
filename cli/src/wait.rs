//! Waiting until what the source shows is in force.
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent_api::{Applied, Reply, Request, SOCKET_NAME, client::call};

/// Longer than the agent waits for a manifest that is being written.
const PATIENCE: Duration = Duration::from_secs(15);

/// Time between two questions while something is missing.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the agent says that all is in force, but not longer than so long. Returns what is missing then.
pub(crate) fn until_applied(runtime_dir: &Path, patience: Duration) -> Vec<String> {
    let socket = runtime_dir.join(SOCKET_NAME);
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let missing = match call(&socket, Request::Applied, left.clamp(PAUSE, PATIENCE)) {
            Ok(Reply::Applied(Applied { missing })) => missing,
            Ok(reply) => vec![format!("the agent answered {reply:?}")],
            Err(error) => vec![error.to_string()],
        };
        if missing.is_empty() || left <= PAUSE {
            return missing;
        }
        thread::sleep(PAUSE);
    }
}
