//! `millrace health`.
use std::{path::Path, process::ExitCode, time::Duration};

use agent_api::{Health, Reply, Request, SOCKET_NAME, client};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::Report;
use crate::args::Probe;

/// Longer than the agent waits for its own loop, so that its own message arrives.
const PATIENCE: Duration = Duration::from_secs(11);

/// The answer to a probe.
#[derive(Debug, Serialize)]
pub(crate) struct HealthReport {
    probe: Probe,
    /// What the node lacks, a sentence each.
    unmet: Vec<String>,
}

impl HealthReport {
    pub(crate) fn collect(probe: Probe, runtime_dir: &Path) -> Result<Self> {
        let socket = runtime_dir.join(SOCKET_NAME);
        let reply = client::call(&socket, Request::Health, PATIENCE).context("the agent does not answer")?;
        let Reply::Health(Health { unmet, .. }) = reply else {
            bail!("the agent on {} answered {reply:?}", socket.display());
        };
        Ok(Self { probe, unmet })
    }

    fn passes(&self) -> bool {
        match self.probe {
            // That it answered is the proof.
            Probe::Live => true,
            Probe::Ready => self.unmet.is_empty(),
        }
    }
}

impl Report for HealthReport {
    fn text(&self) -> String {
        if self.unmet.is_empty() {
            return "ready\n".to_owned();
        }
        let sentences: Vec<String> = self.unmet.iter().map(|sentence| format!("  {sentence}\n")).collect();
        format!("not ready:\n{}", sentences.concat())
    }

    fn exit_code(&self) -> ExitCode {
        if self.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    fn report(probe: Probe, unmet: &[&str]) -> HealthReport {
        HealthReport { probe, unmet: unmet.iter().map(|sentence| (*sentence).to_owned()).collect() }
    }

    #[test]
    fn a_node_that_lacks_something_is_live_and_not_ready() {
        assert!(report(Probe::Live, &["no list has come"]).passes());
        assert!(!report(Probe::Ready, &["no list has come"]).passes());
        assert_eq!(report(Probe::Ready, &["a", "b"]).text(), "not ready:\n  a\n  b\n");
        assert!(report(Probe::Ready, &[]).passes());
        assert_eq!(report(Probe::Ready, &[]).text(), "ready\n");
    }

    #[test]
    fn what_the_agent_says_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(b"{\"result\":\"health\",\"unmet\":[\"x\"]}\n").unwrap();
            line
        });
        assert_eq!(HealthReport::collect(Probe::Ready, dir.path()).unwrap().unmet, ["x"]);
        assert_eq!(server.join().unwrap(), "{\"version\":1,\"request\":{\"do\":\"health\"}}\n");
    }

    #[test]
    fn without_an_agent_neither_probe_passes() {
        let dir = tempfile::tempdir().unwrap();
        for probe in [Probe::Live, Probe::Ready] {
            let error = format!("{:#}", HealthReport::collect(probe, dir.path()).unwrap_err());
            assert!(error.contains(SOCKET_NAME), "{error}");
        }
    }
}
