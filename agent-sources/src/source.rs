//! One interface for both sources of cluster objects.
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use agent_core::{
    model::Family,
    update::{Kind, Update},
};
use http::Uri;
use tokio::sync::{mpsc, oneshot};

use super::{
    convert::{Concern, ObjectKey, kind_name},
    manifests,
    pulse::Watches,
    watch,
};

/// Where cluster objects come from. Displayed as status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A directory of Kubernetes YAML, and the folder that keeps the last good content of its files.
    Manifests { dir: PathBuf, copies: PathBuf },
    /// The API server that a kubeconfig file names.
    Kubeconfig(PathBuf),
    /// The API server of the cluster that the agent runs in as a pod; `None`: at the address of its service.
    InCluster { address: Option<ApiServer> },
}

/// The address of an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer(Uri);

impl ApiServer {
    /// Takes `https://HOST` or `https://HOST:PORT`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        let is_address = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
        // A port that is no number is none to the parser.
        let port_is_right = authority.port_u16().is_some() || authority.as_str() == authority.host();
        (is_address && port_is_right && !authority.host().is_empty()).then(|| Self(uri.clone()))
    }

    pub(super) fn uri(&self) -> Uri {
        self.0.clone()
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.0.authority().map_or("", |authority| authority.as_str()))
    }
}

impl fmt::Display for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests { dir, .. } => write!(f, "manifests {}", dir.display()),
            Self::Kubeconfig(file) => write!(f, "kubeconfig {}", file.display()),
            Self::InCluster { address: None } => f.write_str("in-cluster"),
            Self::InCluster { address: Some(address) } => write!(f, "in-cluster, {address}"),
        }
    }
}

/// What a source saw at one moment.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the change reached the agent; programming latency counts from here.
    pub seen: Instant,
    pub batch: Batch,
}

/// Changes that belong together: the receiver applies all of them before it renders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub updates: Vec<Update>,
    pub reports: Vec<Report>,
    /// Why the EndpointSlices among the updates changed.
    pub triggers: Vec<Trigger>,
}

/// The change of a pod or Service that made an EndpointSlice change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub family: Family,
    /// By the clock of the cluster's controllers.
    pub at: SystemTime,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.reports.is_empty()
    }

    /// Appends a later batch.
    pub fn append(&mut self, mut later: Self) {
        self.updates.append(&mut later.updates);
        self.reports.append(&mut later.reports);
        self.triggers.append(&mut later.triggers);
    }
}

/// All that is wrong with a subject now; replaces the earlier report. Empty: nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub subject: Subject,
    /// One sentence each, naming object or file, field and remedy.
    pub problems: Vec<String>,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The whole source: the directory.
    Source,
    /// The watch of a kind.
    Watch(Kind),
    /// A manifest, by file name.
    File(String),
    /// The copies of the manifests.
    Copies,
    /// An object that several manifests define.
    Duplicate(ObjectKey),
    Object(ObjectKey),
    /// What this build does not carry out of an object.
    Unsupported(ObjectKey),
    /// The same, of what a kube-proxy beside this agent does.
    Outside(ObjectKey),
}

impl Subject {
    #[must_use]
    pub const fn about(object: ObjectKey, concern: Concern) -> Self {
        match concern {
            Concern::Wrong => Self::Object(object),
            Concern::Unsupported => Self::Unsupported(object),
            Concern::Outside => Self::Outside(object),
        }
    }
}

impl Subject {
    /// What it is about, in one of few words.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Watch(_) => "watch",
            Self::File(_) => "manifest",
            Self::Copies => "copies_of_manifests",
            Self::Duplicate(_) => "duplicate",
            Self::Object(_) => "object",
            Self::Unsupported(_) => "unsupported",
            Self::Outside(_) => "unsupported_from_outside",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Watch(kind) => write!(f, "watch of {}", kind_name(*kind)),
            Self::File(name) => write!(f, "manifest {name}"),
            Self::Copies => f.write_str("copies of manifests"),
            Self::Duplicate(key) => write!(f, "duplicate {key}"),
            Self::Object(key) | Self::Unsupported(key) | Self::Outside(key) => key.fmt(f),
        }
    }
}

