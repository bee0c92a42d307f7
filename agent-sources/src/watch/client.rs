//! The client of the API server.
use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::source::{SourceConfig, SourceError};

/// A server that does not accept within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this long is dead: the server ends each watch sooner.
const READ_TIMEOUT: Duration = Duration::from_secs(super::WATCH_SECONDS as u64 + 10);

/// Makes a client; does not connect yet.
///
/// # Errors
/// When the configuration cannot be read or makes no sense.
pub async fn connect(source: &SourceConfig) -> Result<Client, SourceError> {
    let mut config = match source {
        SourceConfig::Kubeconfig(path) => {
            let error = |source: KubeconfigError| SourceError::Kubeconfig { path: path.clone(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(error)?
        }
        SourceConfig::InCluster { address } => {
            let mut config = Config::incluster().map_err(|source| SourceError::InCluster { source })?;
            if let Some(address) = address {
                config.cluster_url = address.uri();
            }
            config
        }
        SourceConfig::Manifests { .. } => {
            Config::incluster().map_err(|source| SourceError::InCluster { source })?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Client::try_from(config)
        .map_err(|error| SourceError::Client { origin: source.to_string(), source: error })
}
