//! What may arrive and what must: a state machine of the connections that shares nothing with the programs. It knows
//! who opened each connection, and asks whether policies allow that opener to reach the other end now.
//!
//! **Nothing arrives** that this forbids, whoever sends it, whatever was seen before.
//!
//! **Nothing is lost** that this allows, except:
//! - what follows in a TCP connection that was closed, or forbidden at some moment: the next SYN is owed again;
//! - what a TCP connection sends whose SYN was not tracked because no policy isolated its ends then: it is owed only
//!   while the policies would allow it whoever had opened it, and never between a pod and its own node;
//! - a datagram of the side that answers, once its flow was forbidden: the side that opened it is owed again;
//! - two connections that the backend could not tell apart (decision 9): what it sends may belong to either, and
//!   opens the one only if it is not the other's;
//! - an ICMP error about a connection that is not owed.
use std::collections::BTreeMap;

use harness::packet::flag;

use crate::{
    cast::Actor,
    step::{Call, Means, Server, Side},
};

/// What policies say now.
pub(crate) trait World {
    fn allows(&self, call: &Call, from: Actor, to: Actor, port: u16) -> bool;
    /// Whether an ICMP packet that belongs to nothing may pass.
    fn allows_icmp(&self, call: &Call, from: Actor, to: Actor) -> bool;
    fn isolates(&self, actor: Actor) -> bool;
    /// Where a new connection to a service may go.
    fn backends(&self, call: &Call) -> Vec<Actor>;
    /// The client's port, as the server sees it.
    fn client_port(&self, call: &Call) -> u16;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Arrives,
    Stopped,
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Silent,
    Open,
    Over,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    opener: Side,
    /// Either side may be the opener: what opened it may have been a packet of another connection, or a SYN of the
    /// other side came over what a reset or a policy had ended.
    is_ambiguous: bool,
    life: Life,
    /// Its opening was seen while some end was isolated, or translated.
    is_tracked: bool,
    was_forbidden: bool,
    finished: [bool; 2],
    /// The server, once it is known.
    pub(crate) server: Option<Actor>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) talks: BTreeMap<Call, Talk>,
}

const fn is_opening(call: &Call, flags: u8) -> bool {
    matches!(call.means, Means::Tcp) && flags & (flag::SYN | flag::ACK) == flag::SYN
}

impl Talk {
    const fn new(call: &Call) -> Self {
        let server = match call.server {
            Server::Direct(actor) => Some(actor),
            Server::Service(_) => None,
        };
        let finished = [false; 2];
        Self {
            opener: Side::Client,
            is_ambiguous: false,
            life: Life::Silent,
            is_tracked: false,
            was_forbidden: false,
            finished,
            server,
        }
    }

    fn allows(&self, call: &Call, opener: Side, world: &impl World) -> bool {
        self.server.is_some_and(|server| match opener {
            Side::Client => world.allows(call, call.client, server, call.server_port()),
            Side::Server => world.allows(call, server, call.client, world.client_port(call)),
        })
    }

    /// Who may have opened it.
    fn openers(&self) -> impl Iterator<Item = Side> {
        let may_be = move |side: &Side| self.is_ambiguous || *side == self.opener;
        [Side::Client, Side::Server].into_iter().filter(may_be)
    }

    /// Whether somebody who may have opened it is allowed to: otherwise nothing of it arrives.
    fn is_allowed(&self, call: &Call, world: &impl World) -> bool {
        self.openers().any(|opener| self.allows(call, opener, world))
    }

    /// Whether everybody who may have opened it is allowed to: otherwise nothing of it is owed.
    fn is_surely_allowed(&self, call: &Call, world: &impl World) -> bool {
        self.openers().all(|opener| self.allows(call, opener, world))
    }

    /// Allowed whoever opened it. A pod's policy does not know its own node by an address, so the node is nobody here.
    fn needs_no_opener(&self, call: &Call, world: &impl World) -> bool {
        call.client != Actor::Node
            && self.server != Some(Actor::Node)
            && [Side::Client, Side::Server].into_iter().all(|opener| self.allows(call, opener, world))
    }

    fn is_owed(&self, call: &Call, world: &impl World) -> bool {
        self.life == Life::Open
            && !self.was_forbidden
            && self.is_surely_allowed(call, world)
            && (self.is_tracked || self.needs_no_opener(call, world))
    }
}

impl Model {
    pub(crate) fn talk(&mut self, call: &Call) -> &mut Talk {
        self.talks.entry(*call).or_insert_with(|| Talk::new(call))
    }

    /// A packet of a call.
    pub(crate) fn expect(&mut self, call: &Call, from: Side, flags: u8, world: &impl World) -> Expected {
        let talk = self.talk(call).clone();
        let is_live = talk.life == Life::Open && talk.is_allowed(call, world);
        if from == Side::Client && matches!(call.server, Server::Service(_)) && !is_live {
            return Self::expect_from_service(call, &talk, flags, world);
        }
        let is_opening = is_opening(call, flags);
        if call.means == Means::Tcp {
            if is_opening && !is_live {
                return certain(talk.allows(call, from, world));
            }
            return if !talk.is_allowed(call, world) {
                // What its own node says to a pod is never judged.
                let from_node =
                    talk.life == Life::Silent && talk.server == Some(Actor::Node) && from == Side::Server;
                if from_node { Expected::Either } else { Expected::Stopped }
            } else if talk.is_owed(call, world) && !(is_opening && from != talk.opener) {
                Expected::Arrives
            } else {
                Expected::Either
            };
        }
        if talk.life == Life::Silent {
            let is_stray = call.means == Means::Echo && from == Side::Server;
            return match talk.allows(call, from, world) {
                true if is_stray => Expected::Either,
                allowed => certain(allowed),
            };
        }
        let is_openers = from == talk.opener && !talk.is_ambiguous;
        let is_owed = talk.is_surely_allowed(call, world) && (is_openers || !talk.was_forbidden);
        match (talk.is_allowed(call, world), is_owed) {
            (false, _) => Expected::Stopped,
            (true, true) => Expected::Arrives,
            (true, false) => Expected::Either,
        }
    }

