//! What a test and its `netprobe` processes say to each other.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The transport of a server or a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    Tcp,
    /// A UDP socket that is connected: it takes answers from one address only.
    Udp,
    /// A UDP socket that uses `sendto` and takes answers from anywhere.
    UnconnectedUdp,
}

/// An order to a `netprobe` process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Serve on this port of every address.
    Listen { transport: Transport, port: u16 },
    /// Stop serving; open connections are closed.
    Unlisten { transport: Transport, port: u16 },
    /// How many requests the server on this port has answered.
    Served { transport: Transport, port: u16 },
    /// Try all of these at once.
    Probe { targets: Vec<Target>, timeout: Duration },
    /// Ask a DNS server.
    LookUp(Question),
    /// Ask the system's resolver.
    Resolve { name: String },
    /// Begin to ask a server until it behaves as told; one at a time.
    Watch(Watch),
    /// Wait for the end of the watch.
    Watched,
    /// Open a connection and hold it.
    Open { target: Target, timeout: Duration },
    /// One request and answer on a held connection.
    Exchange { held: u32, timeout: Duration },
    /// What `getpeername` says of a held connection.
    PeerName { held: u32 },
    /// Send what follows on a held UDP socket to another address.
    Redirect { held: u32, to: SocketAddr },
    /// Connect so many UDP sockets, one after the other, and close each.
    Churn { to: SocketAddr, sockets: u32 },
    /// Close a held connection.
    Close { held: u32 },
    /// Begin a load; one at a time.
    StartLoad(LoadPlan),
    /// End the load and count.
    StopLoad,
    /// Count without ending it.
    LoadSoFar,
    /// Send frames as they are out of an interface.
    SendFrames { interface: String, frames: Vec<Vec<u8>> },
    /// Send a datagram to each target at this interval, whether or not it can be sent, until [`Command::StopLoad`].
    Flood { targets: Vec<SocketAddr>, interval: Duration },
}

/// Where to connect to, and from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    pub transport: Transport,
    pub to: SocketAddr,
    /// Bind the socket to this first.
    pub from: Option<SocketAddr>,
}

impl Target {
    #[must_use]
    pub const fn tcp(to: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, to, from: None }
    }

    #[must_use]
    pub const fn udp(to: SocketAddr) -> Self {
        Self { transport: Transport::Udp, to, from: None }
    }

    /// The same target, from a given local address.
    #[must_use]
    pub const fn from(mut self, from: SocketAddr) -> Self {
        self.from = Some(from);
        self
    }
}

/// A question to a DNS server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The server, and how to reach it.
    pub server: Target,
    /// The whole name, without a dot at its end.
    pub name: String,
    pub timeout: Duration,
}

/// A server to ask until it behaves as told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    pub target: Target,
    pub until: Until,
    /// A request without an answer for so long was blocked.
    pub timeout: Duration,
    /// When to give up.
    pub patience: Duration,
}

/// How a watched server shall behave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Somebody answers.
    Answered,
    /// The server of this name answers.
    AnsweredBy(String),
    /// Two requests in a row stay without an answer: one may be a delay of this machine.
    Blocked,
}

/// What `netprobe` answers to an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    Done,
    Outcomes(Vec<Outcome>),
    Opened {
        held: u32,
        outcome: Outcome,
    },
    Count(u64),
    Address(SocketAddr),
    Addresses(Vec<IpAddr>),
    /// On the clock of [`now`](super::watch::now).
    Seen {
        at: Duration,
    },
    Load(LoadReport),
    /// The order could not be carried out.
    Failed(String),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    Answered(Answer),
    /// `ECONNREFUSED`.
    Refused,
    /// `ECONNRESET`, or the connection ended without an answer.
    Reset,
    /// Silence.
    TimedOut,
    /// Something said that the destination cannot be reached, or there is no route.
    Unreachable,
    Failed(String),
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// The server's name.
    pub by: String,
    /// The client's address as the server saw it.
    pub saw: SocketAddr,
    /// The address that the answer came from, as the client saw it.
    pub from: SocketAddr,
}

impl Outcome {
    /// The server that answered.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::Answered(answer) => Some(&answer.by),
            Self::Refused | Self::Reset | Self::TimedOut | Self::Unreachable | Self::Failed(_) => None,
        }
    }

    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "answered by {}", answer.by),
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

/// A steady load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadPlan {
    /// One long-lived connection to each of these, with a request every `interval`.
    pub long_lived: Vec<Target>,
    /// A new connection to each of these every `interval`.
    pub fresh: Vec<Target>,
    /// Tried all the time; an answer is a breach.
    pub forbidden: Vec<Target>,
    pub interval: Duration,
    /// A request without an answer for so long is lost.
    pub timeout: Duration,
}

/// What became of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    pub answered_long_lived: u64,
    pub answered_fresh: u64,
    /// Without answer.
    pub lost: u64,
    /// Reset or refused.
    pub reset: u64,
    /// Forbidden requests that stayed without answer, as they should.
    pub denied: u64,
    /// Forbidden requests that were answered.
    pub breaches: u64,
    /// Datagrams sent by a flood.
    pub flooded: u64,
    /// The longest wait for an answer.
    pub slowest: Duration,
    /// The first few failures, in words.
    pub failures: Vec<String>,
}

/// How many failures a report tells in words.
const TOLD: usize = 8;

impl LoadReport {
    /// Lost datagrams of new UDP sockets, as far as they are told: where services move to another translator, a socket
    /// that by chance gets the port of one that asked the same service shortly before may have no answer (decision 33).
    #[must_use]
    pub fn by_chance(&self) -> u64 {
        let is_chance = |failure: &&String| failure.starts_with("new") && failure.ends_with("Udp: timed out");
        self.failures.iter().filter(is_chance).count() as u64
    }

    /// Whether nothing was lost or reset but by such a chance, and that in one of 200 new connections at most.
    #[must_use]
    pub fn has_lost_nothing_but_by_chance(&self) -> bool {
        (self.lost, self.reset) == (self.by_chance(), 0) && self.lost * 200 <= self.answered_fresh
    }

    /// Adds the counts of another report.
    pub fn add(&mut self, other: &Self) {
        self.answered_long_lived += other.answered_long_lived;
        self.answered_fresh += other.answered_fresh;
        self.lost += other.lost;
        self.reset += other.reset;
        self.denied += other.denied;
        self.breaches += other.breaches;
        self.flooded += other.flooded;
        self.slowest = self.slowest.max(other.slowest);
        let room = TOLD.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.iter().take(room).cloned());
    }

    /// Notes a failure in words, while there is room.
    pub fn tell(&mut self, failure: impl FnOnce() -> String) {
        if self.failures.len() < TOLD {
            self.failures.push(failure());
        }
    }

    /// Requests that were answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.answered_long_lived + self.answered_fresh
    }
}

/// A request or answer between client and server is one line: the server's name and the client as it saw it.
#[must_use]
pub fn answer_line(by: &str, saw: SocketAddr) -> String {
    format!("{by} {saw}\n")
}

/// Reads an [`answer_line`].
#[must_use]
pub fn parse_answer(line: &str, from: SocketAddr) -> Option<Answer> {
    let (by, saw) = line.trim_end().rsplit_once(' ')?;
    Some(Answer { by: by.to_owned(), saw: saw.parse().ok()?, from })
}

/// The address as IPv4 when it is an IPv4 one in IPv6 clothes (a dual-stack socket shows those).
#[must_use]
pub const fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
