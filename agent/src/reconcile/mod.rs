//! The loop: coalesce → apply to the state → render → plan → apply to the maps → report.
//!
//! One task owns the state, the maps and the programs. Everybody else sends it events and requests.
mod attachments;
mod catalog;
mod departed;
mod firewall;
mod former;
mod guard;
mod host_path;
mod inbox;
mod links;
mod network;
mod publish;
mod readiness;
mod routes;
mod services;
mod status;
mod takeover;
mod upkeep;
mod vitals;

use std::{path::PathBuf, sync::Arc, time::Instant};

use agent_core::{
    model::{
        endpoint::Endpoint,
        node::{Node, Services},
    },
    plan,
    problem::{ProblemLog, told_together},
    render::{self, NodeConfig},
    state::{Changed, ClusterState},
    update::{Change, Update},
};
use agent_sources::{open_problems::OpenProblems, source::Event};
use tokio::sync::oneshot;

use self::{
    attachments::Attachments,
    catalog::CatalogFile,
    departed::DepartedFile,
    firewall::FirewallWatch,
    guard::HookGuard,
    host_path::HostPaths,
    inbox::Input,
    network::Network,
    upkeep::Upkeep,
    vitals::{Noted, Rendered},
};
pub(crate) use self::{inbox::Inbox, services::remembered};
use crate::{
    backoff::Backoff,
    cni_conf::CniConf,
    cni_server::CniEvent,
    config::Config,
    dataplane::Dataplane,
    health::Problems,
    net::Netlink,
    report::Report,
    vitals::{Phase, Vitals},
};

/// The owner of everything.
#[derive(Debug)]
pub(crate) struct Reconciler {
    state: ClusterState,
    node: NodeConfig,
    dataplane: Dataplane,
    netlink: Netlink,
    network: Network,
    upkeep: Upkeep,
    attachments: Attachments,
    guard: HookGuard,
    firewall: FirewallWatch,
    /// Who wants to know what is in force.
    askers: Vec<oneshot::Sender<Vec<String>>>,
    /// When an interface is to get its links.
    links_due: Option<Instant>,
    catalog: CatalogFile,
    departed: DepartedFile,
    cni_conf: CniConf,
    /// `--services`.
    services: Services,
    services_retry: Backoff,
    takeover_retry: Backoff,
    state_dir: PathBuf,
    /// This node's object, as the uplinks were chosen by.
    own: Option<Node>,
    uplinks_chosen: bool,
    /// The host's routes may lead elsewhere than the last time they were looked at.
    routes_due: bool,
    host_paths: HostPaths,
    mtu: Option<u32>,
    /// Dirty scopes.
    pending: Changed,
    /// Scopes that could not be written, to be tried again when `backoff` says so.
    failed: Changed,
    backoff: Backoff,
    was_synced: bool,
    /// When the changes that are not in the maps yet were seen.
    unprogrammed: Vec<Instant>,
    started: Instant,
    objects: OpenProblems,
    conflicts: ProblemLog,
    problems: Problems,
    report: Report,
    noted: Noted,
    source: String,
}

impl Reconciler {
    pub(crate) fn new(
        config: &Config,
        dataplane: Dataplane,
        netlink: Netlink,
        problems: Problems,
        vitals: Arc<Vitals>,
    ) -> Self {
        let cni_conf = CniConf::new(config.cni_conf_dir.clone(), &config.runtime_dir, &config.state_dir);
        Self {
            state: ClusterState::default(),
            node: NodeConfig { node_name: config.node_name.clone(), ..NodeConfig::default() },
            dataplane,
            network: Network::new(config, problems.clone()),
            upkeep: Upkeep::new(Instant::now()),
            netlink,
            attachments: Attachments::default(),
            guard: HookGuard::new(Instant::now()),
            firewall: FirewallWatch::new(Instant::now()),
            askers: Vec::new(),
            links_due: None,
            catalog: CatalogFile::new(&config.runtime_dir, &config.node_name),
            departed: DepartedFile::new(&config.state_dir),
            cni_conf,
            services: config.services,
            services_retry: Backoff::default(),
            takeover_retry: Backoff::default(),
            state_dir: config.state_dir.clone(),
            own: None,
            uplinks_chosen: false,
            routes_due: false,
            host_paths: HostPaths::new(),
            mtu: None,
            pending: Changed::default(),
            failed: Changed::default(),
            backoff: Backoff::default(),
            was_synced: false,
            unprogrammed: Vec::new(),
            started: Instant::now(),
            objects: OpenProblems::default(),
            conflicts: ProblemLog::default(),
            problems,
            report: Report::new(),
            noted: Noted::new(vitals),
            source: config.source().to_string(),
        }
    }