    /// A packet to a service that chooses a backend.
    fn expect_from_service(call: &Call, talk: &Talk, flags: u8, world: &impl World) -> Expected {
        let mut candidates = world.backends(call);
        let has_backends = !candidates.is_empty();
        candidates.extend(talk.server.filter(|_| talk.life != Life::Silent));
        let allowed = |server: &Actor| world.allows(call, call.client, *server, call.server_port());
        let count = candidates.iter().filter(|server| allowed(server)).count();
        if count == 0 {
            Expected::Stopped
        } else if has_backends
            && count == candidates.len()
            && (call.means != Means::Tcp || is_opening(call, flags))
        {
            Expected::Arrives
        } else {
            Expected::Either
        }
    }

    /// The packet of a call arrived, at `server` if the client sent it.
    pub(crate) fn arrived(
        &mut self,
        call: &Call,
        from: Side,
        flags: u8,
        server: Option<Actor>,
        world: &impl World,
    ) {
        let tracked = matches!(call.server, Server::Service(_))
            || world.isolates(call.client)
            || self.talk(call).server.is_some_and(|server| world.isolates(server));
        let sent_to = self.talk(call).server;
        let is_ambiguous = from == Side::Server && self.has_twin(call, sent_to);
        let talk = self.talk(call);
        let is_live = talk.life == Life::Open && talk.is_allowed(call, world);
        let has_moved = server.is_some() && talk.server != server;
        if let Some(server) = server {
            talk.server = Some(server);
        }
        match call.means {
            Means::Tcp => {
                if is_opening(call, flags) && !is_live {
                    let server = talk.server;
                    *talk = Talk {
                        opener: from,
                        is_ambiguous,
                        life: Life::Open,
                        is_tracked: tracked,
                        server,
                        ..Talk::new(call)
                    };
                } else if talk.life == Life::Over && talk.finished != [true; 2] && flags & flag::RST == 0 {
                    // The reset was not one of this connection, or it would be silent.
                    (talk.life, talk.was_forbidden) = (Life::Open, true);
                } else if talk.life == Life::Open {
                    talk.was_forbidden |= has_moved;
                    if is_opening(call, flags) && !talk.is_tracked && tracked {
                        // Both ends may have called each other before: the one whose SYN was seen first counts.
                        talk.was_forbidden |= from != talk.opener;
                        (talk.opener, talk.is_ambiguous, talk.is_tracked) = (from, is_ambiguous, true);
                    } else if is_opening(call, flags) && talk.was_forbidden {
                        talk.is_ambiguous |= from != talk.opener;
                    }
                    if flags & flag::FIN != 0 {
                        talk.finished[from as usize] = true;
                    }
                    if flags & flag::RST != 0 || talk.finished == [true; 2] {
                        talk.life = Life::Over;
                    }
                }
            }
            Means::Udp | Means::Echo => {
                if has_moved && talk.life == Life::Open {
                    talk.was_forbidden = true;
                }
                if tracked && talk.life == Life::Silent {
                    let opener = if matches!(call.server, Server::Service(_)) { Side::Client } else { from };
                    *talk = Talk { opener, is_ambiguous, life: Life::Open, is_tracked: true, ..talk.clone() };
                }
            }
        }
    }

    /// Policies are others now.
    pub(crate) fn judge_again(&mut self, world: &impl World) {
        for (call, talk) in &mut self.talks {
            let stays =
                talk.is_surely_allowed(call, world) && (talk.is_tracked || talk.needs_no_opener(call, world));
            talk.was_forbidden |= talk.life == Life::Open && !stays;
        }
    }

    /// An ICMP error that quotes a packet of a call. It belongs to the call when it goes to who sent that packet, and
    /// comes from where it went, or from no pod.
    pub(crate) fn expect_error(
        &mut self,
        (call, quoted): (&Call, Side),
        (from, to): (Actor, Actor),
        world: &impl World,
    ) -> Expected {
        let talk = self.talk(call).clone();
        let (client, server) = (Some(call.client), talk.server);
        let (sender, receiver) = if quoted == Side::Client { (client, server) } else { (server, client) };
        let may_tell = receiver == Some(from) || !from.is_pod();
        // A segment without a SYN may have made an entry.
        let may_exist = talk.life != Life::Silent || call.means == Means::Tcp;
        let is_related = sender == Some(to) && may_tell && may_exist;
        if is_related && talk.is_tracked && talk.is_owed(call, world) {
            return Expected::Arrives;
        }
        let may = (is_related && talk.is_allowed(call, world)) || world.allows_icmp(call, from, to);
        if may { Expected::Either } else { Expected::Stopped }
    }

    /// Whether the server could take the packets of another call for those of this one.
    pub(crate) fn has_twin(&self, call: &Call, server: Option<Actor>) -> bool {
        self.talks.iter().any(|(other, talk)| {
            other != call
                && (other.family, other.means, other.client, other.slot)
                    == (call.family, call.means, call.client, call.slot)
                && (server.is_none() || talk.server.is_none() || talk.server == server)
        })
    }
}

const fn certain(allowed: bool) -> Expected {
    if allowed { Expected::Arrives } else { Expected::Stopped }
}
