//! Loading the programs: the embedded object, its constants, and the pinned maps in place of its own.
use std::{
    collections::HashMap,
    num::NonZeroU64,
    os::fd::{AsFd as _, BorrowedFd},
    panic::resume_unwind,
    path::Path,
    thread,
};

use agent_core::model::node::Services;
use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    pin::PinError,
    programs::{CgroupSockAddr, Program, ProgramError, ProgramType, SchedClassifier},
    sys::{BpfHelper, is_helper_supported},
};
use bpf_maps::{MillraceDir, Pin};
use dataplane_common::{
    config::{Config, flag},
    maps::MapId,
};
use zerocopy::IntoBytes as _;

use super::hook::{CgroupHook, PodHook, UplinkHook};

/// The programs, as `cargo xtask build` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane"));

/// Runs through `BPF_PROG_TEST_RUN` only; see [`super::gc`].
const CLOCK: &str = "clock";
/// The programs that mark flows of both families, which are never attached.
const BACKEND_GONE: [&str; 2] = ["backend_gone_v4", "backend_gone_v6"];

/// Why the programs are not in the kernel. Those of the run before stay attached.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<EbpfError>),
    #[error(
        "the eBPF object has no program {name} of the right type: build it and the agent from the same sources"
    )]
    Missing { name: &'static str },
    /// The source holds the verifier's log.
    #[error("cannot load the program {name}")]
    Program { name: &'static str, source: Box<ProgramError> },
}

/// The loaded programs. Dropping them detaches nothing: every link is pinned.
#[derive(Debug)]
pub(crate) struct Programs(Ebpf);

/// What is decided at load time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOptions {
    pub(crate) cut_established: bool,
    pub(crate) socket_lb: bool,
    pub(crate) services: Services,
    /// Cookie of the network namespace of this host.
    pub(crate) host_netns: NonZeroU64,
    /// Established flows that the maps hold: IPv4, IPv6.
    pub(crate) established: [u32; 2],
}

impl LoadOptions {
    /// The programs that belong on the cgroup. What undoes a translation stays when no more are made: sockets remember
    /// theirs.
    pub(crate) fn cgroup_hooks(self) -> &'static [CgroupHook] {
        match (self.socket_lb, self.services) {
            (false, _) => &[],
            (true, Services::Millrace | Services::Both) => &CgroupHook::ALL,
            (true, Services::KubeProxy) => &CgroupHook::UNDOING,
        }
    }

    fn constants(self) -> Config {
        let mut flags = match self.services {
            Services::Millrace => 0,
            Services::Both => flag::BESIDE_KUBE_PROXY,
            Services::KubeProxy => flag::BESIDE_KUBE_PROXY | flag::LEAVE_NEW,
        };
        if self.cut_established {
            flags |= flag::CUT_ESTABLISHED;
        }
        if !has_set_retval() {
            flags |= flag::NO_SET_RETVAL;
        }
        Config {
            host_netns: self.host_netns.get(),
            flags,
            established_max: self.established,
            ..Config::DEFAULT
        }
    }
}

/// SHA-256 of the embedded object, in hex.
pub(crate) fn object_hash() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, OBJECT);
    let nibbles = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect()
}

impl Programs {
    /// Loads every program. The maps must be open and checked: aya adopts a pinned map of any layout.
    pub(crate) fn load(
        dir: &MillraceDir,
        pin: impl Fn(MapId) -> Pin,
        options: LoadOptions,
    ) -> Result<Self, LoadError> {
        let constants = options.constants();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS).override_global(
            "CONFIG",
            constants.as_bytes(),
            true,
        );
        for &id in MapId::ALL {
            loader.map_pin_path(id.spec().name, dir.pin_path(id, pin(id)));
        }
        let ebpf = loader.load(OBJECT).map_err(|error| LoadError::Object(Box::new(error)))?;
        let mut programs = Self(ebpf);
        let of_sockets = options.cgroup_hooks().iter().map(|hook| hook.program());
        let wanted = PodHook::ALL
            .map(PodHook::program)
            .into_iter()
            .chain(UplinkHook::ALL.map(UplinkHook::program))
            .chain([CLOCK])
            .chain(BACKEND_GONE)
            .chain(of_sockets);
        programs.verify(&wanted.collect::<Vec<_>>())?;
        Ok(programs)
    }

    /// Has the kernel verify and load programs, side by side: that takes most of the agent's start.
    fn verify(&mut self, wanted: &[&'static str]) -> Result<(), LoadError> {
        let mut found: HashMap<&str, &mut Program> = self.0.programs_mut().collect();
        thread::scope(|scope| {
            let mut loading = Vec::new();
            for &name in wanted {
                let program = found.remove(name).ok_or(LoadError::Missing { name })?;
                loading.push(scope.spawn(move || load(name, program)));
            }
            loading
                .into_iter()
                .try_for_each(|loaded| loaded.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Name and number of verified instructions of each loaded program.
    pub(crate) fn verified_instructions(&self) -> Vec<(String, u32)> {
        let mut programs: Vec<_> = self
            .0
            .programs()
            .filter_map(|(name, program)| {
                Some((name.to_owned(), program.info().ok()?.verified_instruction_count()?))
            })
            .collect();
        programs.sort();
        programs
    }

    pub(crate) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        self.program(name)?.try_into().map_err(|_| LoadError::Missing { name })
    }

    pub(crate) fn sock_addr(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, LoadError> {
        self.program(name)?.try_into().map_err(|_| LoadError::Missing { name })
    }

    /// A descriptor of a loaded program.
    pub(crate) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        let program = self.0.program(name).ok_or(LoadError::Missing { name })?;
        Ok(program.fd().map_err(|source| failed(name, source))?.as_fd())
    }

    /// Pins the program that reads the kernel's clock: a note that goes when the kernel does.
    pub(crate) fn pin_clock(&mut self, path: &Path) -> Result<Result<(), PinError>, LoadError> {
        Ok(self.classifier(CLOCK)?.pin(path))
    }

    /// A descriptor of the program that reads the kernel's clock.
    pub(crate) fn clock(&self) -> Result<BorrowedFd<'_>, LoadError> {
        self.fd(CLOCK)
    }

    /// Descriptors of the programs that mark flows whose backend is gone: IPv4, IPv6.
    pub(crate) fn backend_gone(&self) -> Result<[BorrowedFd<'_>; 2], LoadError> {
        let [v4, v6] = BACKEND_GONE.map(|name| self.fd(name));
        Ok([v4?, v6?])
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, LoadError> {
        self.0.program_mut(name).ok_or(LoadError::Missing { name })
    }
}

/// Whether socket programs can choose the error that a call fails with.
fn has_set_retval() -> bool {
    // Whoever cannot be asked loads nothing either.
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(true)
}

fn load(name: &'static str, program: &mut Program) -> Result<(), LoadError> {
    let loaded = if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
        program.load()
    } else {
        let program: &mut CgroupSockAddr = program.try_into().map_err(|_| LoadError::Missing { name })?;
        program.load()
    };
    loaded.map_err(|source| failed(name, source))
}

fn failed(name: &'static str, source: ProgramError) -> LoadError {
    LoadError::Program { name, source: Box::new(source) }
}
