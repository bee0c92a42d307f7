//! Plays a sequence on the loaded programs and holds each packet against the model.
use std::{collections::BTreeMap, net::IpAddr};

use agent_core::{
    model::Family,
    oracle::{self, Choice, Outcome, Subject},
    state::ClusterState,
};
use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::{config, net::proto, verdict::Hook};
use harness::{
    packet::{Packet, Transport, verify},
    program::{
        Programs, Run, Verdict,
        addresses::service_ip,
        control::ControlPlane,
        fixture::{host_mac, pod_mac},
        interface_mac,
    },
};

use crate::{
    cast::{self, Actor, PODS, SERVICES},
    model::{Expected, Model, World},
    step::{Call, Means, Policy, Server, Side, Step},
};

/// First source port, and the ports of one sequence: flows of an earlier one are never met.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 4;
const LAST_PORT: u16 = 32_000;

/// Who sends what comes in by the uplink.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

pub(crate) struct Stage<'a> {
    programs: &'a Programs,
    interfaces: &'a [u32],
    control: ControlPlane<'a>,
    first_port: u16,
    model: Model,
    /// The client, as the server sees it.
    seen: BTreeMap<Call, (IpAddr, u16)>,
}

/// The cluster at this moment, as the oracle sees it.
struct Now<'a> {
    state: &'a ClusterState,
    first_port: u16,
}

impl World for Now<'_> {
    fn allows(&self, call: &Call, from: Actor, to: Actor, port: u16) -> bool {
        self.judge(call.family, from, to, call.protocol(), port)
    }

    fn allows_icmp(&self, call: &Call, from: Actor, to: Actor) -> bool {
        let icmp = if call.family == Family::V4 { proto::ICMP } else { proto::ICMPV6 };
        self.judge(call.family, from, to, icmp, 0)
    }

    fn isolates(&self, actor: Actor) -> bool {
        let pod = Subject::Address(actor.addr(Family::V4));
        let other = Subject::Address(Actor::Outside.addr(Family::V4));
        let out = oracle::judge(self.state, pod, other, proto::TCP, 1).egress;
        let into = oracle::judge(self.state, other, pod, proto::TCP, 1).ingress;
        actor.is_local()
            && [out, into].iter().any(|side| matches!(side.outcome, Outcome::Allowed(_) | Outcome::Denied(_)))
    }

    fn backends(&self, call: &Call) -> Vec<Actor> {
        let Server::Service(n) = call.server else { return Vec::new() };
        let addr = service_ip(n, call.family);
        match oracle::resolve(
            self.state,
            harness::program::random::NODE,
            addr,
            call.asked_port(),
            call.protocol(),
        ) {
            Choice::OneOf(backends) => {
                backends.iter().filter_map(|backend| Actor::at(backend.addr)).collect()
            }
            Choice::NotAService | Choice::NoSuchPort | Choice::Reject | Choice::Drop => Vec::new(),
        }
    }

    fn client_port(&self, call: &Call) -> u16 {
        self.first_port + u16::from(call.slot)
    }
}

impl Now<'_> {
    fn judge(&self, family: Family, from: Actor, to: Actor, protocol: u8, port: u16) -> bool {
        let (source, to) = (from.addr(family), Subject::Address(to.addr(family)));
        let source = if from == Actor::Node { Subject::OwnNode(source) } else { Subject::Address(source) };
        oracle::judge(self.state, source, to, protocol, port).denied_here_by().is_none()
    }
}

impl<'a> Stage<'a> {
    pub(crate) fn new(programs: &'a Programs, interfaces: &'a [u32]) -> Result<Self> {
        let mut control = ControlPlane::new(programs, interfaces.last().copied());
        control.apply(cast::cluster(interfaces))?;
        Ok(Self {
            programs,
            interfaces,
            control,
            first_port: FIRST_PORT,
            model: Model::default(),
            seen: BTreeMap::new(),
        })
    }

