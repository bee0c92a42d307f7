//! Random clusters, policies and packets: the loaded programs, fed by the real compiler, agree with the oracle.
mod flow;

use std::{env, net::IpAddr, panic::resume_unwind, thread, time::SystemTime};

use agent_core::{
    model::{Family, endpoint::AttachmentId},
    oracle::{self, Choice, Subject},
    update::Update,
};
use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::{maps::MapId, net::proto, policy::Direction, verdict::DropReason};
use harness::{
    packet::{Packet, Transport, verify},
    program::{
        NO_HOST, Programs, Run, Verdict,
        addresses::{LOCAL_PODS, Place, node_ip, place, pod_ip},
        control::ControlPlane,
        fixture::{host_mac, octets, pod_mac},
        in_private_netns,
        random::{Generator, NODE},
    },
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::flow::{Flow, answering, check_rejection, following, hairpin, opening, verdict};

/// Judged packets per run, at least.
const CASES: usize = 100_000;
/// Packets between two changes of a cluster.
const PACKETS: usize = 40;
/// GRE: a protocol that is neither ICMP nor has ports.
const PORTLESS: u8 = 47;
/// Changes of one cluster.
const CHANGES: usize = 12;

/// A cluster, compiled into the maps of the loaded programs.
struct Cluster<'a> {
    programs: &'a Programs,
    interfaces: &'a [u32],
    /// Every packet to a pod comes from a process of its node.
    from_host: bool,
    control: ControlPlane<'a>,
    next_port: u16,
}

impl<'a> Cluster<'a> {
    fn new(programs: &'a Programs, interfaces: &'a [u32], from_host: bool) -> Self {
        let control = ControlPlane::new(programs, interfaces.last().copied());
        Self { programs, interfaces, from_host, control, next_port: 1024 }
    }

    /// A source port that no flow used since the maps were emptied. A protocol without ports has one flow per pair
    /// of addresses.
    fn fresh_port(&mut self, protocol: u8) -> Result<u16> {
        if self.next_port == 50_000 || protocol == PORTLESS {
            self.programs.forget_flows()?;
            self.next_port = 1024;
        }
        self.next_port += 1;
        Ok(self.next_port)
    }

    fn run_from_pod(&self, pod: u8, to: IpAddr, transport: Transport) -> Result<Run> {
        let source = pod_ip(pod, Family::of(to));
        let packet = Packet::new(source, to, transport).between(pod_mac(pod), host_mac(pod));
        self.programs.from_pod(self.interfaces[usize::from(pod)], &packet)
    }

    fn run_to_pod(&self, pod: u8, from: IpAddr, transport: Transport) -> Result<Run> {
        let destination = pod_ip(pod, Family::of(from));
        let packet = Packet::new(from, destination, transport).between(host_mac(pod), pod_mac(pod));
        self.programs.to_pod(self.interfaces[usize::from(pod)], &packet)
    }

