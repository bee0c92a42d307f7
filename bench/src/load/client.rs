//! The client of a pod.
use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, IntoRawFd as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket},
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::wire::{Latency, Order, Report, Slice, Targets, ask};
use crate::measure::cpu;

/// A request that is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the clock is looked at for the end of a slice.
const CHUNK: usize = 16;

/// Obeys orders until standard input ends.
pub(crate) fn run() -> Result<()> {
    cpu::pin()?;
    cpu::first_in_line()?;
    let mut client = Client { kept: BTreeMap::new(), random: StdRng::seed_from_u64(7) };
    for line in io::stdin().lock().lines() {
        let line = line.context("read an order")?;
        let report = match serde_json::from_str(&line).context("not an order") {
            Ok(order) => client.obey(&order).unwrap_or_else(|error| Report::Failed(format!("{error:#}"))),
            Err(error) => Report::Failed(format!("{error:#}")),
        };
        println!("{}", serde_json::to_string(&report).context("encode a report")?);
    }
    Ok(())
}

struct Client {
    /// The open connections for round trips.
    kept: BTreeMap<SocketAddrV4, TcpStream>,
    random: StdRng,
}

impl Client {
    fn obey(&mut self, order: &Order) -> Result<Report> {
        match order {
            Order::RoundTrips { target, lasting } => self.round_trips(*target, *lasting),
            Order::Part => {
                self.kept.clear();
                Ok(Report::Parted)
            }
            Order::Connections { targets, lasting } => self.connections(targets, *lasting),
            Order::Follow { target, server, pause, patience } => follow(*target, *server, *pause, *patience),
            Order::Knock { target, patience } => knock(*target, *patience),
            Order::KnockUntilSilent { target, patience } => knock_until_silent(*target, *patience),
        }
    }

    fn round_trips(&mut self, target: SocketAddrV4, lasting: Duration) -> Result<Report> {
        let stream = match self.kept.entry(target) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => {
                let mut stream = open(target)?;
                stream.write_all(&[ask::KEEP]).context("send the first request")?;
                stream.read_exact(&mut [0]).context("wait for the first answer")?;
                vacant.insert(stream)
            }
        };
        let slice = slice(lasting, || {
            stream.write_all(b"r")?;
            stream.read_exact(&mut [0])?;
            Ok(None)
        });
        if slice.failed > 0 {
            self.kept.remove(&target);
        }
        Ok(Report::Slice(Box::new(slice)))
    }

    fn connections(&mut self, targets: &Targets, lasting: Duration) -> Result<Report> {
        let slice = match targets {
            Targets::One(target) => slice(lasting, || once(*target).map(|(_, connected)| Some(connected))),
            Targets::Range { first, count } => {
                ensure!(*count > 0, "a range of no addresses");
                let (base, port) = (first.ip().to_bits(), first.port());
                slice(lasting, || {
                    let chosen = (base + self.random.random_range(0..*count)).into();
                    once(SocketAddrV4::new(chosen, port)).map(|(_, connected)| Some(connected))
                })
            }
        };
        Ok(Report::Slice(Box::new(slice)))
    }
}

/// Repeats an operation for a while. It may tell how long its connecting took.
fn slice(lasting: Duration, mut operation: impl FnMut() -> io::Result<Option<Duration>>) -> Slice {
    let (mut latencies, mut connects) = (Vec::with_capacity(1 << 18), Vec::new());
    let mut slice = Slice::default();
    let begun = Instant::now();
    let mut now = begun;
    while now.duration_since(begun) < lasting {
        for _ in 0..CHUNK {
            let result = operation();
            let after = Instant::now();
            match result {
                Ok(connected) => {
                    latencies.push(nanoseconds(after.duration_since(now)));
                    connects.extend(connected.map(nanoseconds));
                    slice.answered += 1;
                }
                Err(error) => {
                    slice.failed += 1;
                    slice.failure.get_or_insert_with(|| error.to_string());
                    // A broken connection fails at once, for ever.
                    if slice.failed > 1000 && slice.answered == 0 {
                        now = begun + lasting;
                        break;
                    }
                }
            }
            now = after;
        }
    }
    slice.seconds = begun.elapsed().as_secs_f64();
    slice.latency = Latency::of(latencies);
    slice.connect = (!connects.is_empty()).then(|| Latency::of(connects));
    slice
}