/// A source that cannot start. What may heal by itself is retried and reported instead.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("--manifests {path}: cannot read the directory; create it, or name another")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("--manifests {path}: not a directory; name the directory that holds the manifests")]
    NotADirectory { path: PathBuf },
    #[error(
        "--manifests {path}: cannot watch for changes; raise fs.inotify.max_user_instances and max_user_watches"
    )]
    Notify {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("--kubeconfig {path}: cannot be used; name a kubeconfig file with a current context")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error(
        "in-cluster: this is no pod with a service account; run the agent in one, or give --kubeconfig FILE or \
         --manifests DIR"
    )]
    InCluster {
        #[source]
        source: kube::config::InClusterError,
    },
    #[error("{origin}: no client can be made of it; check its certificates and its server address")]
    Client {
        origin: String,
        #[source]
        source: kube::Error,
    },
}

impl SourceError {
    pub(super) fn directory(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Directory { path, source }
    }
}

/// Asks a source to look at what it can look at. Answered when what it found is among the events.
pub type Look = oneshot::Sender<()>;

/// Runs the source until the receiver is dropped, and looks when it is asked to. What watches note of themselves goes to
/// `watches`.
///
/// The updates are differences to what was sent before. `Update::Synced` of a kind follows its first complete list.
///
/// # Errors
/// When the source cannot start. Everything later is reported and retried.
pub async fn follow(
    config: &SourceConfig,
    events: mpsc::Sender<Event>,
    mut looks: mpsc::Receiver<Look>,
    watches: &Arc<Watches>,
) -> Result<(), SourceError> {
    match config {
        SourceConfig::Manifests { dir, copies } => manifests::run(dir, copies, events, looks).await,
        SourceConfig::Kubeconfig(_) | SourceConfig::InCluster { .. } => {
            // Of an API server nobody can know more than it has sent.
            let answering = async {
                while let Some(look) = looks.recv().await {
                    let _unheard = look.send(());
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = watch::run(config, events, watches) => ended,
                () = answering => Ok(()),
            }
        }
    }
}

/// Runs the source until the receiver is dropped.
///
/// # Errors
/// As [`follow`].
pub async fn run(config: &SourceConfig, events: mpsc::Sender<Event>) -> Result<(), SourceError> {
    let (_nobody, looks) = mpsc::channel(1);
    follow(config, events, looks, &Arc::default()).await
}

/// An update in one word, for tables of expectations: `+Pod shop/web` or `-Pod shop/web`.
#[cfg(test)]
pub(super) fn subject_of(update: &Update) -> String {
    use agent_core::update::Change::{Apply, Delete};
    match update {
        Update::Service(Apply(object)) => format!("+Service {}", object.name),
        Update::EndpointSlice(Apply(object)) => format!("+EndpointSlice {}", object.name),
        Update::Pod(Apply(object)) => format!("+Pod {}", object.name),
        Update::Namespace(Apply(object)) => format!("+Namespace {}", object.name),
        Update::Node(Apply(object)) => format!("+Node {}", object.name),
        Update::NetworkPolicy(Apply(object)) => format!("+NetworkPolicy {}", object.name),
        Update::Service(Delete(name)) => format!("-Service {name}"),
        Update::EndpointSlice(Delete(name)) => format!("-EndpointSlice {name}"),
        Update::Pod(Delete(name)) => format!("-Pod {name}"),
        Update::Namespace(Delete(name)) => format!("-Namespace {name}"),
        Update::Node(Delete(name)) => format!("-Node {name}"),
        Update::NetworkPolicy(Delete(name)) => format!("-NetworkPolicy {name}"),
        Update::Endpoint(Apply(endpoint)) => format!("+Endpoint {}", endpoint.pod),
        Update::Endpoint(Delete(attachment)) => format!("-Endpoint {}", attachment.container_id),
        Update::Synced(kind) => format!("synced {kind:?}"),
    }
}
