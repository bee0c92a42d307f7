//! Random sequences. Few ends, few ports and policies that aim at the connections at hand, so that things meet.
use agent_core::model::Family;
use harness::packet::flag;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{
    cast::{Actor, LOCAL, PODS, SERVICES},
    step::{Call, Means, Policy, Range, Rule, Server, Side, Step, Whom},
};

const POLICIES: u8 = 3;
const ACK: u8 = flag::ACK;

/// Writes a sequence.
pub(crate) struct Author<'a> {
    pub(crate) rng: &'a mut StdRng,
}

impl Author<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        *items.choose(self.rng).expect("a list that is not empty")
    }

    pub(crate) fn sequence(&mut self) -> Vec<Step> {
        let family = self.one_of(&[Family::V4, Family::V6]);
        let mut calls: Vec<(Call, u8)> =
            (0..self.rng.random_range(1..=3)).map(|_| (self.call(family), 0)).collect();
        let mut steps = Vec::new();
        for _ in 0..self.rng.random_range(0..=2) {
            let aim = calls[0].0;
            steps.push(self.policy(&aim));
        }
        for _ in 0..self.rng.random_range(10..=30) {
            let index = self.rng.random_range(0..calls.len());
            let (aim, said) = calls[index];
            let step = match self.rng.random_range(0..100) {
                0..=64 => {
                    calls[index].1 = said.saturating_add(1);
                    self.say(aim, said)
                }
                65..=80 => self.policy(&aim),
                81..=86 => {
                    Step::Role { pod: self.rng.random_range(0..PODS), role: self.rng.random_range(0..2) }
                }
                87..=91 => Step::Backends {
                    service: self.rng.random_range(0..SERVICES),
                    pods: self.rng.random_range(0..1 << PODS),
                },
                92..=97 => self.error(aim),
                98 => {
                    calls[index] = (self.call(family), 0);
                    continue;
                }
                _ if self.chance(4) => Step::Restart,
                _ => continue,
            };
            steps.push(step);
        }
        steps
    }

    fn actor(&mut self) -> Actor {
        match self.rng.random_range(0..10) {
            0..=5 => Actor::Pod(self.rng.random_range(0..LOCAL)),
            6..=7 => Actor::Pod(self.rng.random_range(LOCAL..PODS)),
            8 => Actor::Node,
            _ => Actor::Outside,
        }
    }

    fn call(&mut self, family: Family) -> Call {
        let means = self.one_of(&[Means::Tcp, Means::Tcp, Means::Tcp, Means::Udp, Means::Echo]);
        let pod = Actor::Pod(self.rng.random_range(0..LOCAL));
        let slot = self.rng.random_range(0..3);
        if means != Means::Echo && self.chance(40) {
            let server = Server::Service(self.rng.random_range(0..SERVICES));
            return Call { family, means, client: pod, slot, server };
        }
        let other = loop {
            let other = self.actor();
            if other != pod {
                break other;
            }
        };
        let (client, server) = if self.chance(50) { (pod, other) } else { (other, pod) };
        Call { family, means, client, slot, server: Server::Direct(server) }
    }

    /// Mostly what comes next in a connection, sometimes anything.
    fn say(&mut self, call: Call, said: u8) -> Step {
        let natural = match said {
            0 => (Side::Client, flag::SYN),
            1 => (Side::Server, flag::SYN | ACK),
            2 => (Side::Client, ACK),
            _ => (self.one_of(&[Side::Client, Side::Server]), ACK),
        };
        let (from, flags) = if self.chance(75) {
            natural
        } else {
            let flags = [flag::SYN, flag::SYN | ACK, ACK, ACK, flag::FIN | ACK, flag::RST, flag::RST | ACK];
            (self.one_of(&[Side::Client, Side::Server]), self.one_of(&flags))
        };
        // A backend that opens a connection of its own from the port of its service is in no service.
        let is_backend = from == Side::Server && matches!(call.server, Server::Service(_));
        let flags = if is_backend && flags == flag::SYN { ACK } else { flags };
        Step::Say { call, from, flags }
    }

    fn error(&mut self, call: Call) -> Step {
        let quoted = self.one_of(&[Side::Client, Side::Server]);
        let server = match call.server {
            Server::Direct(actor) => actor,
            Server::Service(_) => Actor::Pod(self.rng.random_range(0..PODS)),
        };
        let (sender, far) =
            if quoted == Side::Client { (call.client, server) } else { (server, call.client) };
        let from = if self.chance(60) { far } else { self.actor() };
        let to = if self.chance(60) { sender } else { self.actor() };
        Step::Error { call, quoted, from, to }
    }

    fn policy(&mut self, aim: &Call) -> Step {
        let number = self.rng.random_range(0..POLICIES);
        if self.chance(30) {
            return Step::Policy(number, None);
        }
        let server = match aim.server {
            Server::Direct(actor) => actor,
            Server::Service(_) => Actor::Pod(self.rng.random_range(0..PODS)),
        };
        let (subject, peer) = if self.chance(50) { (aim.client, server) } else { (server, aim.client) };
        let pods = match subject {
            Actor::Pod(n) if self.chance(80) => Whom::Pod(n),
            Actor::Pod(_) | Actor::Node | Actor::Outside if self.chance(50) => Whom::Everybody,
            Actor::Pod(_) | Actor::Node | Actor::Outside => Whom::Role(self.rng.random_range(0..2)),
        };
        let direction = self.rng.random_range(0..3);
        let mut rules = |wanted: bool| wanted.then(|| self.rules(peer));
        Step::Policy(
            number,
            Some(Policy { pods, ingress: rules(direction != 1), egress: rules(direction != 0) }),
        )
    }

    fn rules(&mut self, peer: Actor) -> Vec<Rule> {
        (0..self.one_of(&[0, 0, 1, 1, 1, 2]))
            .map(|_| {
                let peer = match (self.rng.random_range(0..10), peer) {
                    (0..=4, Actor::Pod(n)) => Whom::Pod(n),
                    (0..=5, actor) => Whom::Block(actor),
                    (6, _) => Whom::Everybody,
                    (7, _) => Whom::Pod(self.rng.random_range(0..PODS)),
                    _ => Whom::Role(self.rng.random_range(0..2)),
                };
                let ports = self.one_of(&[Range::Any, Range::Served, Range::Served, Range::Other]);
                Rule { peer, ports }
            })
            .collect()
    }
}
