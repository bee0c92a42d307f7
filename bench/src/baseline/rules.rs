//! The rules that kube-proxy 1.37 writes in iptables mode, as input of `iptables-restore`. Generated where the real
//! one would take minutes to be fed, and for timing the restore alone; a test compares it with the real one's.
use std::{
    io::{self, Write},
    net::SocketAddrV4,
};

use super::service::Service;

/// With more backends than these, kube-proxy does without what only helps people to read the rules.
const LARGE_CLUSTER: usize = 1_000;

/// What the rules depend on besides the services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// Addresses of pods: whoever comes from elsewhere is masqueraded.
    pub(crate) cluster_cidr: &'a str,
    /// Whether the chains of single services have comments and are removed at once.
    small: bool,
}

impl<'a> Rules<'a> {
    /// Rules for so many backends in all.
    pub(crate) const fn new(cluster_cidr: &'a str, backends: usize) -> Self {
        Self { cluster_cidr, small: backends <= LARGE_CLUSTER }
    }

    /// Everything, for a network namespace without rules: a full synchronisation together with the jumps that
    /// kube-proxy makes before its first.
    pub(crate) fn full(&self, services: &[Service], out: &mut impl Write) -> io::Result<()> {
        // Empty, and costs every packet a traversal: kube-proxy's canary makes the kernel load this table.
        writeln!(out, "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT")?;
        writeln!(out, "*filter\n:KUBE-PROXY-CANARY - [0:0]")?;
        filter_chains(out)?;
        out.write_all(FILTER_JUMPS.as_bytes())?;
        filter_rules(services, out)?;
        writeln!(out, "COMMIT\n*nat\n:KUBE-PROXY-CANARY - [0:0]")?;
        nat_chains(out)?;
        services.iter().try_for_each(|service| service_chains(service, out))?;
        out.write_all(NAT_JUMPS.as_bytes())?;
        nat_rules(services, out)?;
        services.iter().try_for_each(|service| self.service_rules(service, out))?;
        writeln!(out, "COMMIT")
    }

    /// What kube-proxy restores, without flushing, when one service changed: all of the common chains, but only the
    /// chains of this service.
    pub(crate) fn partial(
        &self,
        services: &[Service],
        before: &Service,
        after: &Service,
        out: &mut impl Write,
    ) -> io::Result<()> {
        // In large clusters, chains that nobody uses any more are left for a rarer sweep.
        let gone: Vec<String> = if self.small { chains_gone(before, after) } else { Vec::new() };
        writeln!(out, "*filter")?;
        filter_chains(out)?;
        filter_rules(services, out)?;
        writeln!(out, "COMMIT\n*nat")?;
        nat_chains(out)?;
        service_chains(after, out)?;
        gone.iter().try_for_each(|chain| writeln!(out, ":{chain} - [0:0]"))?;
        nat_rules(services, out)?;
        self.service_rules(after, out)?;
        gone.iter().try_for_each(|chain| writeln!(out, "-X {chain}"))?;
        writeln!(out, "COMMIT")
    }

    fn service_rules(&self, service: &Service, out: &mut impl Write) -> io::Result<()> {
        if service.backends.is_empty() {
            return Ok(());
        }
        let chain = service.chain();
        writeln!(out, "-A {chain} {} ! -s {} -j KUBE-MARK-MASQ", addressed_to(service), self.cluster_cidr)?;
        let backends = service.sorted_backends();
        if let Some(seconds) = service.affinity {
            for backend in &backends {
                let (comment, to) = (self.towards(service, *backend), service.backend_chain(*backend));
                writeln!(
                    out,
                    "-A {chain}{comment} -m recent --name {to} --rcheck --seconds {seconds} --reap -j {to}"
                )?;
            }
        }
        let mut left = backends.len();
        for backend in &backends {
            let comment = self.towards(service, *backend);
            write!(out, "-A {chain}{comment}")?;
            if left > 1 {
                // The last is chosen without a throw, so that the shares are equal.
                let probability = 1.0 / f64::from(u32::try_from(left).unwrap_or(u32::MAX));
                write!(out, " -m statistic --mode random --probability {probability:.10}")?;
            }
            writeln!(out, " -j {}", service.backend_chain(*backend))?;
            left -= 1;
        }
        backends.iter().try_for_each(|backend| self.backend_rules(service, *backend, out))
    }