    /// Plays a sequence from the beginning. An error says at which step it went wrong.
    pub(crate) fn play(&mut self, steps: &[Step]) -> Result<()> {
        self.reset()?;
        steps
            .iter()
            .enumerate()
            .try_for_each(|(number, step)| self.step(step).with_context(|| format!("at step {}", number + 1)))
    }

    fn reset(&mut self) -> Result<()> {
        self.model = Model::default();
        self.seen.clear();
        self.first_port += PORTS;
        if self.first_port > LAST_PORT {
            self.first_port = FIRST_PORT;
            self.programs.forget_flows()?;
        }
        let mut updates: Vec<_> = (0..3).map(|number| Policy::update(number, None)).collect();
        updates.extend((0..PODS).map(|n| cast::pod(n, n % 2)));
        updates.extend((0..SERVICES).flat_map(|n| cast::slices(n, 0b11111)));
        self.control.apply(updates)?;
        self.control.tidy()?;
        self.programs.forget_translations()
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Say { call, from, flags } => return self.say(call, *from, *flags),
            Step::Error { call, quoted, from, to } => return self.error(call, *quoted, *from, *to),
            Step::Policy(number, policy) => {
                self.control.apply(vec![Policy::update(*number, policy.as_ref())])?;
            }
            Step::Role { pod, role } => self.control.apply(vec![cast::pod(*pod, *role)])?,
            Step::Backends { service, pods } => {
                self.control.apply(cast::slices(*service, *pods).to_vec())?;
            }
            Step::Restart => self.control.restart()?,
        }
        let now = Now { state: &self.control.state, first_port: self.first_port };
        self.model.judge_again(&now);
        Ok(())
    }

    fn transport(&self, call: &Call, from: Side, flags: u8, (near, far): (u16, u16)) -> Transport {
        match call.means {
            Means::Tcp => Transport::tcp(near, far, flags),
            Means::Udp => Transport::udp(near, far, b"odd".to_vec()),
            Means::Echo => {
                let kind = match (call.family, from) {
                    (Family::V4, Side::Client) => 8,
                    (Family::V4, Side::Server) => 0,
                    (Family::V6, Side::Client) => 128,
                    (Family::V6, Side::Server) => 129,
                };
                // Two ends that ask each other under one identifier have one flow: whoever asked first opened it.
                let [high, low] = (self.first_port + u16::from(call.slot)).to_be_bytes();
                let high = high ^ if Self::is_first(call) { 0x80 } else { 0 };
                Transport::Icmp { kind, code: 0, rest: [high, low, 0, 1], data: vec![0; 8] }
            }
        }
    }

    /// Whether the client stands before the server: the other way round it is another identifier.
    fn is_first(call: &Call) -> bool {
        matches!(call.server, Server::Direct(server) if call.client < server)
    }

    /// Where the client sends to.
    fn asked(call: &Call) -> IpAddr {
        match call.server {
            Server::Direct(actor) => actor.addr(call.family),
            Server::Service(n) => service_ip(n, call.family),
        }
    }

    /// What one side puts on the wire; nothing before it knows the other.
    fn spoken(&mut self, call: &Call, from: Side, flags: u8) -> Option<(Actor, Packet)> {
        let family = call.family;
        let client = (call.client.addr(family), self.first_port + u16::from(call.slot));
        if from == Side::Client {
            let ports = (client.1, call.asked_port());
            let transport = self.transport(call, from, flags, ports);
            return Some((call.client, Packet::new(client.0, Self::asked(call), transport)));
        }
        let server = self.model.talk(call).server?;
        let (addr, port) = self.seen.get(call).copied().unwrap_or(client);
        let transport = self.transport(call, from, flags, (call.server_port(), port));
        Some((server, Packet::new(server.addr(family), addr, transport)))
    }

    /// Sends a packet to where it goes on this node. `receiver` matters when it does not come out of a local pod.
    fn send(&self, sender: Actor, receiver: Actor, packet: Packet) -> Result<Option<Run>> {
        let run = match (sender, receiver) {
            (Actor::Pod(n), _) if sender.is_local() => {
                let frame = packet.between(pod_mac(n), host_mac(n)).bytes();
                self.programs.run(Hook::FromPod, self.interfaces[usize::from(n)], &frame)?
            }
            (_, Actor::Pod(n)) if receiver.is_local() => {
                if sender != Actor::Node {
                    let run = self.arrive(packet.clone())?;
                    if run.verdict != Verdict::Pass {
                        return Ok(Some(run));
                    }
                }
                // The host's stack takes it from there, or sends it itself.
                let frame = packet.between(host_mac(n), pod_mac(n)).bytes();
                let ingress = if sender == Actor::Node { 0 } else { self.uplink().1 };
                self.programs.run_from(Hook::ToPod, self.interfaces[usize::from(n)], ingress, &frame)?
            }
            _ => return Ok(None),
        };
        Ok(Some(run))
    }

    /// The uplink's place among the interfaces, and its index.
    fn uplink(&self) -> (u8, u32) {
        let last = self.interfaces.len() - 1;
        (u8::try_from(last).expect("few interfaces"), self.interfaces[last])
    }

    /// A packet that comes in by the uplink.
    fn arrive(&self, packet: Packet) -> Result<Run> {
        let (at, uplink) = self.uplink();
        self.programs.run(Hook::FromNetdev, uplink, &packet.between(ROUTER_MAC, interface_mac(at)).bytes())
    }

    fn say(&mut self, call: &Call, from: Side, flags: u8) -> Result<()> {
        let Some((sender, packet)) = self.spoken(call, from, flags) else { return Ok(()) };
        let receiver = if from == Side::Client { self.model.talk(call).server } else { Some(call.client) };
        let known = self.model.talk(call).server;
        let Some(run) = self.send(sender, receiver.unwrap_or(Actor::Outside), packet)? else { return Ok(()) };
        let now = Now { state: &self.control.state, first_port: self.first_port };
        let mut expected = self.model.expect(call, from, flags, &now);
        let arrived = !matches!(run.verdict, Verdict::Drop(_) | Verdict::Reject);
        let has_twin = self.model.has_twin(call, known);
        if has_twin && !(expected == Expected::Stopped && from == Side::Client) {
            expected = Expected::Either;
        }
        match (expected, arrived) {
            (Expected::Arrives, false) => bail!("it is lost ({:?}), though it is owed", run.verdict),
            (Expected::Stopped, true) => bail!("it arrives ({:?}), though it is forbidden", run.verdict),
            _ => {}
        }
        if !arrived {
            return Ok(());
        }
        let met = self.check_arrival(call, (from, sender), &run, expected == Expected::Arrives)?;
        let now = Now { state: &self.control.state, first_port: self.first_port };
        if let Some(server) = met {
            let allowed = now.allows(call, call.client, server, call.server_port());
            let is_opened_by_server = matches!(call.server, Server::Direct(_));
            ensure!(allowed || is_opened_by_server, "it arrives at {server}, which is forbidden");
        }
        self.model.arrived(call, from, flags, met, &now);
        Ok(())
    }

    /// Checks what arrives, and who gets it: the server, if the client spoke.
    fn check_arrival(
        &mut self,
        call: &Call,
        (from, sender): (Side, Actor),
        run: &Run,
        is_owed: bool,
    ) -> Result<Option<Actor>> {
        let packet = verify(&run.frame)?;
        let (source, destination) = packet.addresses().context("an IP packet")?;
        let ports = packet.transport().and_then(Transport::ports);
        let client = (call.client.addr(call.family), self.first_port + u16::from(call.slot));
        let receiver = if is_hairpin(destination) { Some(call.client) } else { Actor::at(destination) };
        let receiver = receiver.with_context(|| format!("it goes to {destination}"))?;
        if sender.is_local() && (is_owed || from == Side::Client) {
            let place = match receiver {
                Actor::Pod(n) if receiver.is_local() => Verdict::Deliver(pod_mac(n)),
                Actor::Pod(_) => Verdict::Forward,
                Actor::Node | Actor::Outside => Verdict::Pass,
            };
            ensure!(run.verdict == place, "{:?}, but it goes to {receiver}", run.verdict);
        }
        if from == Side::Client {
            if let Some((_, port)) = ports {
                ensure!(port == call.server_port(), "it goes to port {port}");
            }
            let source_port = ports.map_or(client.1, |(port, _)| port);
            ensure!(
                source == client.0 || (is_hairpin(source) && receiver == call.client),
                "the server sees {source} as the client"
            );
            self.seen.insert(*call, (source, source_port));
            return Ok(Some(receiver));
        }
        // What is not owed may be a stray segment, which nobody translates any more.
        if is_owed {
            ensure!(destination == client.0, "the answer goes to {destination}");
            ensure!(source == Self::asked(call), "the answer comes from {source}");
            if let Some(ports) = ports {
                ensure!(ports == (call.asked_port(), client.1), "the answer has the ports {ports:?}");
            }
        }
        Ok(None)
    }

    fn error(&mut self, call: &Call, quoted: Side, from: Actor, to: Actor) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let family = call.family;
        let client = (call.client.addr(family), self.first_port + u16::from(call.slot));
        let Some(server) = self.model.talk(call).server else { return Ok(()) };
        // Each side's packet as the other one sees it.
        let about = if quoted == Side::Client {
            let (addr, port) = self.seen.get(call).copied().unwrap_or(client);
            let transport = self.transport(call, quoted, 0x10, (port, call.server_port()));
            Packet::new(addr, server.addr(family), transport)
        } else {
            let transport = self.transport(call, quoted, 0x10, (call.asked_port(), client.1));
            Packet::new(Self::asked(call), client.0, transport)
        };
        let (kind, code) = if family == Family::V4 { (3, 1) } else { (1, 0) };
        let error = Transport::icmp_error(kind, code, [0; 4], &about, 8);
        let named = about.addresses().map(|(source, _)| source);
        let is_sender = Some(to) == if quoted == Side::Client { Some(call.client) } else { Some(server) };
        let destination = named.filter(|_| is_sender).unwrap_or_else(|| to.addr(family));
        if destination != to.addr(family) && !from.is_local() {
            // A service's address, or the one that a pod has for itself: nothing routes them to the pod.
            return Ok(());
        }
        let packet = Packet::new(from.addr(family), destination, error);
        let Some(run) = self.send(from, to, packet)? else { return Ok(()) };
        let now = Now { state: &self.control.state, first_port: self.first_port };
        let mut expected = self.model.expect_error((call, quoted), (from, to), &now);
        if self.model.has_twin(call, Some(server)) {
            expected = Expected::Either;
        }
        let arrived = match to {
            // An error to an address of a service goes to no pod.
            Actor::Pod(n) if from.is_local() && to.is_local() => run.verdict == Verdict::Deliver(pod_mac(n)),
            Actor::Pod(_) | Actor::Node | Actor::Outside => {
                !matches!(run.verdict, Verdict::Drop(_) | Verdict::Reject)
            }
        };
        match (expected, arrived) {
            (Expected::Arrives, false) => bail!("it is lost ({:?}), though it is owed", run.verdict),
            (Expected::Stopped, true) => bail!("it arrives ({:?}), though it is forbidden", run.verdict),
            _ => Ok(()),
        }
    }
}

fn is_hairpin(addr: IpAddr) -> bool {
    addr == IpAddr::from(config::HAIRPIN_V4) || addr == IpAddr::from(config::HAIRPIN_V6)
}