    /// A new flow out of a pod, and its answer.
    fn check_from_pod(&mut self, flow: Flow) -> Result<()> {
        let Flow { pod, peer: destination, protocol, port } = flow;
        let client_port = self.fresh_port(protocol)?;
        let source = pod_ip(pod, Family::of(destination));
        let run = self.run_from_pod(pod, destination, opening(protocol, client_port, port))?;
        let choice = oracle::resolve(&self.control.state, NODE, destination, port, protocol);
        let backends: Vec<(IpAddr, u16)> = match choice {
            Choice::NoSuchPort => {
                ensure!(run.verdict == Verdict::Reject, "no such port in the oracle, {:?}", run.verdict);
                let has_ports = matches!(protocol, proto::TCP | proto::UDP | proto::SCTP);
                return if has_ports { check_rejection(&run, source, &flow, client_port) } else { Ok(()) };
            }
            Choice::NotAService => vec![(destination, port)],
            Choice::OneOf(backends) => backends.iter().map(|backend| (backend.addr, backend.port)).collect(),
            Choice::Reject => {
                ensure!(run.verdict == Verdict::Reject, "rejected by the oracle, {:?}", run.verdict);
                return check_rejection(&run, source, &flow, client_port);
            }
            Choice::Drop => {
                let expected = Verdict::Drop(DropReason::NoLocalBackend);
                ensure!(run.verdict == expected, "{expected:?} by the oracle, {:?}", run.verdict);
                return Ok(());
            }
        };
        let expected: Vec<(IpAddr, u16, Verdict)> = backends
            .into_iter()
            .map(|(addr, port)| {
                let to = Subject::Address(addr);
                let judgement =
                    oracle::judge(&self.control.state, Subject::Address(source), to, protocol, port);
                (addr, port, verdict(judgement.denied_here_by(), place(addr)))
            })
            .collect();
        if let Verdict::Drop(_) = run.verdict {
            ensure!(
                expected.iter().any(|(_, _, verdict)| *verdict == run.verdict),
                "{:?}, but the oracle expects one of {expected:?}",
                run.verdict
            );
            return Ok(());
        }
        let sent = verify(&run.frame)?;
        let (sender, backend) = sent.addresses().context("an IP packet")?;
        // A pod that reaches itself through a service must see another source, or it would answer itself directly.
        let is_hairpin = backend == source && destination != source;
        let expected_sender = if is_hairpin { hairpin(Family::of(source)) } else { source };
        ensure!(sender == expected_sender, "it comes from {sender}, expected {expected_sender}");
        let (_, backend_port) = sent.transport().and_then(Transport::ports).unwrap_or((0, port));
        ensure!(
            expected.contains(&(backend, backend_port, run.verdict)),
            "{:?} to {backend}:{backend_port}, but the oracle expects one of {expected:?}",
            run.verdict
        );
        self.check_answer(&flow, &sent, client_port)?;
        self.check_error(&flow, &sent)?;
        let next = self.run_from_pod(pod, destination, following(protocol, client_port, port))?;
        ensure!(
            next.verdict == run.verdict,
            "the third packet: {:?}, the first: {:?}",
            next.verdict,
            run.verdict
        );
        let next = verify(&next.frame)?;
        ensure!(next.addresses() == sent.addresses(), "the third packet goes to {:?}", next.addresses());
        Ok(())
    }

    /// The answer to an allowed flow always passes, and comes from where the client sent to.
    fn check_answer(&self, flow: &Flow, sent: &Packet, client_port: u16) -> Result<()> {
        let (client, backend) = sent.addresses().context("an IP packet")?;
        let (source_port, backend_port) =
            sent.transport().and_then(Transport::ports).unwrap_or((client_port, 0));
        let answer = answering(flow.protocol, backend_port, source_port);
        let run = match place(backend) {
            Place::LocalPod(server) => self.run_from_pod(server, client, answer)?,
            Place::OtherNode | Place::Elsewhere => self.run_to_pod(flow.pod, backend, answer)?,
        };
        let expected = match place(backend) {
            Place::LocalPod(_) => Verdict::Deliver(pod_mac(flow.pod)),
            Place::OtherNode | Place::Elsewhere => Verdict::Pass,
        };
        ensure!(run.verdict == expected, "the answer: {:?}, expected {expected:?}", run.verdict);
        let received = verify(&run.frame)?;
        let (from, _) = received.addresses().context("an IP packet")?;
        ensure!(from == flow.peer, "the answer comes from {from}, the request went to {}", flow.peer);
        if let Some(ports) = received.transport().and_then(Transport::ports) {
            ensure!(ports == (flow.port, client_port), "the answer has the ports {ports:?}");
        }
        Ok(())
    }

