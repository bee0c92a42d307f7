//! ADD: the pod gets its interface, and the answer comes when its policy is in force.
use std::{
    io,
    num::NonZeroU64,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent_api::{
    Attachment, Interface, Network, PodRef,
    interface::{Label, POD_ROUTE_PROTOCOL, Side, host_ifname, mac_address},
    netns::cookie,
    pending,
};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::{open_host, refused, routing};
use crate::{
    agent::Agent,
    config::NetConf,
    environment::Environment,
    kernel::{Link, Neighbour, Netlink, Route, Veth, sysctl},
    netns::{Netns, NetnsError},
    spec::{AddResult, Code, Error, InterfaceResult, IpResult, RouteResult},
};

/// The kernel makes interface and addresses ready shortly after it has accepted them.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Where an interface is made.
struct Place<'a> {
    conf: &'a NetConf,
    attachment: Attachment,
    pod: PodRef,
    /// Whether the main table's default route is wanted, when somebody said.
    default_route: Option<bool>,
    netns: Netns,
    netns_path: &'a Path,
    host_socket: Netlink,
    pod_socket: Netlink,
}

/// The two ends, with their indices.
struct Pair {
    host: Link,
    pod: Link,
}

pub(crate) fn add(environment: &Environment, conf: &NetConf) -> Result<Value, Error> {
    let attachment = environment.attachment()?;
    let netns_path = environment.required_netns()?;
    let pod = environment.pod()?;
    let default_route = environment.default_route()?.or(conf.default_route);
    let mut result = conf.previous_result()?.unwrap_or_default();

    let netns = open_netns(&netns_path)?;
    let mut pod_socket = Netlink::open_in(&netns)
        .map_err(|cause| refused("cannot open a netlink socket in the pod", &cause))?;
    let taken = pod_socket.link(&attachment.ifname);
    if taken.map_err(|cause| refused("cannot look up CNI_IFNAME in the pod", &cause))?.is_some() {
        return Err(name_taken(&attachment, &netns_path));
    }

    let agent = Agent::new(conf);
    let network = agent.reserve(&attachment, &pod)?;
    let host_socket = open_host()?;
    let netns_path = &netns_path;
    let mut place =
        Place { conf, attachment, pod, default_route, netns, netns_path, host_socket, pod_socket };
    match place.create(network.mtu).and_then(|pair| place.connect(&agent, &network, &pair)) {
        Ok(ours) => {
            result.extend(ours);
            result
                .to_json(conf.version)
                .map_err(|cause| Error::new(Code::Io, "cannot write the result").because(&cause))
        }
        Err(error) => Err(place.roll_back(&agent, error)),
    }
}

fn open_netns(path: &Path) -> Result<Netns, Error> {
    let shown = path.display();
    let invalid = |message| Error::new(Code::InvalidEnvironment, message);
    Netns::open(path).map_err(|error| match error {
        NetnsError::Missing => invalid(format!("CNI_NETNS is {shown}: there is no such file")),
        NetnsError::Own => invalid(format!("CNI_NETNS is {shown}: that is the host's own network namespace")),
        NetnsError::Io(cause) => {
            invalid(format!("CNI_NETNS is {shown}: cannot be entered as a network namespace")).because(&cause)
        }
    })
}

fn name_taken(attachment: &Attachment, netns: &Path) -> Error {
    let Attachment { container_id, ifname } = attachment;
    Error::new(
        Code::InvalidEnvironment,
        format!(
            "CNI_IFNAME is {ifname}, which exists in {} already: run DEL for container {container_id} first, or choose \
             another name",
            netns.display()
        ),
    )
}

