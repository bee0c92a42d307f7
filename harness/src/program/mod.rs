//! The real programs in the real kernel, run one packet at a time by `BPF_PROG_TEST_RUN`.
pub mod addresses;
pub mod control;
pub mod fixture;
mod interfaces;
pub mod random;
mod verdict;
pub mod verifier;

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use agent_core::entry::Backend;
use anyhow::{Context as _, Result, anyhow};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::SchedClassifier};
use bpf_maps::Map;
use dataplane_common::{config::Config, endpoint::EndpointValue, maps::MapId, verdict::Hook};
use zerocopy::{FromBytes as _, IntoBytes as _};

pub use self::{
    interfaces::{in_private_netns, interface_mac, nobody_has},
    verdict::Verdict,
};
use crate::packet::Packet;

/// The object that `cargo xtask build` makes.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/dataplane");

/// A test run always carries the `ingress_ifindex` 0, so another value here makes every packet one from outside.
pub const NO_HOST: u32 = u32::MAX;

/// The tc programs, with maps of their own that no other test sees.
pub struct Programs {
    maps: BTreeMap<MapId, Map>,
    from_pod: OwnedFd,
    to_pod: OwnedFd,
    from_netdev: OwnedFd,
    to_netdev: OwnedFd,
    clock: OwnedFd,
    /// IPv4, IPv6.
    backend_gone: [OwnedFd; 2],
    /// What the counters said after the last run: only these programs write them, and one at a time.
    counted: Mutex<BTreeMap<u32, u64>>,
    /// Owns what the descriptors point to.
    _ebpf: Ebpf,
}

/// The object: the one that was built, or another that `MILLRACE_EBPF_OBJECT` names.
pub fn object() -> Result<Vec<u8>> {
    let path = env::var_os("MILLRACE_EBPF_OBJECT").map_or_else(|| OBJECT.into(), PathBuf::from);
    fs::read(&path).with_context(|| format!("read {}: run `cargo xtask build` first", path.display()))
}