    /// An ICMP error about an allowed flow reaches the client, about the packet that the client sent.
    fn check_error(&self, flow: &Flow, sent: &Packet) -> Result<()> {
        let (client, backend) = sent.addresses().context("an IP packet")?;
        let (kind, code) = if client.is_ipv4() { (3, 1) } else { (1, 0) };
        let error = Transport::icmp_error(kind, code, [0; 4], sent, 8);
        let (run, expected) = match place(backend) {
            Place::LocalPod(server) => {
                (self.run_from_pod(server, client, error)?, Verdict::Deliver(pod_mac(flow.pod)))
            }
            Place::OtherNode | Place::Elsewhere => {
                (self.run_to_pod(flow.pod, backend, error)?, Verdict::Pass)
            }
        };
        ensure!(run.verdict == expected, "an error about the flow: {:?}, expected {expected:?}", run.verdict);
        let received = verify(&run.frame)?;
        let (from, to) = received.addresses().context("an IP packet")?;
        ensure!(
            (from, to) == (flow.peer, pod_ip(flow.pod, Family::of(to))),
            "the error goes from {from} to {to}"
        );
        let Some(Transport::Icmp { data, .. }) = received.transport() else {
            bail!("the error became {received:?}");
        };
        let destination = if client.is_ipv4() { &data[16..20] } else { &data[24..40] };
        ensure!(destination == octets(flow.peer), "the error quotes a packet to {destination:?}");
        Ok(())
    }

    /// A pod that sends from an address that is not its own.
    fn check_spoofed(&self, pod: u8, source: IpAddr, flow: &Flow) -> Result<()> {
        let transport = opening(flow.protocol, 1024, flow.port);
        let packet = Packet::new(source, flow.peer, transport).between(pod_mac(pod), host_mac(pod));
        let run = self.programs.from_pod(self.interfaces[usize::from(pod)], &packet)?;
        let expected = Verdict::Drop(DropReason::SpoofedAddress);
        ensure!(run.verdict == expected, "{source} out of pod {pod}: {:?}", run.verdict);
        Ok(())
    }

    /// A new flow into a pod through the host's stack, and its answer.
    fn check_to_pod(&mut self, flow: Flow) -> Result<()> {
        let Flow { pod, peer, protocol, port } = flow;
        let client_port = self.fresh_port(protocol)?;
        let run = self.run_to_pod(pod, peer, opening(protocol, client_port, port))?;
        let source = if self.from_host { Subject::OwnNode(peer) } else { Subject::Address(peer) };
        let destination = Subject::Address(pod_ip(pod, Family::of(peer)));
        let judgement = oracle::judge(&self.control.state, source, destination, protocol, port);
        let expected = match judgement.denied_here_by() {
            Some(Direction::Ingress) => Verdict::Drop(DropReason::PolicyIngress),
            Some(Direction::Egress) | None => Verdict::Pass,
        };
        ensure!(run.verdict == expected, "{:?}, expected {expected:?}", run.verdict);
        if expected == Verdict::Pass {
            let run = self.run_from_pod(pod, peer, answering(protocol, port, client_port))?;
            let expected = verdict(None, place(peer));
            ensure!(run.verdict == expected, "the answer: {:?}, expected {expected:?}", run.verdict);
        }
        Ok(())
    }
}

fn seed() -> u64 {
    let given = env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs() ^ u64::from(now.subsec_nanos())
    })
}

