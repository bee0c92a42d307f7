//! Starting and stopping.
use std::sync::Arc;

use agent_sources::source;
use anyhow::{Context as _, Result, bail};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    cni_bin,
    cni_server::{CniServer, NodeNetwork, Options},
    config::{Command, Config},
    dataplane::{self, Dataplane},
    health::Problems,
    ipam::Living,
    metrics,
    net::{
        Netlink,
        watch::{Changes, notify_of_changes},
    },
    reconcile::{self, Inbox, Reconciler},
    uninstall,
    vitals::Vitals,
};

/// Events that wait to be taken in, before their senders wait.
const QUEUE: usize = 256;

/// Does what the command line asks for; without a command, runs the agent.
///
/// # Errors
/// When the machine cannot run it, or the source cannot be used.
pub fn run(config: &Config) -> Result<()> {
    match config.command {
        None => run_agent(config),
        Some(Command::InstallCni) => Ok(cni_bin::install(&config.cni_bin_dir).map(drop)?),
        Some(Command::Rollback) => roll_back(config),
        Some(Command::Uninstall { cut_off_pods, then }) => uninstall::uninstall(config, cut_off_pods, then),
    }
}

/// Hands the node over to an agent of the first release.
fn roll_back(config: &Config) -> Result<()> {
    let (stopped, is_stopped) = watch::channel(false);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut terminate = runtime.block_on(async { signal(SignalKind::terminate()) })?;
    runtime.spawn(async move {
        terminate.recv().await;
        // Who waits may be done.
        let _unheard = stopped.send(true);
    });
    if dataplane::rollback(&config.bpffs, || *is_stopped.borrow())? {
        tracing::info!("the agent of the first release has taken over");
        return Ok(());
    }
    bail!("stopped before another agent took over: start that of the first release, or this one")
}

/// Runs the agent until it is told to stop. It leaves the kernel as it is.
fn run_agent(config: &Config) -> Result<()> {
    tracing::info!("millrace-agent {} on node {}", env!("CARGO_PKG_VERSION"), config.node_name);
    let problems = Problems::default();
    let vitals = Arc::default();
    let dataplane = Dataplane::open(config, reconcile::remembered(config), &problems, &vitals)?;
    metrics::start(config, &vitals, dataplane.readings(), &problems)
        .context("cannot start the thread that serves metrics")?;
    // One thread for the reconciler, which may be busy for a while, and one for everybody else.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config, dataplane, problems, vitals))
}

async fn serve(config: &Config, dataplane: Dataplane, problems: Problems, vitals: Arc<Vitals>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let netlink = Netlink::open()?;
    let living = Living { pinned: dataplane.endpoint_addresses()?, ..netlink.living().await? };
    let options = Options {
        host_local_dir: config.host_local_dir.clone(),
        vitals: Arc::clone(&vitals),
        ..Options::new(config.node_name.clone(), config.runtime_dir.clone(), config.state_dir.clone())
    };
    let server = CniServer::open(options, &living)?;

    let mut reconciler = Reconciler::new(config, dataplane, netlink.clone(), problems, Arc::clone(&vitals));
    for endpoint in server.endpoints() {
        reconciler.restore(endpoint);
    }
    reconciler.recall_departed();
    reconciler.forget_others(&living.pinned);
    let (events, from_source) = mpsc::channel(QUEUE);
    let (cni_events, from_cni) = mpsc::channel(QUEUE);
    let (looks, looks_of_source) = mpsc::channel(QUEUE);
    vitals.pulse.watch_queues(events.downgrade(), cni_events.downgrade());
    let (node, node_of_server) = watch::channel(NodeNetwork::default());
    let network = Changes::default();
    let watching = tokio::spawn(notify_of_changes(network.clone()));
    let inbox = Inbox { source: from_source, cni: from_cni, node, network };
    let mut reconciling = tokio::spawn(reconciler.run(inbox));
    let mut serving = tokio::spawn(server.run(cni_events, looks, node_of_server, netlink));
    let source = config.source();

    let outcome = tokio::select! {
        ended = source::follow(&source, events, looks_of_source, &vitals.watches) => ended.context("cannot use the source of the cluster"),
        ended = &mut reconciling => ended.context("the reconciler failed"),
        ended = &mut serving => ended.context("the CNI server failed"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    watching.abort();
    tracing::info!("stopping; maps, programs and links stay in the kernel");
    outcome
}
