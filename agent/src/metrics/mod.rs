//! What others may ask over HTTP: metrics, whether the agent lives and is ready, and what they would ask a kube-proxy.
//!
//! It has a thread and a runtime of its own, and reads what the parts noted and the pinned maps: nothing that keeps the
//! agent's loop or the CNI server busy keeps an answer waiting, and no client can keep those waiting.
mod health;
mod kube_proxy;
mod listen;
mod negotiate;
mod page;
mod process;
mod server;
mod site;
mod writer;

use std::{future::pending, io, sync::Arc, thread};

use agent_core::model::node::Services;
use tokio::{runtime, sync::watch};

pub(crate) use self::listen::Listen;
use self::{
    kube_proxy::{ProxyHealth, ProxyMetrics},
    page::AgentPage,
    server::{Port, serve},
    site::AgentSite,
};
use crate::{config::Config, dataplane::Readings, health::Problems, vitals::Vitals};

/// Starts to serve, for as long as the process lives.
///
/// # Errors
/// When there can be no thread. An address that cannot be had is a problem, and tried again.
pub(crate) fn start(
    config: &Config,
    vitals: &Arc<Vitals>,
    readings: Readings,
    problems: &Problems,
) -> io::Result<()> {
    let page = AgentPage::new(Arc::clone(vitals), readings, problems.clone());
    let agent = AgentSite::new(Arc::clone(vitals), page);
    let ports = [
        Port { option: "--metrics-address", listen: config.metrics_address, site: Arc::new(agent) },
        Port {
            option: "--proxy-healthz-address",
            listen: config.proxy_healthz_address,
            site: Arc::new(ProxyHealth::new(Arc::clone(vitals))),
        },
        Port {
            option: "--proxy-metrics-address",
            listen: config.proxy_metrics_address,
            site: Arc::new(ProxyMetrics::new(Arc::clone(vitals))),
        },
    ];
    let problems = problems.clone();
    let services = vitals.services.subscribe();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        runtime.block_on(async {
            let [agent, health, metrics] = ports;
            tokio::join!(
                serve(&agent, &problems),
                instead_of_kube_proxy(&health, services.clone(), &problems),
                instead_of_kube_proxy(&metrics, services, &problems),
            )
        })
    })?;
    Ok(())
}

/// Serves a port of kube-proxy's while none runs beside.
async fn instead_of_kube_proxy(
    port: &Port,
    mut services: watch::Receiver<Option<Services>>,
    problems: &Problems,
) {
    let is_alone = |services: &Option<Services>| *services == Some(Services::Millrace);
    loop {
        // The sender lives as long as the agent.
        if services.wait_for(is_alone).await.is_err() {
            return pending().await;
        }
        tokio::select! {
            () = serve(port, problems) => {}
            _ = services.wait_for(|services| !is_alone(services)) => problems.resolve(port.option),
        }
    }
}