    /// Runs until the other ends are gone.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        loop {
            let retries =
                [self.backoff.due(), self.services_retry.due(), self.takeover_retry.due(), self.links_due];
            let files = [self.catalog.due(), self.cni_conf.due()];
            let looks = [self.upkeep.due, self.guard.due, self.firewall.due].map(Some);
            let due = retries.into_iter().chain(files).chain(looks).flatten().min();
            let Some(wave) = inbox.wave(due).await else { return };
            let begun = Instant::now();
            self.noted.begin(begun);
            for input in wave {
                match input {
                    Input::Source(event) => self.take_event(event),
                    Input::Cni(event) => self.take_cni_event(event),
                    Input::NetworkChanged => self.upkeep.surroundings_changed(Instant::now()),
                    Input::EntriesChanged => self.upkeep.entries_changed(Instant::now()),
                }
            }
            self.noted.took(Phase::Take, begun.elapsed());
            self.keep_network().await;
            self.reconcile().await;
            self.remember_departed();
            self.note_own_node();
            self.follow_services();
            self.tell_node(&inbox);
            self.link_when_quiet();
            self.guard_when_due(Instant::now());
            self.watch_firewall(Instant::now());
            self.keep_cni_conf(Instant::now());
            self.answer_askers();
            self.publish();
        }
    }

    fn take_event(&mut self, event: Event) {
        let revision = self.state.revision();
        self.noted.seen(&event);
        let kindreds = Noted::kindreds(&event.batch.updates);
        for update in event.batch.updates {
            self.update(update);
        }
        let services = self.dataplane.services();
        let attention = |subject: &_| status::attention(subject, &self.state, &self.node.node_name, services);
        let lines = self.objects.record(event.batch.reports, attention, Instant::now());
        lines.log();
        if self.state.revision() != revision {
            self.unprogrammed.push(event.seen);
            self.noted.unprogrammed(event.seen, kindreds);
        }
    }

    fn take_cni_event(&mut self, event: CniEvent) {
        match event {
            CniEvent::Attach { endpoint, done } => {
                tracing::info!("attaching {} of pod {}", endpoint.host_ifname, endpoint.pod);
                match self.dataplane.attach(&endpoint) {
                    Ok(()) => {
                        self.postpone_links();
                        self.upkeep.spare(&endpoint, Instant::now());
                        self.attachments.wait(endpoint.attachment.clone(), done);
                        self.update(Update::Endpoint(Change::Apply(endpoint)));
                    }
                    Err(error) => attachments::refuse(done, &endpoint, &error),
                }
            }
            CniEvent::Detach { attachment, done } => {
                let endpoint =
                    self.state.endpoints().find(|endpoint| endpoint.attachment == attachment).cloned();
                if let Some(endpoint) = &endpoint {
                    tracing::info!("detaching {} of pod {}", endpoint.host_ifname, endpoint.pod);
                }
                self.attachments.leave(endpoint, done);
                self.update(Update::Endpoint(Change::Delete(attachment)));
            }
            CniEvent::Check { attachment, reply } => {
                let _unheard = reply.send(self.check(&attachment));
            }
            CniEvent::Status { reply } => {
                // Who asked may be gone.
                let _unheard = reply.send(self.status());
            }
            // Answered when this wave is in the maps.
            CniEvent::Settle { reply } => self.askers.push(reply),
            CniEvent::Health { reply } => {
                // A hook that lost its program is no reason to call the node ready until the next look.
                self.guard_hooks(Instant::now());
                let _unheard = reply.send(self.health());
            }
        }
    }

    fn update(&mut self, update: Update) {
        let is_node = matches!(update, Update::Node(_));
        let changed = self.state.apply(update);
        self.routes_due |= is_node && !changed.routes.is_empty();
        self.pending.extend(changed);
    }

    fn every_route(&self) -> Changed {
        let routes = self.state.nodes().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        Changed { routes, ..Changed::default() }
    }

    /// Brings the maps up to date, and tells those who waited for it.
    async fn reconcile(&mut self) {
        let now = Instant::now();
        if self.backoff.due().is_some_and(|due| due <= now) {
            self.pending.extend(std::mem::take(&mut self.failed));
        }
        let mut is_complete = true;
        if self.uplinks_chosen && (self.routes_due || self.pending.everything) {
            self.follow_routes().await;
        }
        while !self.pending.is_empty() && self.uplinks_chosen {
            let changed = std::mem::take(&mut self.pending);
            is_complete = self.program(&changed);
            if is_complete {
                // What the step to this state needed goes in a plan of its own.
                self.pending = self.state.tidy();
            }
        }
        if self.uplinks_chosen && is_complete {
            self.note_latencies();
            self.tell_prefixes();
            self.tell_host_paths().await;
            if self.failed.is_empty() {
                self.noted.updated();
            }
        }
        self.take_over_when_ready(now);
        self.catalog.write_if_due(&self.state, now, !self.askers.is_empty(), &self.problems);
        self.attachments.settle(&self.state, &mut self.dataplane, &self.problems);
    }

    /// Makes the maps hold the dirty scopes. Whether they do.
    fn program(&mut self, changed: &Changed) -> bool {
        let _span = tracing::info_span!("revision", number = self.state.revision()).entered();
        let begun = Instant::now();
        let desired = render::render(&self.state, &self.node, changed);
        self.noted.took(Phase::Render, begun.elapsed());
        let frontends = Rendered::of(&desired);
        let planning = Instant::now();
        self.dataplane.observed_mut().advance(self.started.elapsed());
        let plan = plan::plan(&desired, self.dataplane.observed());
        self.noted.took(Phase::Plan, planning.elapsed());
        let new = self.conflicts.record(&desired, &plan).into_iter();
        for sentence in told_together(new.map(|problem| (problem.object, problem.text))) {
            tracing::warn!("{sentence}");
        }
        self.catalog.changed(&self.state, &desired, &self.problems);
        let unplaced = plan.unplaced.clone();
        let (writes, deletes) = (plan.upserts(), plan.deletes());
        let start = Instant::now();
        let report = self.dataplane.apply(plan);
        self.noted.took(Phase::Apply, start.elapsed());
        self.noted.applied(&frontends, &report, begun.elapsed());
        if writes + deletes > 0 {
            let took = start.elapsed();
            tracing::info!(
                "{} of {writes} entries written, {} deleted, in {took:?}",
                report.written,
                report.deleted
            );
        }
        self.note(&report);
        let mut failed = unplaced;
        if !report.is_complete() {
            failed.extend(changed.clone());
        }
        if report.deleted > 0 {
            // There may be room now for what did not fit.
            self.backoff.hurry(start);
        }
        if !failed.is_empty() {
            self.failed.extend(failed);
            self.backoff.failed(start);
        } else if self.failed.is_empty() {
            self.backoff.succeeded();
        }
        report.is_complete()
    }
}

/// What a problem of an endpoint is filed under.
fn subject(endpoint: &Endpoint) -> String {
    format!("pod {}", endpoint.pod)
}