/// One connection with one request: who answered, and how long connecting took.
fn once(target: SocketAddrV4) -> io::Result<(u8, Duration)> {
    let (mut stream, connected) = connected(target)?;
    stream.write_all(&[ask::ONCE])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    // The server closes first, so that the client's port is free at once.
    if stream.read(&mut [0])? != 0 {
        return Err(io::Error::other("more than one answer"));
    }
    Ok((answer[0], connected))
}

/// A connection, and the time of `connect` alone.
fn connected(target: SocketAddrV4) -> io::Result<(TcpStream, Duration)> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the descriptor was made here and has no other owner.
    let stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let begun = Instant::now();
    connect(stream.as_raw_fd(), &SockaddrIn::from(target))?;
    Ok((stream, begun.elapsed()))
}

fn open(target: SocketAddrV4) -> Result<TcpStream> {
    let (stream, _) = connected(target).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

fn follow(target: SocketAddrV4, server: u8, pause: Duration, patience: Duration) -> Result<Report> {
    let begun = Instant::now();
    let mut attempts = 0;
    let mut last = None;
    while begun.elapsed() < patience {
        attempts += 1;
        let at = monotonic()?;
        match once(target) {
            Ok((number, _)) if number == server => return Ok(Report::Obeyed { at, attempts }),
            Ok((number, _)) => last = Some(format!("server {number} answered")),
            Err(error) => last = Some(error.to_string()),
        }
        thread::sleep(pause);
    }
    bail!("{target}: server {server} did not answer within {patience:?}; last: {}", last.unwrap_or_default())
}

/// How long an answer from the next namespace may take.
const ANSWER: Duration = Duration::from_micros(300);
/// A single answer may be late because others had the CPU.
const SILENT: u64 = 5;

fn knock(target: SocketAddrV4, patience: Duration) -> Result<Report> {
    let socket = udp(target)?;
    let begun = Instant::now();
    let mut attempts = 0;
    while begun.elapsed() < patience {
        attempts += 1;
        let at = monotonic()?;
        if is_answered(&socket)? {
            return Ok(Report::Obeyed { at, attempts });
        }
    }
    bail!("{target}: no answer within {patience:?}")
}

fn knock_until_silent(target: SocketAddrV4, patience: Duration) -> Result<Report> {
    let socket = udp(target)?;
    let begun = Instant::now();
    let (mut attempts, mut silent, mut first) = (0, 0, 0);
    while begun.elapsed() < patience {
        attempts += 1;
        let at = monotonic()?;
        if is_answered(&socket)? {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent == 1 {
            first = at;
        }
        if silent == SILENT {
            return Ok(Report::Obeyed { at: first, attempts });
        }
    }
    bail!("{target}: still answers after {patience:?}")
}

/// Whether a datagram is answered soon. An answer that comes late is taken for the next one's.
fn is_answered(socket: &UdpSocket) -> Result<bool> {
    // Denied datagrams may be reported as errors.
    if socket.send(b"k").is_err() {
        return Ok(false);
    }
    // The kernel's time-outs of sockets are as coarse as its ticks; those of `ppoll` are not.
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    ppoll(&mut ready, Some(TimeSpec::from_duration(ANSWER)), None).context("wait for an answer")?;
    Ok(socket.recv(&mut [0; 8]).is_ok())
}

fn udp(target: SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("bind")?;
    socket.connect(target).with_context(|| format!("connect to {target}"))?;
    socket.set_nonblocking(true).context("set O_NONBLOCK")?;
    Ok(socket)
}

/// The monotonic clock, which is the same in every process.
pub(crate) fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    u64::try_from(Duration::from(now).as_nanos()).context("the clock runs for centuries")
}

fn nanoseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}
