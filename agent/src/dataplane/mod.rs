//! The kernel's side of the agent: programs, maps and links. The only module that imports `aya`.
mod apply;
mod attach;
mod cgroup;
mod dump;
mod filter;
mod gc;
mod guard;
mod handover;
mod hook;
mod load;
mod lock;
mod maps;
mod preflight;
mod readings;
mod remove;
mod rollback;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    net::IpAddr,
    sync::Arc,
};

use agent_api::netns;
use agent_core::{
    entry,
    model::{endpoint::Endpoint, node::Services},
    observed::Observed,
    plan::Plan,
};
use bpf_maps::{MillraceDir, Pin};
use dataplane_common::{
    maps::MapId,
    route::{HostPath, Prefix, slot},
};
use ipnetwork::IpNetwork;
use zerocopy::IntoBytes as _;

pub(crate) use self::{
    apply::ApplyReport, guard::Guarded, maps::Sizes, readings::Readings, remove::claim, rollback::rollback,
};
pub use self::{
    attach::AttachError, load::LoadError, lock::LockError, maps::MapsError, preflight::PreflightError,
};
use self::{
    attach::{Interface, Links},
    gc::{Collector, Marker},
    hook::{LinkName, PodHook, UplinkHook},
    load::{LoadOptions, Programs},
    maps::{Maps, Takeover},
};
use crate::{config::Config, health::Problems, telemetry::chain, vitals::Vitals};

