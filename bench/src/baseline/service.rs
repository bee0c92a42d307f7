//! Services as kube-proxy sees them, one port each, and the names of the chains it gives them.
use std::net::{Ipv4Addr, SocketAddrV4};

use ring::digest;

use crate::system::services::{
    NAMESPACE, SERVER_PORT, SERVICE_PORT, SINGLE_NAME, SINGLE_PORT, SINGLE_SERVER_PORT, SINGLE_VIP,
    ServiceSet,
};

/// The name of the only port of every service.
const PORT_NAME: &str = "main";

/// A transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As iptables spells it.
    pub(crate) const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of one Service, with its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty when the Service names its only port not at all.
    pub(crate) port_name: String,
    pub(crate) protocol: Protocol,
    pub(crate) cluster_ip: Ipv4Addr,
    pub(crate) port: u16,
    /// In any order; the rules have them sorted as text, as kube-proxy has.
    pub(crate) backends: Vec<SocketAddrV4>,
    /// Seconds for which a client stays with its backend.
    pub(crate) affinity: Option<u32>,
}

impl Service {
    /// What kube-proxy calls the service port in comments and hashes.
    pub(crate) fn port_key(&self) -> String {
        let Self { namespace, name, port_name, .. } = self;
        if port_name.is_empty() {
            format!("{namespace}/{name}")
        } else {
            format!("{namespace}/{name}:{port_name}")
        }
    }

    /// The chain that chooses a backend.
    pub(crate) fn chain(&self) -> String {
        format!("KUBE-SVC-{}", hash(&[&self.port_key(), self.protocol.lower()]))
    }

    /// The chain that translates to one backend.
    pub(crate) fn backend_chain(&self, backend: SocketAddrV4) -> String {
        let backend = backend.to_string();
        format!("KUBE-SEP-{}", hash(&[&self.port_key(), self.protocol.lower(), &backend]))
    }

    /// The backends in the order of the rules: sorted as text.
    pub(crate) fn sorted_backends(&self) -> Vec<SocketAddrV4> {
        let mut backends = self.backends.clone();
        backends.sort_by_key(ToString::to_string);
        backends
    }
}

/// The services of a set, in its order.
pub(crate) fn all(set: ServiceSet, servers: &[Ipv4Addr]) -> Vec<Service> {
    let single = Service {
        name: SINGLE_NAME.to_owned(),
        protocol: Protocol::Udp,
        cluster_ip: SINGLE_VIP,
        port: SINGLE_PORT,
        backends: servers
            .first()
            .map(|server| SocketAddrV4::new(*server, SINGLE_SERVER_PORT))
            .into_iter()
            .collect(),
        ..numbered(0, &[])
    };
    (0..set.count).map(|index| numbered(index, servers)).chain([single]).collect()
}

/// A service of a set, by index.
pub(crate) fn numbered(index: usize, servers: &[Ipv4Addr]) -> Service {
    Service {
        namespace: NAMESPACE.to_owned(),
        name: ServiceSet::name(index),
        port_name: PORT_NAME.to_owned(),
        protocol: Protocol::Tcp,
        cluster_ip: ServiceSet::vip(index),
        port: SERVICE_PORT,
        backends: servers.iter().map(|server| SocketAddrV4::new(*server, SERVER_PORT)).collect(),
        affinity: None,
    }
}

/// The first 16 characters of the base32 SHA-256 of the parts: names of chains must stay below 29 characters.
fn hash(parts: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const CHARACTERS: u32 = 16;
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    // 16 characters of 5 bits are the first 10 bytes.
    let bits = digest.as_ref()[..10].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..CHARACTERS)
        .map(|at| char::from(ALPHABET[(bits >> (5 * (CHARACTERS - 1 - at)) & 31) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_have_the_names_that_kube_proxy_gives_them() {
        // Of a cluster's own first service; this name is in countless dumps of iptables rules.
        let kubernetes = Service {
            namespace: "default".to_owned(),
            name: "kubernetes".to_owned(),
            port_name: "https".to_owned(),
            protocol: Protocol::Tcp,
            cluster_ip: Ipv4Addr::new(10, 96, 0, 1),
            port: 443,
            backends: Vec::new(),
            affinity: None,
        };
        assert_eq!(kubernetes.chain(), "KUBE-SVC-NPX46M4PTMTKRN6Y");
    }

    #[test]
    fn backends_are_sorted_as_text() {
        let servers = [Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 10)];
        let sorted: Vec<_> =
            numbered(0, &servers).sorted_backends().iter().map(|backend| *backend.ip()).collect();
        assert_eq!(sorted, [servers[1], servers[0]]);
    }
}