/// What a program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Programs {
    /// Loads the programs. `host_ingress_ifindex`: 0 makes every packet to a pod one from its own node.
    pub fn load(host_ingress_ifindex: u32) -> Result<Self> {
        Self::load_with(Config { host_ingress_ifindex, ..Config::DEFAULT })
    }

    /// Loads them as an agent does that was told something else.
    pub fn load_with(config: Config) -> Result<Self> {
        let object = object()?;
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("CONFIG", zerocopy::IntoBytes::as_bytes(&config), true)
            .load(&object)?;
        let mut maps = BTreeMap::new();
        for id in MapId::ALL {
            let name = id.spec().name;
            let map = ebpf.map(name).ok_or_else(|| anyhow!("the object has no map {name}"))?;
            let fd = verdict::map_data(map)?.fd().as_fd().try_clone_to_owned()?;
            maps.insert(*id, Map::from_fd(fd)?);
        }
        let mut load = |name: &str| -> Result<OwnedFd> {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .ok_or_else(|| anyhow!("the object has no program {name}"))?
                .try_into()?;
            program.load()?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        let (from_pod, to_pod) = (load("from_pod")?, load("to_pod")?);
        let (from_netdev, to_netdev) = (load("from_netdev")?, load("to_netdev")?);
        let clock = load("clock")?;
        let backend_gone = [load("backend_gone_v4")?, load("backend_gone_v6")?];
        Ok(Self {
            maps,
            from_pod,
            to_pod,
            from_netdev,
            to_netdev,
            clock,
            backend_gone,
            counted: Mutex::default(),
            _ebpf: ebpf,
        })
    }

    /// One of the programs' maps.
    #[must_use]
    pub fn map(&self, id: MapId) -> &Map {
        &self.maps[&id]
    }

    /// Runs `from_pod` as if the packet came out of the pod behind `ifindex`.
    pub fn from_pod(&self, ifindex: u32, packet: &Packet) -> Result<Run> {
        self.run(Hook::FromPod, ifindex, &packet.bytes())
    }

    /// Runs `to_pod` as if the stack sent the packet to the pod behind `ifindex`.
    pub fn to_pod(&self, ifindex: u32, packet: &Packet) -> Result<Run> {
        self.run(Hook::ToPod, ifindex, &packet.bytes())
    }

    /// Runs `from_netdev` as if the packet came in by the uplink `ifindex`.
    pub fn from_netdev(&self, ifindex: u32, packet: &Packet) -> Result<Run> {
        self.run(Hook::FromNetdev, ifindex, &packet.bytes())
    }

    /// Runs `to_netdev` as if a process of the host sent the packet out of the uplink `ifindex`.
    pub fn to_netdev(&self, ifindex: u32, packet: &Packet) -> Result<Run> {
        self.run(Hook::ToNetdev, ifindex, &packet.bytes())
    }

    /// Runs a hook on a frame as it is.
    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Run> {
        self.run_from(hook, ifindex, 0, frame)
    }

    /// As [`Self::run`], for a packet that came into this host on `ingress_ifindex`.
    pub fn run_from(&self, hook: Hook, ifindex: u32, ingress_ifindex: u32, frame: &[u8]) -> Result<Run> {
        let program = self.program(hook)?;
        let mut counters = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let run = bpf_maps::program::test_run(
            program.as_fd(),
            frame,
            &verdict::context(ifindex, ingress_ifindex),
            1,
        )?;
        let after = self.counters()?;
        let counted = verdict::counted(hook, &counters, &after)?;
        *counters = after;
        Ok(Run { verdict: verdict::verdict(hook, run.retval, counted, &run.data)?, frame: run.data })
    }

    fn program(&self, hook: Hook) -> Result<&OwnedFd> {
        match hook {
            Hook::FromPod => Ok(&self.from_pod),
            Hook::ToPod => Ok(&self.to_pod),
            Hook::FromNetdev => Ok(&self.from_netdev),
            Hook::ToNetdev => Ok(&self.to_netdev),
            Hook::Connect | Hook::Sendmsg => Err(anyhow!("{} cannot be test-run", hook.name())),
        }
    }

    /// Time that one run of a hook takes over `repeat` runs on the same packet, which must not be changed by it.
    pub fn nanoseconds(&self, hook: Hook, ifindex: u32, packet: &Packet, repeat: u32) -> Result<u32> {
        let run = bpf_maps::program::test_run(
            self.program(hook)?.as_fd(),
            &packet.bytes(),
            &verdict::context(ifindex, 0),
            repeat,
        )?;
        Ok(run.duration_ns)
    }

    /// The kernel's jiffies.
    pub fn jiffies(&self) -> Result<u64> {
        let run = bpf_maps::program::test_run(self.clock.as_fd(), &[0; 64], &[], 1)?;
        let bytes =
            run.data.first_chunk().ok_or_else(|| anyhow!("the clock returned {} bytes", run.data.len()))?;
        Ok(u64::from_ne_bytes(*bytes))
    }

    /// Marks the flow of a key, as the agent does when its service has lost this backend. Whether it is marked.
    pub fn mark_backend_gone(&self, key: &[u8], backend: SocketAddr) -> Result<bool> {
        let program = &self.backend_gone[usize::from(backend.is_ipv6())];
        let backend = Backend { addr: backend.ip(), port: backend.port() };
        let mut frame = [key, &backend.to_bytes()].concat();
        frame.resize(64, 0);
        Ok(bpf_maps::program::test_run(program.as_fd(), &frame, &[], 1)?.retval == 0)
    }

    /// Entries of a map.
    pub fn count(&self, id: MapId) -> Result<usize> {
        Ok(self.map(id).count()?)
    }

    /// Empties both conntrack maps of both families.
    pub fn forget_flows(&self) -> Result<()> {
        for id in [MapId::CT_NEW_V4, MapId::CT_NEW_V6, MapId::CT_EST_V4, MapId::CT_EST_V6] {
            let map = self.map(id);
            let keys: Vec<Vec<u8>> = map.dump()?.into_iter().map(|(key, _)| key).collect();
            map.delete_batch(&keys)?;
        }
        Ok(())
    }

    /// Takes back that pods have translated flows: nothing must be left of those flows that a packet could meet.
    pub fn forget_translations(&self) -> Result<()> {
        for id in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
            let map = self.map(id);
            for (key, value) in map.dump()? {
                let mut endpoint = EndpointValue::read_from_bytes(&value)
                    .map_err(|_| anyhow!("an endpoint of {} bytes", value.len()))?;
                endpoint.translated = 0;
                map.update(&key, endpoint.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Packets by slot of `COUNTERS`, over all hooks.
    fn counters(&self) -> Result<BTreeMap<u32, u64>> {
        let mut counters = BTreeMap::new();
        for (slot, values) in self.map(MapId::COUNTERS).dump_per_cpu()? {
            let slot = u32::from_ne_bytes(slot[..].try_into().context("a slot number of four bytes")?);
            let sum = values.iter().filter_map(|v| v.first_chunk()).map(|v| u64::from_ne_bytes(*v)).sum();
            counters.insert(slot, sum);
        }
        Ok(counters)
    }
}
