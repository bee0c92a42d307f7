//! An uplink that becomes smaller while pods talk.
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    topology::{Pod, Topology},
};

use crate::{firewall::start_firewall, objects::policy};

const PORT: u16 = 80;
const SMALL: u32 = 1400;
/// Fits 1,500 bytes and not 1,400, with the headers of either family.
const DATAGRAM: usize = 1_402;

/// A client on one node and a server on the other.
fn pair() -> Result<(Topology, Arc<Pod>, Arc<Pod>)> {
    let topology = Topology::start()?;
    let client = topology.add_pod(PodSpec::new("default", "client").label("app", "client"))?;
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server").on(1))?;
    Ok((topology, client, server))
}

/// Makes the first node's uplink as small as a card that drops what is larger.
fn shrink(topology: &Topology) -> Result<()> {
    let node = topology.node(0);
    node.netns().ip(&format!("link set eth0 mtu {SMALL}\n"))?;
    topology.fabric().netns().ip(&format!("link set {} mtu {SMALL}\n", node.spec().name))
}

/// What `ip` shows inside a pod.
fn ip(pod: &Pod, arguments: &str) -> Result<String> {
    let mut command = Command::new("ip");
    let output = command.args(["-n", pod.netns().name()]).args(arguments.split(' ')).output()?;
    ensure!(output.status.success(), "{arguments}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A large datagram arrives once the kernel of the pod knows the way's MTU, which it must be told.
fn a_large_datagram_arrives(client: &Pod, server: &Pod, to: SocketAddr) -> Result<()> {
    let receiver = server.netns().run(|| UdpSocket::bind((server.ip(to.is_ipv6()), PORT)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let sender = client.netns().run(|| {
        let socket = UdpSocket::bind((client.ip(to.is_ipv6()), 0))?;
        socket.connect(to).map(|()| socket)
    })??;
    eventually(format!("{DATAGRAM} bytes reach {to}"), PATIENCE, || {
        match sender.send(&[7; DATAGRAM]) {
            // What an ICMP error said is told to the next call.
            Err(error) => bail!("cannot send: {error}"),
            Ok(sent) => ensure!(sent == DATAGRAM, "{sent} bytes sent"),
        }
        let mut buffer = [0; 2048];
        let length = receiver.recv(&mut buffer).context("nothing arrives")?;
        ensure!(length == DATAGRAM, "{length} bytes");
        Ok(())
    })?;
    let way = ip(client, &format!("route get {}", to.ip()))?;
    ensure!(way.contains(&format!("mtu {SMALL}")), "the pod was told nothing: {way}");
    Ok(())
}

#[test]
fn a_pod_is_told_that_its_datagrams_are_too_large() -> Result<()> {
    kernel::require(kernel::NETNS);
    let (topology, client, server) = pair()?;
    shrink(&topology)?;
    for to in server.at(PORT) {
        a_large_datagram_arrives(&client, &server, to)?;
    }
    topology.close()
}

#[test]
fn so_is_one_with_policies_behind_a_firewall_that_asks_a_service() -> Result<()> {
    kernel::require(kernel::NETNS);
    let (topology, client, server) = pair()?;
    for app in ["client", "server"] {
        topology.control_plane.apply(&policy(
            app,
            &serde_json::json!({
                "podSelector": { "matchLabels": { "app": app } },
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
                "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "server" } } }] }],
            }),
        ))?;
    }
    let spec = ServiceSpec::new("default", "large").select("app", "server").port(Protocol::Udp, PORT, PORT);
    let service = topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    shrink(&topology)?;
    start_firewall(
        topology.node(0),
        "chain forward { type filter hook forward priority 0; ct state invalid drop; }",
    )?;
    for ip in service.both() {
        // The sockets are of this process, which no socket program sees: packet by packet.
        a_large_datagram_arrives(&client, &server, (ip, PORT).into())?;
    }
    topology.close()
}

#[test]
fn a_stream_goes_on_and_new_pods_get_the_new_mtu() -> Result<()> {
    const SIZE: usize = 64 << 20;
    const STALL: Duration = Duration::from_secs(20);
    kernel::require(kernel::NETNS);
    let (topology, client, server) = pair()?;
    let received = AtomicUsize::new(0);
    for v6 in [false, true] {
        received.store(0, Ordering::Relaxed);
        let listener = server.netns().run(|| TcpListener::bind((server.ip(v6), PORT)))??;
        let to = listener.local_addr()?;
        let stream = client.netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
        // A black hole must end the test, not hold it.
        stream.set_write_timeout(Some(STALL))?;
        let (mut accepted, _) = listener.accept()?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let chunk = vec![7; 1 << 16];
                let mut stream = stream;
                (0..SIZE / chunk.len()).try_for_each(|_| stream.write_all(&chunk))
            });
            accepted.set_read_timeout(Some(STALL))?;
            let mut buffer = vec![0; 1 << 16];
            let mut is_small = false;
            loop {
                match accepted.read(&mut buffer).with_context(|| format!("after {received:?} bytes"))? {
                    0 => return anyhow::Ok(()),
                    more => received.fetch_add(more, Ordering::Relaxed),
                };
                if !is_small && received.load(Ordering::Relaxed) > SIZE / 4 {
                    is_small = true;
                    shrink(&topology)?;
                }
            }
        })?;
        ensure!(received.load(Ordering::Relaxed) == SIZE, "{received:?} bytes of {SIZE} to {to}");
        let name = format!("later-{v6}");
        eventually("a new pod gets the uplink's MTU", PATIENCE, || {
            let pod = topology.add_pod(PodSpec::new("default", &name))?;
            let link = ip(&pod, "link show eth0")?;
            topology.delete_pod("default", &name)?;
            ensure!(link.contains(&format!("mtu {SMALL} ")), "{link}");
            Ok(())
        })?;
        let node = topology.node(0);
        node.netns().ip("link set eth0 mtu 1500\n")?;
        topology.fabric().netns().ip(&format!("link set {} mtu 1500\n", node.spec().name))?;
        for pod in [&client, &server] {
            for family in ["-4", "-6"] {
                ip(pod, &format!("{family} route flush cache"))?;
            }
        }
    }
    topology.close()
}