    fn backend_rules(
        &self,
        service: &Service,
        backend: SocketAddrV4,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let chain = service.backend_chain(backend);
        let protocol = service.protocol.lower();
        let comment = if self.small {
            format!(" -m comment --comment \"{}\"", service.port_key())
        } else {
            String::new()
        };
        // A pod that reaches itself must see another source, or its answer would never leave it.
        writeln!(out, "-A {chain}{comment} -s {} -j KUBE-MARK-MASQ", backend.ip())?;
        let remember = match service.affinity {
            Some(_) => format!(" -m recent --name {chain} --set"),
            None => String::new(),
        };
        writeln!(
            out,
            "-A {chain}{comment}{remember} -m {protocol} -p {protocol} -j DNAT --to-destination {backend}"
        )
    }

    /// The comment of a rule that leads to a backend.
    fn towards(&self, service: &Service, backend: SocketAddrV4) -> String {
        if self.small {
            format!(" -m comment --comment \"{} -> {backend}\"", service.port_key())
        } else {
            String::new()
        }
    }
}

fn filter_chains(out: &mut impl Write) -> io::Result<()> {
    declare(&["SERVICES", "EXTERNAL-SERVICES", "FORWARD", "NODEPORTS", "PROXY-FIREWALL", "FIREWALL"], out)
}

fn filter_rules(services: &[Service], out: &mut impl Write) -> io::Result<()> {
    out.write_all(FILTER_RULES.as_bytes())?;
    for service in services.iter().filter(|service| service.backends.is_empty()) {
        let Service { protocol, cluster_ip, port, .. } = service;
        let (key, protocol) = (service.port_key(), protocol.lower());
        writeln!(
            out,
            "-A KUBE-SERVICES -m comment --comment \"{key} has no endpoints\" -m {protocol} -p {protocol} \
             -d {cluster_ip} --dport {port} -j REJECT"
        )?;
    }
    Ok(())
}

fn nat_chains(out: &mut impl Write) -> io::Result<()> {
    declare(&["SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"], out)
}

/// The common chains, which every synchronisation writes whole; this is where each service has one rule.
fn nat_rules(services: &[Service], out: &mut impl Write) -> io::Result<()> {
    out.write_all(NAT_RULES.as_bytes())?;
    for service in services.iter().filter(|service| !service.backends.is_empty()) {
        writeln!(out, "-A KUBE-SERVICES {} -j {}", addressed_to(service), service.chain())?;
    }
    writeln!(
        out,
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule \
         in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    )
}

fn service_chains(service: &Service, out: &mut impl Write) -> io::Result<()> {
    if service.backends.is_empty() {
        return Ok(());
    }
    writeln!(out, ":{} - [0:0]", service.chain())?;
    service
        .backends
        .iter()
        .try_for_each(|backend| writeln!(out, ":{} - [0:0]", service.backend_chain(*backend)))
}

/// The match for packets to a service; its comment stays in clusters of every size.
fn addressed_to(service: &Service) -> String {
    let Service { protocol, cluster_ip, port, .. } = service;
    let (key, protocol) = (service.port_key(), protocol.lower());
    format!(
        "-m comment --comment \"{key} cluster IP\" -m {protocol} -p {protocol} -d {cluster_ip} --dport {port}"
    )
}

/// Chains of a service that its change leaves without a use.
fn chains_gone(before: &Service, after: &Service) -> Vec<String> {
    let kept = &after.backends;
    let gone = before.backends.iter().filter(|backend| !kept.contains(backend));
    let mut chains: Vec<String> = gone.map(|backend| before.backend_chain(*backend)).collect();
    if kept.is_empty() && !before.backends.is_empty() {
        chains.push(before.chain());
    }
    chains
}

fn declare(chains: &[&str], out: &mut impl Write) -> io::Result<()> {
    chains.iter().try_for_each(|chain| writeln!(out, ":KUBE-{chain} - [0:0]"))
}

/// The jumps from the kernel's chains, in the order in which the real one's end up: each is put before the others.
const FILTER_JUMPS: &str = "\
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
";

const FILTER_RULES: &str = "\
-A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
";

const NAT_JUMPS: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
";

const NAT_RULES: &str = "\
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";
