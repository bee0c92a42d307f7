//! What programs of a node tell in the format of Prometheus.
use std::{
    error::Error,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, Node, node::RUNTIME_METRICS};
use crate::machine::netns::Netns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls that were made, and the time they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub count: u32,
    pub time: Duration,
}

impl Calls {
    /// These and those.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self { count: self.count + others.count, time: self.time + others.time }
    }

    /// What was added since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { count: self.count - earlier.count, time: self.time.saturating_sub(earlier.time) }
    }

    /// The mean time of a call.
    #[must_use]
    pub fn mean(self) -> Duration {
        self.time.checked_div(self.count).unwrap_or_default()
    }
}

impl Cluster {
    /// The calls of CNI plugins on a node by its container runtime: ADD is `set_up_pod`, DEL `tear_down_pod`.
    pub fn plugin_calls(&self, node: &Node, operation: &str) -> Result<Calls> {
        let netns = Netns::open(&self.name().part(&node.name()))?;
        let text = netns.run(|| get(RUNTIME_METRICS.into(), "/v1/metrics"))??;
        Ok(Calls {
            count: sample(&text, "_count", operation)?,
            time: Duration::try_from_secs_f64(sample(&text, "_sum", operation)?).context("a time")?,
        })
    }
}

/// The value of a sample of the histogram; 0 while there is none.
fn sample<T: FromStr<Err: Error + Send + Sync + 'static> + Default>(
    text: &str,
    suffix: &str,
    operation: &str,
) -> Result<T> {
    let name = format!("network_plugin_operations_duration_seconds_seconds{suffix}{{");
    let Some(line) = text.lines().find(|line| line.contains(&name) && line.contains(operation)) else {
        return Ok(T::default());
    };
    line.rsplit(' ').next().unwrap_or_default().parse().with_context(|| format!("read {line}"))
}

fn get(from: SocketAddr, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&from, PATIENCE).with_context(|| format!("connect to {from}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").context("send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read an answer")?;
    ensure!(answer.starts_with("HTTP/1.0 200"), "{from}{path}: {answer:.100}");
    Ok(answer)
}