impl Place<'_> {
    /// Makes the pair of interfaces, both down.
    fn create(&mut self, mtu: u32) -> Result<Pair, Error> {
        let host_ifname = host_ifname(&self.attachment);
        let pod_ifname = self.attachment.ifname.clone();
        let veth = Veth {
            host_ifname: &host_ifname,
            host_mac: mac_address(&self.attachment, Side::Host),
            pod_ifname: &pod_ifname,
            pod_mac: mac_address(&self.attachment, Side::Pod),
            pod_netns: &self.netns,
            mtu,
        };
        let created = self.host_socket.create(&veth);
        if !created.map_err(|cause| {
            refused(format!("cannot make the interfaces {host_ifname} and {pod_ifname}"), &cause)
        })? {
            return Err(Error::new(
                Code::Network,
                format!(
                    "the host interface {host_ifname} of this container is left over: run DEL, then ADD again"
                ),
            ));
        }
        let find = |socket: &mut Netlink, name: &str| {
            let link = socket.link(name).and_then(|link| link.ok_or_else(|| io::ErrorKind::NotFound.into()));
            link.map_err(|cause| refused(format!("cannot look up the new interface {name}"), &cause))
        };
        let host = find(&mut self.host_socket, &host_ifname)?;
        let pod = find(&mut self.pod_socket, &pod_ifname)?;
        self.label(&host, &pod).map_err(|cause| refused("cannot label the interfaces", &cause))?;
        Ok(Pair { host, pod })
    }

    fn label(&mut self, host: &Link, pod: &Link) -> io::Result<()> {
        let label = Label {
            network: self.conf.name.clone(),
            attachment: self.attachment.clone(),
            netns: self.cookie(),
            pod: Some(self.pod.clone()),
        };
        let Some(alias) = label.to_alias() else { return Ok(()) };
        self.host_socket.set_alias(host.index, &alias)?;
        self.pod_socket.set_alias(pod.index, &alias)
    }

    /// The kernel's number of the pod's namespace. Without it the pod's sockets are left alone, and what they send is
    /// translated packet by packet.
    fn cookie(&self) -> Option<NonZeroU64> {
        self.netns.inside(cookie).ok()?.ok()
    }

    /// Configures the pair. Nothing can pass before the agent has attached its programs, because both ends are down.
    fn connect(&mut self, agent: &Agent, network: &Network, pair: &Pair) -> Result<AddResult, Error> {
        let Pair { host, pod } = pair;
        self.prepare(network, host, pod)
            .map_err(|cause| refused("cannot prepare the pod's interface", &cause))?;
        let interface = Interface {
            host_ifname: host.name.clone(),
            host_ifindex: host.index,
            host_mac: mac_address(&self.attachment, Side::Host),
            pod_mac: mac_address(&self.attachment, Side::Pod),
            netns: self.cookie(),
        };
        agent.attach(&self.attachment, interface)?;
        self.activate(network, host, pod)
            .map_err(|cause| refused("cannot bring the pod's interface up", &cause))?;
        let routes = routing::set(&mut self.pod_socket, pod, network, self.default_route)?;
        Ok(self.result(network, pair, routes))
    }

    fn prepare(&mut self, network: &Network, host: &Link, pod: &Link) -> io::Result<()> {
        let enable_ipv6 = network.addresses.iter().any(IpNetwork::is_ipv6).then_some(sysctl::ENABLE_IPV6);
        for setting in sysctl::HOST.into_iter().chain(enable_ipv6) {
            sysctl::set(&host.name, setting)?;
        }
        self.netns.inside(|| {
            sysctl::POD.into_iter().chain(enable_ipv6).try_for_each(|setting| sysctl::set(&pod.name, setting))
        })??;
        network.addresses.iter().try_for_each(|address| self.pod_socket.add_address(pod.index, *address))
    }

    fn activate(&mut self, network: &Network, host: &Link, pod: &Link) -> io::Result<()> {
        self.host_socket.set_up(host.index)?;
        self.pod_socket.set_up(pod.index)?;
        // An interface that is up drops what is sent until the kernel has noticed its carrier, and what is received for
        // an IPv6 address until a worker has made the address's local route.
        for (socket, link) in [(&mut self.host_socket, host), (&mut self.pod_socket, pod)] {
            wait_until(&format!("{} got no carrier", link.name), || {
                Ok(socket.link(&link.name)?.is_some_and(|link| link.running))
            })?;
        }
        for address in &network.addresses {
            let what = format!("{address} did not become usable in the pod");
            wait_until(&what, || self.pod_socket.is_local(address.ip()))?;
        }

        let (host_mac, pod_mac) =
            (mac_address(&self.attachment, Side::Host), mac_address(&self.attachment, Side::Pod));
        for gateway in &network.gateways {
            let ifindex = pod.index;
            self.pod_socket.set_neighbour(Neighbour { address: *gateway, mac: host_mac, ifindex })?;
        }
        for address in &network.addresses {
            let ifindex = host.index;
            self.host_socket.set_neighbour(Neighbour { address: address.ip(), mac: pod_mac, ifindex })?;
            let (table, metric) = (Route::MAIN_TABLE, 0);
            let route = Route { destination: *address, gateway: None, ifindex, table, metric };
            self.host_socket.set_route(route, POD_ROUTE_PROTOCOL)?;
        }
        Ok(())
    }

    fn result(&self, network: &Network, pair: &Pair, routes: Vec<RouteResult>) -> AddResult {
        let interface = |link: &Link, sandbox| InterfaceResult {
            name: link.name.clone(),
            mac: link.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
            mtu: Some(network.mtu),
            sandbox,
            other: Map::new(),
        };
        let sandbox = self.netns_path.display().to_string();
        let gateway_for = |address: &IpNetwork| {
            network.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == address.is_ipv4())
        };
        let ips = network.addresses.iter().map(|address| IpResult {
            version: None,
            address: *address,
            gateway: gateway_for(address),
            interface: Some(1),
            other: Map::new(),
        });
        AddResult {
            interfaces: vec![interface(&pair.host, None), interface(&pair.pod, Some(sandbox))],
            ips: ips.collect(),
            routes,
            ..AddResult::default()
        }
    }

    /// Removes what was made, and says what could not be removed.
    fn roll_back(&mut self, agent: &Agent, mut error: Error) -> Error {
        let removed = match super::host_link(&mut self.host_socket, &self.attachment) {
            Ok(None) => Ok(()),
            Ok(Some(link)) => self.host_socket.delete(link.index).map_err(|cause| {
                refused(format!("cannot delete the interface {} after the failure", link.name), &cause)
            }),
            Err(cause) => Err(cause),
        };
        if let Err(left) = removed {
            // The addresses stay reserved while an interface may have them.
            return error.and(&left.message).and(&left.details);
        }
        if let Err(cause) = routing::forget(&mut self.pod_socket, &self.attachment.ifname) {
            error = error.and(&format!("cannot delete the rules of the pod's interface: {cause}"));
        }
        if agent.detach(&self.attachment).is_err()
            && let Err(cause) = pending::leave(&self.conf.state_dir, &self.attachment)
        {
            let place = self.conf.state_dir.display();
            error = error.and(&format!("cannot leave the detachment in {place} for the agent: {cause}"));
        }
        error
    }
}

/// Looks until something is so: the kernel finishes some of its work after it has answered.
fn wait_until(what: &str, mut holds: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {READY_TIMEOUT:?}")));
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
