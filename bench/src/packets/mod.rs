//! Packets without sockets: sent by an XDP program on live frames, counted and dropped in the pod that they reach.
mod link;
mod template;

use std::{
    fs,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, Xdp},
    util::nr_cpus,
};
use bpf_maps::program::{self, ProgramInfo};
use harness::machine::netns::Netns;

pub(crate) use self::{
    link::Link,
    template::{Stream, Transport, Varies},
};
use self::{
    link::set_gro,
    template::{FRAME, TEMPLATE},
};
use crate::{measure::cpu, system::System, system::services::ENDPOINTS};

/// The object that `cargo xtask bench` builds.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/packets");
/// The interface of a pod.
const POD_LINK: &str = "eth0";
/// Frames that are sent between two runs of the network's softirq.
const BATCH: u32 = 64;
/// How long the last packets may be under way.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// A system whose pods count what reaches them. What it changes is undone when it is dropped.
pub(crate) struct PacketPath<'a> {
    system: &'a dyn System,
    ebpf: Ebpf,
}

/// What became of a run of packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    /// Time of one packet, its generation included.
    pub(crate) each: Duration,
}

impl<'a> PacketPath<'a> {
    /// Attaches the counters and lets the node's ends of the pods' links take live frames.
    pub(crate) fn open(system: &'a dyn System) -> Result<Self> {
        let object =
            fs::read(Path::new(OBJECT)).with_context(|| format!("read {OBJECT}: run `cargo xtask bench`"))?;
        let mut ebpf = EbpfLoader::new().load(&object).context("load the generator of packets")?;
        let generator: &mut Xdp =
            ebpf.program_mut("generate").context("no program `generate`")?.try_into()?;
        generator.load().context("load `generate`")?;
        let counter: &mut SchedClassifier =
            ebpf.program_mut("count").context("no program `count`")?.try_into()?;
        counter.load().context("load `count`")?;
        let pods =
            std::iter::once(system.client()).chain((0..ENDPOINTS).map(|endpoint| system.server(endpoint)));
        for pod in pods {
            pod.netns
                .run(|| counter.attach(POD_LINK, TcAttachType::Ingress))?
                .with_context(|| format!("attach `count` in {}", pod.netns.name()))?;
        }
        let path = Self { system, ebpf };
        path.set_gro(true)?;
        Ok(path)
    }

    /// What the kernel knows of the counting program.
    pub(crate) fn counter(&self) -> Result<ProgramInfo> {
        let counter: &SchedClassifier =
            self.ebpf.program("count").context("no program `count`")?.try_into()?;
        Ok(program::info(counter.fd()?.as_fd())?)
    }

    fn set_gro(&self, on: bool) -> Result<()> {
        let links = self.system.pod_links();
        self.system.node().run(|| links.iter().try_for_each(|link| set_gro(link, on)))?
    }

    /// Sends packets out of a pod's interface and waits until each has arrived.
    pub(crate) fn send(&mut self, from: &Netns, stream: &Stream, packets: u32) -> Result<Sent> {
        let link = Link::of(from, POD_LINK)?;
        let mut template: Array<_, [u8; TEMPLATE]> =
            Array::try_from(self.ebpf.map_mut("TEMPLATE").context("no map TEMPLATE")?)?;
        template.set(0, stream.template(), 0)?;
        let mut next: Array<_, u64> = Array::try_from(self.ebpf.map_mut("NEXT").context("no map NEXT")?)?;
        next.set(0, 0, 0)?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut counter: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map_mut("ARRIVED").context("no map ARRIVED")?)?;
        counter.set(0, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        let ebpf = &self.ebpf;
        let each = from.run(|| generate(ebpf, link.index, packets))??;
        let sent = Sent { packets: packets.into(), each };
        let arrived = arrived(&self.ebpf)?;
        ensure!(
            arrived == u64::from(packets),
            "{}: {arrived} of {packets} packets arrived",
            self.system.setup().kind
        );
        Ok(sent)
    }
}

/// Runs the generator on the measured CPU, inside the current namespace. The kernel's time of a packet: of the loop
/// that sends it and, at the end of each batch, takes it through the node, but not of what prepares the loop.
fn generate(ebpf: &Ebpf, ifindex: u32, packets: u32) -> Result<Duration> {
    // The thread is this run's own.
    cpu::pin()?;
    cpu::first_in_line()?;
    let generator: &Xdp = ebpf.program("generate").context("no program `generate`")?.try_into()?;
    let (frame, context) = ([0; FRAME], context(ifindex));
    let options = TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        repeat: packets,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    };
    let result = generator.test_run(options).context("send live frames")?;
    let late = u64::from(packets) - arrived(ebpf)?.min(packets.into());
    // A packet that a later softirq takes is not in the kernel's time.
    ensure!(
        late <= u64::from(BATCH.max(packets / 100)),
        "{late} of {packets} packets were left to another softirq: the measured CPU has other work"
    );
    let sent = Instant::now();
    while arrived(ebpf)? < u64::from(packets) && sent.elapsed() < UNDER_WAY {
        // What is left to ksoftirqd waits for this thread to sleep.
        std::thread::sleep(Duration::from_micros(10));
    }
    Ok(result.duration)
}

fn arrived(ebpf: &Ebpf) -> Result<u64> {
    let arrived: PerCpuArray<_, u64> = PerCpuArray::try_from(ebpf.map("ARRIVED").context("no map ARRIVED")?)?;
    Ok(arrived.get(&0, 0)?.iter().sum())
}

impl Drop for PacketPath<'_> {
    fn drop(&mut self) {
        // The links of `count` go with `ebpf`. Half-open flows would meet connections from the same ports.
        if let Err(error) = self.set_gro(false).and_then(|()| self.system.forget_flows()) {
            eprintln!("restore the links of {}: {error:#}", self.system.setup().kind);
        }
    }
}

/// `struct xdp_md` of a frame that came in on an interface.
fn context(ifindex: u32) -> [u8; 24] {
    let mut context = [0; 24];
    // `data_end` and `ingress_ifindex`.
    context[4..8].copy_from_slice(&u32::try_from(FRAME).expect("small").to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// The link-layer addresses of a pod's interface and of the node's end of it.
pub(crate) fn macs(system: &dyn System, pod: &Netns, number: usize) -> Result<([u8; 6], [u8; 6])> {
    let links = system.pod_links();
    let Some(name) = links.get(number) else { bail!("{} has no link {number}", system.setup().kind) };
    Ok((Link::of(pod, POD_LINK)?.mac, Link::of(system.node(), name)?.mac))
}
