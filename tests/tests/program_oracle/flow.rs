//! Flows, the packets they are made of, and what shall become of them.
use std::net::IpAddr;

use agent_core::model::Family;
use anyhow::{Result, bail, ensure};
use dataplane_common::{config, net::proto, policy::Direction, verdict::DropReason};
use harness::{
    packet::{Transport, flag, verify},
    program::{
        Run, Verdict,
        addresses::Place,
        fixture::{host_mac, pod_mac},
    },
};

/// A new flow between a local pod and another address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) pod: u8,
    pub(crate) peer: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

pub(crate) fn verdict(denied_by: Option<Direction>, place: Place) -> Verdict {
    match (denied_by, place) {
        (Some(Direction::Egress), _) => Verdict::Drop(DropReason::PolicyEgress),
        (Some(Direction::Ingress), _) => Verdict::Drop(DropReason::PolicyIngress),
        (None, Place::LocalPod(pod)) => Verdict::Deliver(pod_mac(pod)),
        (None, Place::OtherNode) => Verdict::Forward,
        (None, Place::Elsewhere) => Verdict::Pass,
    }
}

/// What a pod sees as the source when it reaches itself through a service.
pub(crate) fn hairpin(family: Family) -> IpAddr {
    match family {
        Family::V4 => config::HAIRPIN_V4.into(),
        Family::V6 => config::HAIRPIN_V6.into(),
    }
}

/// The first packet of a flow.
pub(crate) fn opening(protocol: u8, source: u16, destination: u16) -> Transport {
    transport(protocol, source, destination, flag::SYN, [8, 128])
}

/// The packet that answers it.
pub(crate) fn answering(protocol: u8, source: u16, destination: u16) -> Transport {
    transport(protocol, source, destination, flag::SYN | flag::ACK, [0, 129])
}

/// The client's next packet.
pub(crate) fn following(protocol: u8, source: u16, destination: u16) -> Transport {
    if protocol == proto::TCP {
        return Transport::tcp(source, destination, flag::ACK);
    }
    opening(protocol, source, destination)
}

fn transport(protocol: u8, source: u16, destination: u16, flags: u8, echo: [u8; 2]) -> Transport {
    // The identifier of an echo is the client's, in both directions.
    let client = if flags & flag::ACK == 0 { source } else { destination };
    let [high, low] = client.to_be_bytes();
    let rest = [high, low, 0, 1];
    match protocol {
        proto::TCP => Transport::tcp(source, destination, flags),
        proto::UDP => Transport::udp(source, destination, b"odd".to_vec()),
        proto::SCTP => Transport::Sctp { source, destination, tag: 1, data: vec![1, 0, 0, 4] },
        proto::ICMP => Transport::Icmp { kind: echo[0], code: 0, rest, data: vec![0; 8] },
        proto::ICMPV6 => Transport::Icmp { kind: echo[1], code: 0, rest, data: vec![0; 8] },
        proto => Transport::Other { proto, bytes: vec![0; 16] },
    }
}

/// A rejection comes from where the client sent to.
pub(crate) fn check_rejection(run: &Run, source: IpAddr, flow: &Flow, client_port: u16) -> Result<()> {
    let rejection = verify(&run.frame)?;
    ensure!(rejection.addresses() == Some((flow.peer, source)), "rejected by {:?}", rejection.addresses());
    let macs = (rejection.source_mac, rejection.destination_mac);
    ensure!(macs == (host_mac(flow.pod), pod_mac(flow.pod)), "the rejection goes from and to {macs:x?}");
    match rejection.transport() {
        Some(Transport::Tcp { source, destination, flags, .. }) => {
            ensure!((*source, *destination) == (flow.port, client_port), "rejected {source} > {destination}");
            ensure!(*flags == flag::RST | flag::ACK, "rejected with the flags {flags:#x}");
        }
        Some(Transport::Icmp { kind, code, data, .. }) => {
            let (unreachable, header) = if source.is_ipv4() { ((3, 3), 20) } else { ((1, 4), 40) };
            ensure!((*kind, *code) == unreachable, "rejected with {kind}/{code}");
            ensure!(data[header..header + 2] == client_port.to_be_bytes(), "the quote is of another packet");
        }
        other => bail!("rejected with {other:?}"),
    }
    Ok(())
}
