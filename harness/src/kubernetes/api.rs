//! The cluster's API, for callers without a runtime: typed reads and writes, and waiting.
use std::{fmt::Debug, future::Future, path::Path, sync::mpsc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::StreamExt as _;
use kube::{
    Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ClusterResourceScope, NamespaceResourceScope},
    runtime::watcher::watch_object,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};

use crate::{eventually::eventually, probe::watch::now};

/// Who owns the fields that tests apply.
pub(super) const FIELD_MANAGER: &str = "millrace-tests";

/// A server that does not accept within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What every object offers.
pub trait Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug {}

impl<T: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug> Object for T {}

/// A client of one cluster.
#[derive(Debug)]
pub struct Api {
    runtime: Runtime,
    client: ClientCell,
}

/// `kube::Client` shows nothing of itself.
struct ClientCell(Client);

impl Debug for ClientCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.0.default_namespace()).finish()
    }
}

impl Api {
    /// Makes a client; it connects with the first request.
    pub fn connect(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("start a runtime")?;
        let read = Kubeconfig::read_from(kubeconfig);
        let read = read.with_context(|| format!("read {}", kubeconfig.display()))?;
        let client = runtime.block_on(async {
            let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
            config.connect_timeout = Some(CONNECT_TIMEOUT);
            anyhow::Ok(Client::try_from(config)?)
        });
        let client = client.with_context(|| format!("client of {}", kubeconfig.display()))?;
        Ok(Self { runtime, client: ClientCell(client) })
    }

    /// The asynchronous client, for watches.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// Runs a future to its end, for what this type does not offer.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// An error unless the API server is ready for everything.
    pub fn ready(&self) -> Result<()> {
        let request = http_get("/readyz")?;
        let text = self.run(self.client.0.request_text(request)).context("ask for /readyz")?;
        if text == "ok" { Ok(()) } else { bail!("/readyz says {text:?}") }
    }

    /// Objects of a namespace.
    #[must_use]
    pub fn namespaced<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Objects<'_, K> {
        Objects { api: self, objects: kube::Api::namespaced(self.client(), namespace) }
    }

    /// Objects that have no namespace.
    #[must_use]
    pub fn cluster_wide<K: Object + Resource<Scope = ClusterResourceScope>>(&self) -> Objects<'_, K> {
        Objects { api: self, objects: kube::Api::all(self.client()) }
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("make a request")
}

/// A moment that is waited for.
#[derive(Debug)]
pub struct Moment {
    watch: JoinHandle<Result<Duration>>,
}

impl Moment {
    /// Waits for it.
    pub fn wait(self, api: &Api) -> Result<Duration> {
        api.run(self.watch).context("a watch panicked")?
    }
}

/// Objects of one kind and place.
#[derive(Debug)]
pub struct Objects<'a, K> {
    api: &'a Api,
    objects: kube::Api<K>,
}

impl<K: Object> Objects<'_, K> {
    pub fn get(&self, name: &str) -> Result<K> {
        self.api.run(self.objects.get(name)).with_context(|| Self::called("get", name))
    }

    /// The object, or none when there is no such object.
    pub fn find(&self, name: &str) -> Result<Option<K>> {
        self.api.run(self.objects.get_opt(name)).with_context(|| Self::called("get", name))
    }

    /// All that a label selector chooses; all objects when it is empty.
    pub fn list(&self, labels: &str) -> Result<Vec<K>> {
        let list = self.api.run(self.objects.list(&ListParams::default().labels(labels)));
        Ok(list.with_context(|| Self::called("list", labels))?.items)
    }

    pub fn create(&self, object: &K) -> Result<K> {
        let name = object.meta().name.clone().unwrap_or_default();
        let created = self.api.run(self.objects.create(&PostParams::default(), object));
        created.with_context(|| Self::called("create", &name))
    }

    /// Makes the object be as given, whether or not it is there already.
    pub fn apply(&self, object: &K) -> Result<K> {
        let name = object.meta().name.clone().context("an object to apply has a name")?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api.run(self.objects.patch(&name, &parameters, &Patch::Apply(object)));
        applied.with_context(|| Self::called("apply", &name))
    }

    /// Merges a patch into the object.
    pub fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<K> {
        let patched = self.api.run(self.objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.with_context(|| Self::called("patch", name))
    }

    /// Merges a patch into the object's status, conditions by their type: what other programs said stays.
    pub fn patch_status(&self, name: &str, patch: &serde_json::Value) -> Result<K> {
        let parameters = PatchParams::default();
        let patched = self.api.run(self.objects.patch_status(name, &parameters, &Patch::Strategic(patch)));
        patched.with_context(|| Self::called("patch the status of", name))
    }

    /// Watches an object from now on, until a condition holds that does not hold yet: the moment at which the API says
    /// so first, by this machine's monotonic clock.
    pub fn moment(
        &self,
        name: &str,
        deadline: Duration,
        holds: impl Fn(&K) -> bool + Send + 'static,
    ) -> Result<Moment>
    where
        K: Send + 'static,
    {
        let (began, first) = mpsc::sync_channel(1);
        let mut states = Box::pin(watch_object(self.objects.clone(), name));
        let what = Self::called("watch", name);
        let watch = async move {
            while let Some(state) = states.next().await {
                let at = now();
                // A watch that was interrupted goes on by itself.
                let Ok(Some(object)) = state else { continue };
                if holds(&object) {
                    return Ok(at);
                }
                // Who waits has its first state already.
                let _known = began.try_send(());
            }
            bail!("{what}: it ended")
        };
        let watch = self.api.runtime.spawn(async move { timeout(deadline, watch).await.context("in time")? });
        first.recv_timeout(deadline).with_context(|| Self::called("watch", name))?;
        Ok(Moment { watch })
    }

    /// Deletes the object. One that is gone already is no error.
    pub fn delete(&self, name: &str) -> Result<()> {
        match self.api.run(self.objects.delete(name, &DeleteParams::default())) {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| Self::called("delete", name)),
        }
    }

    /// Waits until the object exists and a condition holds for it.
    pub fn wait(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        mut holds: impl FnMut(&K) -> bool,
    ) -> Result<K> {
        let kind = K::kind(&());
        eventually(format!("{kind} {name} {what}"), deadline, || {
            let object = self.get(name)?;
            if holds(&object) { Ok(object) } else { Err(anyhow!("it is not so")) }
        })
    }

    /// Waits until the object is gone.
    pub fn wait_gone(&self, name: &str, deadline: Duration) -> Result<()> {
        eventually(format!("{} {name} is gone", K::kind(&())), deadline, || match self.find(name)? {
            None => Ok(()),
            Some(_) => Err(anyhow!("it is there")),
        })
    }

    fn called(verb: &str, name: &str) -> String {
        format!("{verb} {} {name:?}", K::kind(&()))
    }
}