/// Runs random clusters until `cases` packets were judged.
fn explore(seed: u64, from_host: bool, cases: usize) -> Result<()> {
    println!("MILLRACE_SEED={seed} repeats this run");
    let mut rng = StdRng::seed_from_u64(seed);
    in_private_netns(usize::from(LOCAL_PODS) + 1, move |interfaces| {
        let programs = Programs::load(if from_host { 0 } else { NO_HOST })?;
        let (mut judged, mut clusters) = (0, 0);
        while judged < cases {
            clusters += 1;
            let mut cluster = Cluster::new(&programs, interfaces, from_host);
            let mut generator = Generator { rng: &mut rng, interfaces };
            let updates = generator.cluster();
            cluster.control.apply(updates)?;
            for change in 0..CHANGES {
                for _ in 0..PACKETS {
                    let flow = random_flow(&mut generator);
                    let is_outgoing = !from_host && generator.rng.random_bool(0.6);
                    let stranger = generator.address_of(Family::of(flow.peer));
                    let is_spoofed = is_outgoing && generator.rng.random_bool(0.03);
                    let checked = if is_spoofed && place(stranger) != Place::LocalPod(flow.pod) {
                        cluster.check_spoofed(flow.pod, stranger, &flow)
                    } else if is_outgoing {
                        cluster.check_from_pod(flow)
                    } else {
                        let peer = if from_host { node_ip(1, Family::of(stranger)) } else { stranger };
                        match place(peer) {
                            // What a local pod sends does not come through the stack.
                            Place::LocalPod(_) => continue,
                            Place::OtherNode | Place::Elsewhere => {
                                cluster.check_to_pod(Flow { peer, ..flow })
                            }
                        }
                    };
                    checked.with_context(|| {
                        format!("seed {seed}, cluster {clusters}, change {change}: outgoing {is_outgoing}, {flow:?}")
                    })?;
                    judged += 1;
                }
                // Flows are judged afresh: what an earlier state of the cluster allowed must not help.
                programs.forget_flows()?;
                let update = generator.change();
                cluster.control.apply(vec![update])?;
            }
        }
        println!("{judged} packets in {clusters} clusters judged alike");
        Ok(())
    })
}

fn random_flow(generator: &mut Generator) -> Flow {
    let family = if generator.rng.random() { Family::V4 } else { Family::V6 };
    let icmp = if family == Family::V4 { proto::ICMP } else { proto::ICMPV6 };
    let protocol = match generator.rng.random_range(0..100) {
        0..=49 => proto::TCP,
        50..=79 => proto::UDP,
        80..=89 => proto::SCTP,
        90..=98 => icmp,
        _ => PORTLESS,
    };
    let has_ports = matches!(protocol, proto::TCP | proto::UDP | proto::SCTP);
    let port = generator.destination_port();
    Flow {
        pod: generator.rng.random_range(0..LOCAL_PODS),
        peer: generator.destination(family),
        protocol,
        port: if has_ports { port } else { 0 },
    }
}

#[test]
fn a_hundred_thousand_random_flows_are_judged_as_the_oracle_judges_them() -> Result<()> {
    let seed = seed();
    let half = |seed| move || explore(seed, false, CASES / 2);
    thread::scope(|scope| {
        let halves = [seed, seed.wrapping_add(1)].map(|seed| scope.spawn(half(seed)));
        halves.into_iter().try_for_each(|half| half.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[test]
fn whatever_the_own_node_sends_to_a_pod_arrives_and_is_answered() -> Result<()> {
    explore(seed(), true, CASES / 20)
}

#[test]
fn an_endpoint_whose_pod_is_unknown_can_neither_send_nor_be_reached() -> Result<()> {
    in_private_netns(usize::from(LOCAL_PODS) + 1, |interfaces| {
        let programs = Programs::load(NO_HOST)?;
        let mut rng = StdRng::seed_from_u64(1);
        let mut cluster = Cluster::new(&programs, interfaces, false);
        let updates = Generator { rng: &mut rng, interfaces }.cluster();
        let without_pods = updates.into_iter().filter(|update| !matches!(update, Update::Pod(_)));
        cluster.control.apply(without_pods.collect())?;
        let attachment = AttachmentId { container_id: "c0".to_owned(), ifname: "eth0".to_owned() };
        let status = agent_core::render::endpoint_status(&cluster.control.state, &attachment);
        assert_eq!(status, agent_core::render::EndpointStatus::WaitingForPod);
        assert_eq!(programs.count(MapId::ENDPOINTS_V4)?, usize::from(LOCAL_PODS));
        let peer = pod_ip(1, Family::V4);
        let run = cluster.run_from_pod(0, peer, opening(proto::TCP, 4000, 80))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::PolicyEgress));
        let run = cluster.run_to_pod(0, peer, opening(proto::TCP, 4000, 80))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::PolicyIngress));
        Ok(())
    })
}
