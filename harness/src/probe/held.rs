//! Connections that a test holds open over several commands.
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    connect::{Connection, outcome},
    wire::{Outcome, Target},
};

/// The held connections, by number.
#[derive(Debug, Default)]
pub struct Held {
    connections: BTreeMap<u32, Connection>,
    next: u32,
}

impl Held {
    /// Opens a connection and makes a first request. It is held only when that was answered.
    pub fn open(&mut self, target: Target, timeout: Duration) -> (u32, Outcome) {
        let deadline = Instant::now() + timeout;
        let answer = Connection::open(target, deadline).and_then(|mut connection| {
            let answer = connection.exchange(deadline)?;
            self.connections.insert(self.next, connection);
            Ok(answer)
        });
        let held = self.next;
        self.next += 1;
        (held, outcome(answer))
    }

    /// One more request on a connection.
    pub fn exchange(&mut self, held: u32, timeout: Duration) -> Outcome {
        match self.connections.get_mut(&held) {
            Some(connection) => outcome(connection.exchange(Instant::now() + timeout)),
            None => Outcome::Failed(format!("no connection {held} is held")),
        }
    }

    /// What `getpeername` says of a connection.
    pub fn peer_name(&self, held: u32) -> io::Result<SocketAddr> {
        self.connections.get(&held).ok_or(io::ErrorKind::NotFound)?.peer_name()
    }

    /// Makes a UDP socket send to another address.
    pub fn redirect(&mut self, held: u32, to: SocketAddr) -> io::Result<()> {
        self.connections.get_mut(&held).ok_or(io::ErrorKind::NotFound)?.redirect(to)
    }

    /// Closes a connection. One that is closed already is no error.
    pub fn close(&mut self, held: u32) {
        self.connections.remove(&held);
    }
}
