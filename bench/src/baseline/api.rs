//! A client of the API server, to tell it what the cluster is.
use std::{
    fs::File,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::{StreamExt as _, stream};
use kube::{
    Client,
    api::{GetParams, Patch, PatchParams, PostParams},
    config::{Config, KubeConfigOptions, Kubeconfig},
    core::Request,
};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::interrupt;

/// Requests under way at once when many objects are made. More do not make the server faster.
const AT_ONCE: usize = 64;

/// How often a request under way looks whether somebody wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A connection to an API server, made from its own network namespace.
pub(crate) struct Api {
    netns: File,
    runtime: Runtime,
    client: Client,
}

impl Api {
    /// Connects as the kubeconfig says.
    pub(crate) fn open(kubeconfig: &Path, netns: &Path) -> Result<Self> {
        // One thread, the caller's: sockets belong to the namespace of the thread that makes them.
        let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime")?;
        let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
        let what = || format!("a client from {}", kubeconfig.display());
        let file = Kubeconfig::read_from(kubeconfig).with_context(what)?;
        let connect = async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            Ok::<_, anyhow::Error>(Client::try_from(config)?)
        };
        let client = runtime.block_on(connect).with_context(what)?;
        Ok(Self { netns, runtime, client })
    }

    /// Whether the server says that it is ready.
    pub(crate) fn ready(&self) -> Result<()> {
        let request = Request::new("").get("readyz", &GetParams::default()).context("encode a request")?;
        let answer = self.inside(self.client.request_text(request))?.context("ask for /readyz")?;
        ensure!(answer == "ok", "/readyz: {answer}");
        Ok(())
    }

    /// Makes objects, many at once; returns how long that took.
    pub(crate) fn create(&self, objects: &[Value]) -> Result<Duration> {
        let began = Instant::now();
        let requests = stream::iter(objects.iter().map(|object| self.send_new(object)));
        let results = requests.buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        self.inside(results)?.into_iter().try_for_each(|result| result.map(drop))?;
        Ok(began.elapsed())
    }

    /// Merges a change into an object that exists; returns when the server has it.
    pub(crate) fn merge(&self, object: &Value) -> Result<()> {
        let (path, name) = (collection(object)?, name(object)?);
        let request = Request::new(path).patch(name, &PatchParams::default(), &Patch::Merge(object));
        self.change(name, request.context("encode a change")?)
    }

    /// Merges a change into the status of an object that exists.
    pub(crate) fn merge_status(&self, object: &Value) -> Result<()> {
        let (path, name) = (collection(object)?, name(object)?);
        let (parameters, change) = (PatchParams::default(), Patch::Merge(object));
        let request = Request::new(path).patch_subresource("status", name, &parameters, &change);
        self.change(name, request.context("encode a change")?)
    }

    fn change(&self, name: &str, request: http::Request<Vec<u8>>) -> Result<()> {
        let changed = self.inside(self.client.request::<Value>(request))?;
        changed.map(drop).with_context(|| format!("change {name}"))
    }

    /// Makes an object unless it is there; returns what the server has.
    pub(crate) fn ensure(&self, object: &Value) -> Result<Value> {
        match self.inside(self.send_new(object))? {
            Err(error) if is_conflict(&error) => {
                let (path, name) = (collection(object)?, name(object)?);
                let request = Request::new(path).get(name, &GetParams::default());
                let get = self.client.request::<Value>(request.context("encode a request")?);
                self.inside(get)?.with_context(|| format!("get {name}"))
            }
            result => result,
        }
    }

    /// Runs requests on a thread inside of the network namespace, until they are answered or somebody wants to stop.
    fn inside<T: Send>(&self, requests: impl Future<Output = T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                self.runtime.block_on(async {
                    tokio::select! {
                        answered = requests => Ok(answered),
                        stopped = interruption() => Err(stopped),
                    }
                })
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    async fn send_new(&self, object: &Value) -> Result<Value> {
        let name = name(object)?;
        let body = serde_json::to_vec(object).context("encode an object")?;
        let request = Request::new(collection(object)?).create(&PostParams::default(), body);
        let send = self.client.request::<Value>(request.context("encode a request")?);
        send.await.with_context(|| format!("create {} {name}", object["kind"]))
    }
}

/// Ends when somebody wants to stop.
async fn interruption() -> anyhow::Error {
    loop {
        if let Err(interrupted) = interrupt::check() {
            return interrupted;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the server has an object of that name already.
fn is_conflict(error: &anyhow::Error) -> bool {
    const CONFLICT: u16 = 409;
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code == CONFLICT,
        _ => false,
    }
}

fn name(object: &Value) -> Result<&str> {
    object["metadata"]["name"].as_str().with_context(|| format!("an object without a name: {object}"))
}

/// The path of the objects of the kind, in the namespace if there is one.
fn collection(object: &Value) -> Result<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let group = match object["apiVersion"].as_str() {
        Some("v1") => "/api/v1".to_owned(),
        Some(version) => format!("/apis/{version}"),
        None => return Err(anyhow!("an object without apiVersion: {object}")),
    };
    let plural = match kind {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Pod" => "pods",
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "NetworkPolicy" => "networkpolicies",
        other => return Err(anyhow!("objects of kind {other} are not made here")),
    };
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}"),
        None => format!("{group}/{plural}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_the_paths_of_their_kinds() {
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "namespace": "bench", "name": "a" } });
        let path = collection(&slice).expect("a known kind");
        assert_eq!(path, "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices");
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" } });
        assert_eq!(collection(&node).expect("a known kind"), "/api/v1/nodes");
        assert!(collection(&json!({ "apiVersion": "v1", "kind": "Secret" })).is_err());
    }
}