/// Why the agent cannot use the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Dir(#[from] bpf_maps::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot tell the network namespace of this host by SO_NETNS_COOKIE, which Linux has since 5.14")]
    Netns(#[source] io::Error),
    #[error("cannot read the clock")]
    Clock(#[source] io::Error),
    #[error("cannot start the thread that expires conntrack entries")]
    Collector(#[source] io::Error),
}

/// The loaded programs, the open maps and what is known to be in them. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Dataplane {
    dir: MillraceDir,
    maps: Arc<Maps>,
    programs: Programs,
    links: Links,
    observed: Observed,
    collector: Collector,
    options: LoadOptions,
    /// Maps of another layout, which are in use until [`Self::take_over`].
    takeover: Option<Takeover>,
    /// Interfaces that the programs of uplinks belong on.
    uplinks: Vec<(String, u32)>,
    /// What was put right on uplinks since the last look at all hooks.
    repaired: Vec<String>,
    /// Addresses whose flows are to be deleted when they are carried over.
    gone: Vec<IpAddr>,
    /// Interfaces with filters whose links are still to come, with their indexes.
    unlinked: VecDeque<(String, u32)>,
    /// Held as long as this agent owns the directory.
    _lock: File,
}

impl Dataplane {
    /// Takes over what an earlier agent left, or makes it: the maps are checked and created, the programs loaded
    /// and put into every pinned link, the socket programs attached. No entry of a map changes. Where maps have another
    /// layout, the links are left alone until the whole cluster is in those of this agent.
    ///
    /// # Errors
    /// When something is missing; then nothing that runs in the kernel has changed.
    pub(crate) fn open(
        config: &Config,
        services: Services,
        problems: &Problems,
        vitals: &Arc<Vitals>,
    ) -> Result<Self, DataplaneError> {
        let (cgroup, by) = preflight::check(config.cgroup_root.as_deref(), config.attach)?;
        let dir = MillraceDir::new(&config.bpffs);
        dir.create()?;
        let lock = lock::acquire(&dir)?;
        let (maps, takeover) = Maps::open_or_create(&dir, &config.sizes())?;
        let maps = Arc::new(maps);
        let host_netns = netns::cookie().map_err(DataplaneError::Netns)?;
        let (cut_established, socket_lb) = (config.cut_established, !config.no_socket_lb);
        let established = [MapId::CT_EST_V4, MapId::CT_EST_V6].map(|id| maps.get(id).info().max_entries);
        let options = LoadOptions { cut_established, socket_lb, services, host_netns, established };
        tracing::info!("loading the eBPF object sha256:{}", load::object_hash());
        let links = Links::new(dir.clone(), cgroup, by);
        let pin = |id| takeover.as_ref().map_or(Pin::Current, |takeover| takeover.pin(id));
        let mut programs = Programs::load(&dir, pin, options)?;
        if !takeover.as_ref().is_some_and(Takeover::is_filling) {
            install(&links, &mut programs, options)?;
        }
        let costs = programs.verified_instructions();
        let costs: Vec<String> = costs.iter().map(|(name, count)| format!("{name} {count}")).collect();
        tracing::info!("verified instructions: {}", costs.join(", "));
        let observed = dump::observe(&maps)?;
        let (clock, marker) = (programs.clock()?, Marker::new(programs.backend_gone()?));
        let collector = marker.and_then(|marker| {
            Collector::start(
                Arc::clone(&maps),
                clock.try_clone_to_owned()?,
                marker,
                problems.clone(),
                Arc::clone(vitals),
            )
        });
        let collector = collector.map_err(DataplaneError::Collector)?;
        Ok(Self {
            dir,
            maps,
            programs,
            links,
            observed,
            collector,
            options,
            takeover,
            uplinks: Vec::new(),
            repaired: Vec::new(),
            unlinked: VecDeque::new(),
            gone: Vec::new(),
            _lock: lock,
        })
    }

    /// What is in the maps.
    pub(crate) fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(crate) fn observed_mut(&mut self) -> &mut Observed {
        &mut self.observed
    }

    /// Who translates services.
    pub(crate) const fn services(&self) -> Services {
        self.options.services
    }

    /// Puts programs into every link that leave services to another. Flows that are translated stay so.
    pub(crate) fn leave_services_to(&mut self, services: Services) -> Result<(), DataplaneError> {
        let options = LoadOptions { services, ..self.options };
        // Filters would keep the programs that they have.
        while let Some((_, linked)) = self.link_one() {
            linked?;
        }
        let mut programs = Programs::load(&self.dir, |_| Pin::Current, options)?;
        install(&self.links, &mut programs, options)?;
        self.programs = programs;
        self.options = options;
        Ok(())
    }

    /// Executes a plan.
    pub(crate) fn apply(&mut self, plan: Plan) -> ApplyReport {
        let report = apply::apply(plan.steps, &*self.maps, |step| self.observed.record(step));
        if report.services_changed {
            self.collector.services_changed();
        }
        report
    }

    /// Tells the programs where an address may be nobody's: the pod CIDRs of this node, and what holds the addresses of all
    /// services. One of each family.
    pub(crate) fn set_prefixes(
        &self,
        pods: &[IpNetwork],
        services: &[IpNetwork],
    ) -> Result<(), bpf_maps::Error> {
        let map = self.maps.get(MapId::PREFIXES);
        for (first, prefixes) in [(slot::PODS, pods), (slot::SERVICES, services)] {
            for v6 in [false, true] {
                let prefix = prefixes.iter().find(|prefix| prefix.is_ipv6() == v6);
                let value = prefix.map_or(Prefix::NONE, |prefix| {
                    let mut addr = [0; 16];
                    let bytes = entry::addr_to_bytes(prefix.network());
                    addr[..bytes.len()].copy_from_slice(&bytes);
                    Prefix::new(addr, prefix.prefix())
                });
                let slot = (first + u32::from(v6)).to_ne_bytes();
                // Programs read it while it is written: it is left alone when it is right.
                if map.lookup(&slot)?.as_deref() != Some(value.as_bytes()) {
                    map.update(&slot, value.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Tells the programs how what processes of the host send to services leaves it: IPv4, IPv6.
    pub(crate) fn set_host_paths(&self, paths: [HostPath; 2]) -> Result<(), bpf_maps::Error> {
        let map = self.maps.get(MapId::HOST_PATHS);
        for (slot, path) in (0_u32..).zip(paths) {
            let slot = slot.to_ne_bytes();
            if map.lookup(&slot)?.as_deref() != Some(path.as_bytes()) {
                map.update(&slot, path.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Attaches the programs of uplinks to these interfaces, and to no others. An interface is known by name and index.
    pub(crate) fn attach_uplinks(&mut self, uplinks: Vec<(String, u32)>) -> Result<(), AttachError> {
        // It would put back silently what somebody has detached. What cannot be put back fails below once more.
        if self.leaves_links_alone() {
            self.uplinks = uplinks;
            return Ok(());
        }
        let mut guarded = Guarded::default();
        self.guard_uplinks(&mut guarded);
        self.repaired.append(&mut guarded.repaired);
        self.uplinks = uplinks;
        let interfaces: Vec<Interface<'_>> =
            self.uplinks.iter().map(|(ifname, ifindex)| Interface { ifname, ifindex: *ifindex }).collect();
        self.links.attach_uplinks(&mut self.programs, &interfaces)
    }

    /// Attaches the programs to an endpoint of the run before.
    pub(crate) fn restore(&mut self, endpoint: &Endpoint) -> Result<(), AttachError> {
        if self.leaves_links_alone() {
            return Ok(());
        }
        let pod = Interface { ifname: &endpoint.host_ifname, ifindex: endpoint.host_ifindex };
        self.links.attach_pod(&mut self.programs, pod)
    }

    /// Attaches the programs to a new endpoint's interface. Until the maps have the endpoint, they drop what its pod
    /// sends. Its links may be left for [`Self::link_one`].
    pub(crate) fn attach(&mut self, endpoint: &Endpoint) -> Result<(), AttachError> {
        let pod = Interface { ifname: &endpoint.host_ifname, ifindex: endpoint.host_ifindex };
        if self.links.attach_new_pod(&mut self.programs, pod)? {
            self.unlinked.push_back((endpoint.host_ifname.clone(), endpoint.host_ifindex));
        }
        Ok(())
    }

    /// Attaches the links of one interface that has only filters. Returns its name, and what came of it; an interface
    /// that fails stays as it is, guarded by its filters.
    pub(crate) fn link_one(&mut self) -> Option<(String, Result<(), AttachError>)> {
        let (ifname, ifindex) = self.unlinked.pop_front()?;
        let pod = Interface { ifname: &ifname, ifindex };
        let linked = self.links.attach_pod(&mut self.programs, pod);
        if linked.is_err() {
            // Behind the others, which may succeed.
            self.unlinked.push_back((ifname.clone(), ifindex));
        }
        Some((ifname, linked))
    }

    /// Whether interfaces wait for their links.
    pub(crate) fn has_unlinked(&self) -> bool {
        !self.unlinked.is_empty()
    }

    /// Removes the links of an endpoint that is gone, and its flows.
    pub(crate) fn detach(&mut self, endpoint: &Endpoint) -> Result<(), AttachError> {
        self.forget(endpoint.ips.clone());
        self.unlinked.retain(|(ifname, _)| *ifname != endpoint.host_ifname);
        self.links.detach_pod(Interface { ifname: &endpoint.host_ifname, ifindex: endpoint.host_ifindex })
    }

    /// Deletes the flows of endpoints that are gone.
    pub(crate) fn forget(&mut self, addresses: Vec<IpAddr>) {
        if self.takeover.is_some() {
            self.gone.extend(&addresses);
        }
        if !addresses.is_empty() {
            self.collector.removed(addresses);
        }
    }

    /// Addresses of endpoints in the maps, whoever put them there.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn endpoint_addresses(&self) -> Result<Vec<IpAddr>, bpf_maps::Error> {
        let mut addresses = Vec::new();
        for map in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
            let in_use = self.takeover.as_ref().and_then(|takeover| takeover.former(map));
            let entries = in_use.unwrap_or_else(|| self.maps.get(map)).dump()?;
            addresses.extend(entries.iter().filter_map(|(key, _)| entry::addr_from_bytes(key)));
        }
        Ok(addresses)
    }

    /// Programs that are not where they should be: one sentence for each place.
    pub(crate) fn unattached<'a>(&self, endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<String> {
        let attached = match self.links.names() {
            Ok(names) => names,
            Err(error) => return vec![chain(&error)],
        };
        let missing = |names: &mut dyn Iterator<Item = String>| {
            let names: Vec<String> = names.filter(|name| !attached.contains(name)).collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        let sockets = self.options.cgroup_hooks().iter().map(|hook| hook.program().to_owned());
        let sockets = missing(&mut { sockets })
            .map(|names| format!("the socket programs {names} are not attached: restart the agent"));
        let of_pod = |endpoint: &Endpoint| {
            if self.unlinked.iter().any(|(ifname, _)| *ifname == endpoint.host_ifname) {
                return None;
            }
            let names = missing(&mut PodHook::ALL.iter().map(|hook| hook.link_name(&endpoint.host_ifname)))?;
            Some(format!(
                "pod {}: {names} is not attached: delete the pod, or restart the agent",
                endpoint.pod
            ))
        };
        let of_uplink = |(ifname, _): &(String, u32)| UplinkHook::ALL.map(|hook| hook.link_name(ifname));
        let uplinks = missing(&mut self.uplinks.iter().flat_map(of_uplink));
        let uplinks = uplinks.map(|names| format!("{names} is not attached: restart the agent"));
        sockets.into_iter().chain(uplinks).chain(endpoints.filter_map(of_pod)).collect()
    }

    /// Every program with its cost and where it is attached.
    pub(crate) fn programs(&self) -> Vec<agent_api::Program> {
        let mut attached: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in self.links.names().unwrap_or_default() {
            match LinkName::parse(&name) {
                LinkName::Pod { host_ifname, hook } => {
                    attached.entry(hook.program()).or_default().push(host_ifname);
                }
                LinkName::Uplink { ifname, hook } => {
                    attached.entry(hook.program()).or_default().push(ifname);
                }
                LinkName::Cgroup(hook) => {
                    attached.entry(hook.program()).or_default().push(self.links.cgroup_name());
                }
                LinkName::Qdisc { .. } | LinkName::Unknown => {}
            }
        }
        for (ifname, _) in &self.unlinked {
            for hook in PodHook::ALL {
                attached.entry(hook.program()).or_default().push(ifname.clone());
            }
        }
        let of_program = |(name, verified_instructions): (String, u32)| agent_api::Program {
            attached_to: attached.remove(name.as_str()).unwrap_or_default(),
            name,
            verified_instructions,
        };
        self.programs.verified_instructions().into_iter().map(of_program).collect()
    }
}

/// Puts programs into every pinned link, and on the cgroup.
fn install(links: &Links, programs: &mut Programs, options: LoadOptions) -> Result<(), DataplaneError> {
    let adopted = links.adopt(programs, options.cgroup_hooks())?;
    tracing::info!(
        "replaced the programs of {} links, removed {} stale ones",
        adopted.updated,
        adopted.stale
    );
    Ok(links.attach_cgroup(programs, options.cgroup_hooks())?)
}
