//! Round trips between two pods of one node, as a ratio to plain veth routing: `roundtrip [ROUNDS]`.
//!
//! Every path has its own long-lived connection and its own server thread. All threads share one CPU under
//! `SCHED_FIFO`, because a wake-up on another CPU costs ten times what is measured here. The paths take turns in
//! short slices, and a round's rates are compared only with each other.
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    machine::{netns::Netns, run::Run},
    topology::{Pod, Topology},
};
use serde_json::json;

const SLICE: Duration = Duration::from_millis(400);
const PORT: u16 = 7000;
const SERVICE_PORT: u16 = 80;
const PRIORITY: i32 = 10;

/// One path, ready for round trips.
struct Path {
    name: &'static str,
    /// The path that it is compared with.
    against: usize,
    connection: Connection,
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Connection {
    /// There and back once.
    fn round_trip(&mut self) -> Result<()> {
        let mut byte = [7];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
            }
            Self::Udp(socket) => {
                socket.send(&byte)?;
                socket.recv(&mut byte)?;
            }
        }
        Ok(())
    }

    /// Round trips per second over one slice.
    fn rate(&mut self) -> Result<f64> {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < SLICE {
            for _ in 0..64 {
                self.round_trip()?;
            }
            count += 64;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }
}

/// Answers every byte, over TCP and UDP, from inside a namespace.
fn serve(netns: &Netns, addr: IpAddr) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(SocketAddr::new(addr, PORT)))??;
    let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(addr, PORT)))??;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((len, peer)) = socket.recv_from(&mut bytes) {
            if socket.send_to(&bytes[..len], peer).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 64];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}

fn tcp(netns: &Netns, to: SocketAddr) -> Result<Connection> {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
    let stream = stream.with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(Connection::Tcp(stream))
}

fn udp(netns: &Netns, to: SocketAddr) -> Result<Connection> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = netns.run(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok::<_, std::io::Error>(socket)
    })??;
    Ok(Connection::Udp(socket))
}

/// Two namespaces with a router between them: what a node costs when nothing but the kernel forwards.
struct Plain {
    client: Netns,
    server: Netns,
    _router: Netns,
}

impl Plain {
    const SERVER: [u8; 4] = [10, 200, 2, 2];

    fn build(run: &Run) -> Result<Self> {
        let [client, router, server] =
            ["plain-client", "plain-router", "plain-server"].map(|part| Netns::create(&run.part(part)));
        let (client, router, server) = (client?, router?, server?);
        for (net, end) in [(1, &client), (2, &server)] {
            router.ip(&format!(
                "link add p{net} type veth peer name eth0 netns {}\n\
                 addr add 10.200.{net}.1/24 dev p{net}\nlink set p{net} up\n",
                end.name()
            ))?;
            end.ip(&format!(
                "addr add 10.200.{net}.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.200.{net}.1\n"
            ))?;
        }
        router.sysctl(&[("ipv4/ip_forward", "1")])?;
        Ok(Self { client, server, _router: router })
    }
}

/// Keeps this process, and the threads that it starts from here on, on one CPU and ahead of everything else.
fn claim_cpu() -> Result<()> {
    // SAFETY: plain old data, filled in before use; the calls only read it.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(1, &mut cpus);
        ensure!(
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus) == 0,
            "no second CPU to measure on: {}",
            std::io::Error::last_os_error()
        );
        let priority = libc::sched_param { sched_priority: PRIORITY };
        ensure!(
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) == 0,
            "SCHED_FIFO refused: {}",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}

fn pods(topology: &Topology) -> Result<(std::sync::Arc<Pod>, [std::sync::Arc<Pod>; 2])> {
    let client = topology.add_pod(PodSpec::new("default", "client").label("app", "client"))?;
    let open = topology.add_pod(PodSpec::new("default", "open").label("app", "open"))?;
    let policed = topology.add_pod(PodSpec::new("default", "policed").label("app", "policed"))?;
    Ok((client, [open, policed]))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn measure(topology: &Topology, rounds: usize) -> Result<()> {
    let (client, [open, policed]) = pods(topology)?;
    let control = &topology.control_plane;
    control.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "policed", "namespace": "default" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "policed" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
        },
    }))?;
    let service = ServiceSpec::new("default", "policed").select("app", "policed");
    let service = service.port(Protocol::Tcp, SERVICE_PORT, PORT).port(Protocol::Udp, SERVICE_PORT, PORT);
    let vip = SocketAddr::new(control.apply_service(&service)?.v4.into(), SERVICE_PORT);
    topology.settle()?;
    let plain = Plain::build(topology.run())?;
    claim_cpu()?;
    serve(&plain.server, Plain::SERVER.into())?;
    serve(open.netns(), open.ip(false))?;
    serve(policed.netns(), policed.ip(false))?;
    let plain_server = SocketAddr::new(Plain::SERVER.into(), PORT);
    let (open, policed) = (SocketAddr::new(open.ip(false), PORT), SocketAddr::new(policed.ip(false), PORT));
    let path = |name, against, connection: Result<Connection>| -> Result<Path> {
        Ok(Path { name, against, connection: connection.with_context(|| name)? })
    };
    // A socket belongs to the cgroup that its process is in when it is made: outside of the node's, no program
    // translates it, and every packet to the service is.
    let mut paths = vec![
        path("TCP plain veth routing", 0, tcp(&plain.client, plain_server))?,
        path("UDP plain veth routing", 1, udp(&plain.client, plain_server))?,
        path("TCP ClusterIP, policed, translated per packet", 0, tcp(client.netns(), vip))?,
        path("UDP ClusterIP, policed, translated per packet", 1, udp(client.netns(), vip))?,
        path("TCP pod to pod, untouched", 0, tcp(client.netns(), open))?,
        path("UDP pod to pod, untouched", 1, udp(client.netns(), open))?,
        path("TCP pod to pod, policed", 0, tcp(client.netns(), policed))?,
    ];
    fs::write(client.cgroup().path().join("cgroup.procs"), std::process::id().to_string())?;
    paths.push(path("TCP ClusterIP, policed, translated at the socket", 0, tcp(client.netns(), vip))?);
    let rates = rounds_of(&mut paths, rounds);
    fs::write(harness::machine::cgroup::root()?.join("cgroup.procs"), std::process::id().to_string())?;
    report(&paths, &rates?);
    Ok(())
}

/// Rates by round and path.
fn rounds_of(paths: &mut [Path], rounds: usize) -> Result<Vec<Vec<f64>>> {
    for path in &mut *paths {
        path.connection.rate().with_context(|| format!("warm up: {}", path.name))?;
    }
    (0..rounds)
        .map(|_| paths.iter_mut().map(|path| path.connection.rate().context(path.name)).collect())
        .collect()
}

fn report(paths: &[Path], rates: &[Vec<f64>]) {
    println!("{:<52} {:>9} {:>7}  min–max, {} rounds", "path", "trips/s", "ratio", rates.len());
    for (index, path) in paths.iter().enumerate() {
        let own: Vec<f64> = rates.iter().map(|round| round[index]).collect();
        let ratios: Vec<f64> = rates.iter().map(|round| round[index] / round[path.against]).collect();
        let (least, most) = ratios.iter().fold((f64::MAX, 0f64), |(l, m), r| (l.min(*r), m.max(*r)));
        println!("{:<52} {:>9.0} {:>7.2}  {least:.2}–{most:.2}", path.name, median(&own), median(&ratios));
    }
}

fn main() -> Result<()> {
    let rounds =
        std::env::args().nth(1).map_or(Ok(11), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let topology = Topology::start()?;
    measure(&topology, rounds)?;
    topology.close()
}
