//! What is done for each request.
use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_api::{
    Applied, Attachment, Checked, Error, Health, Interface, Network, PodRef, Reply, Request, Status,
    interface::host_ifname, pending,
};
use agent_core::model::{
    ObjectName,
    endpoint::{AttachmentId, Endpoint},
};
use dataplane_common::config::{GATEWAY_V4, GATEWAY_V6};
use ipnetwork::IpNetwork;
use tokio::{sync::oneshot, time::timeout};
use tracing::Instrument as _;

use super::{CniEvent, NodeNetwork, Shared, internal, invalid, try_again};
use crate::{
    ipam::{self, Others, host_local},
    vitals::Asked,
};

/// Next hops of the pods' default routes: never on any link, known by static neighbours.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::from_octets(GATEWAY_V4)),
    IpAddr::V6(std::net::Ipv6Addr::from_octets(GATEWAY_V6)),
];

/// The reconcile loop removes an endpoint within this, or the detachment is done later.
const DETACH_DEADLINE: Duration = Duration::from_secs(10);

/// Less than the plugin's patience with STATUS.
const STATUS_DEADLINE: Duration = Duration::from_millis(800);

/// A loop that is busy for longer is stuck: the largest clusters are programmed in less.
const HEALTH_DEADLINE: Duration = Duration::from_secs(10);

/// The source waits for so long for a manifest that is being written, and a little.
const LOOK_DEADLINE: Duration = Duration::from_secs(12);

/// Marks an attachment as busy for as long as it lives.
struct InFlight<'a> {
    set: &'a Mutex<HashSet<AttachmentId>>,
    attachment: AttachmentId,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.attachment);
    }
}

impl Shared {
    /// Answers, and notes how that went.
    pub(super) async fn answer_and_note(&self, request: Request) -> Result<Reply, Error> {
        let (asked, started) = (Asked::of(&request), Instant::now());
        let answer = self.answer(request).await;
        let error = answer.as_ref().err().map(|error| error.kind);
        self.options.vitals.requests.ended(asked, error, started.elapsed());
        answer
    }

    async fn answer(&self, request: Request) -> Result<Reply, Error> {
        match request {
            Request::Reserve { attachment, pod } => {
                let span =
                    tracing::info_span!("reserve", container = attachment.container_id, pod = pod.name);
                self.reserve(&attachment, &pod).instrument(span).await.map(Reply::Reserved)
            }
            Request::Attach { attachment, interface } => {
                let span = tracing::info_span!("attach", container = attachment.container_id);
                self.attach(&attachment, interface).instrument(span).await.map(|()| Reply::Attached)
            }
            Request::Detach { attachment } => {
                let span = tracing::info_span!("detach", container = attachment.container_id);
                self.detach(&id(&attachment)).instrument(span).await.map(|()| Reply::Detached)
            }
            Request::Check { attachment } => self.check(&attachment).await.map(Reply::Checked),
            Request::Status => self.status().await.map(|status| Reply::Status(Box::new(status))),
            Request::Health => self.health().await.map(Reply::Health),
            Request::Applied => self.applied().await.map(Reply::Applied),
            Request::Names => self.settle().await.map(|_| Reply::Named),
        }
    }

    async fn reserve(&self, attachment: &Attachment, pod: &PodRef) -> Result<Network, Error> {
        if pod.namespace.is_empty() || pod.name.is_empty() {
            return Err(invalid("the pod has no namespace or no name: without them its policy is not known"));
        }
        // A detachment of the same container that still waits must not hit what is attached now.
        let pending = pending::path(&self.options.state_dir, attachment);
        if pending.exists() {
            self.detach(&id(attachment)).await?;
            pending::remove(&pending)
                .map_err(|error| internal(format!("cannot remove {}: {error}", pending.display())))?;
        }
        let _busy = self.enter(id(attachment))?;
        self.save_again()
            .await
            .map_err(|error| try_again(format!("a new pod would be forgotten: {}", error.message)))?;
        let NodeNetwork { pod_cidrs, mtu, pods } = self.node.borrow().clone();
        let host_local = host_local::addresses(&self.options.host_local_dir).map_err(|error| {
            let dir = self.options.host_local_dir.display();
            try_again(format!(
                "cannot read the leases of host-local in {dir}, whose pods may live on: {error}"
            ))
        })?;
        let (attachment, uid) = (id(attachment), pod.uid.clone());
        let pod = ObjectName::new(&pod.namespace, &pod.name);
        let shown = pod.to_string();
        let reserved = self.with_ipam(|ipam, now| {
            ipam.leases.set_pod_cidrs(&pod_cidrs);
            ipam.leases.set_others(Others { pods, host_local });
            ipam.leases.reserve(&attachment, &pod, &uid, now)
        })?;
        let ips = reserved.map_err(|error| {
            try_again(format!("pod {shown} gets no address on node {}: {error}", self.options.node_name))
        })?;
        let gateways =
            GATEWAYS.into_iter().filter(|gateway| ips.iter().any(|ip| ip.is_ipv4() == gateway.is_ipv4()));
        Ok(Network {
            gateways: gateways.collect(),
            addresses: ips.into_iter().map(IpNetwork::from).collect(),
            mtu,
        })
    }

    async fn attach(&self, attachment: &Attachment, interface: Interface) -> Result<(), Error> {
        let expected = host_ifname(attachment);
        if interface.host_ifname != expected || interface.host_ifindex == 0 {
            return Err(invalid(format!(
                "host_ifname is {:?} with index {} for container {}: must be {expected} with the index the kernel gave",
                interface.host_ifname, interface.host_ifindex, attachment.container_id
            )));
        }
        let _busy = self.enter(id(attachment))?;
        let interface = ipam::Interface {
            host_ifname: interface.host_ifname,
            host_ifindex: interface.host_ifindex,
            host_mac: interface.host_mac,
            pod_mac: interface.pod_mac,
            netns: interface.netns,
        };
        let attachment = id(attachment);
        let endpoint = self.with_ipam(|ipam, _| ipam.leases.endpoint(&attachment, interface))?;
        let endpoint = endpoint.map_err(|error| try_again(error.to_string()))?;

        self.program(&endpoint).await?;
        // On disk before ADD is answered: from then on a restarted agent must know the pod.
        let revision = self.with_ipam(|ipam, _| {
            ipam.leases.attach(endpoint.clone());
            ipam.changed()
        })?;
        self.save(revision)
            .await
            .inspect_err(|error| tracing::error!(%error, "lease lost"))
            .map_err(|error| internal(format!("pod {} is not attached: {error}", endpoint.pod)))?;
        tracing::info!(pod = %endpoint.pod, ips = ?endpoint.ips, "attached");
        Ok(())
    }

    /// Waits until the reconcile loop has attached the programs and written the policy.
    async fn program(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let event = CniEvent::Attach { endpoint: endpoint.clone(), done };
        let deadline = self.options.attach_deadline;
        match timeout(deadline, self.ask(event, answer)).await {
            Ok(result) => result?,
            Err(_) => Err(try_again(format!(
                "the policy of pod {} is not in the maps after {} s: check that the agent's source lists the pod and is \
                 in sync (`millrace status`)",
                endpoint.pod,
                deadline.as_secs()
            ))),
        }
    }

    /// Forgets an attachment: first its endpoint, then its addresses.
    pub(super) async fn detach(&self, attachment: &AttachmentId) -> Result<(), Error> {
        let _busy = self.enter(attachment.clone())?;
        let (done, answer) = oneshot::channel();
        let event = CniEvent::Detach { attachment: attachment.clone(), done };
        match timeout(DETACH_DEADLINE, self.ask(event, answer)).await {
            Ok(result) => result??,
            Err(_) => {
                return Err(try_again(format!(
                    "the endpoint of container {} is still in the maps after {} s",
                    attachment.container_id,
                    DETACH_DEADLINE.as_secs()
                )));
            }
        }
        let released = self.with_ipam(|ipam, now| {
            let lease = ipam.leases.release(attachment, now)?;
            Some((lease, ipam.changed()))
        })?;
        if let Some((lease, revision)) = released {
            // A lease that stays on disk does no harm: its interface is gone, which the next start sees.
            if let Err(error) = self.save(revision).await {
                tracing::warn!(%error, "the release is only in memory");
            }
            tracing::info!(pod = %lease.pod, ips = ?lease.ips, "detached");
        }
        Ok(())
    }

    async fn check(&self, attachment: &Attachment) -> Result<Checked, Error> {
        let (reply, answer) = oneshot::channel();
        match timeout(
            STATUS_DEADLINE,
            self.ask(CniEvent::Check { attachment: id(attachment), reply }, answer),
        )
        .await
        {
            Ok(missing) => missing.map(|missing| Checked { missing }),
            Err(_) => Err(busy()),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let (reply, answer) = oneshot::channel();
        match timeout(STATUS_DEADLINE, self.ask(CniEvent::Status { reply }, answer)).await {
            Ok(status) => {
                let mut status = status?;
                status.problems.extend(self.problems.iter().cloned().chain(self.unsaved()));
                Ok(status)
            }
            Err(_) => Err(busy()),
        }
    }

    async fn health(&self) -> Result<Health, Error> {
        let (reply, answer) = oneshot::channel();
        match timeout(HEALTH_DEADLINE, self.ask(CniEvent::Health { reply }, answer)).await {
            Ok(health) => health.map(|mut health| {
                for list in [&mut health.unmet, &mut health.refusing] {
                    list.extend(self.unsaved());
                }
                health
            }),
            Err(_) => Err(try_again(format!(
                "the reconcile loop does not answer within {} s",
                HEALTH_DEADLINE.as_secs()
            ))),
        }
    }

    /// Waits until the maps hold what was seen, and the names are on disk. Returns what the maps do not hold.
    async fn settle(&self) -> Result<Vec<String>, Error> {
        let (reply, answer) = oneshot::channel();
        match timeout(HEALTH_DEADLINE, self.ask(CniEvent::Settle { reply }, answer)).await {
            Ok(missing) => missing,
            Err(_) => Err(busy()),
        }
    }

    /// What of that which the source shows at this moment is not in force.
    async fn applied(&self) -> Result<Applied, Error> {
        let (look, seen) = oneshot::channel();
        let stopping = || try_again("the source of the cluster is not running");
        self.looks.send(look).await.map_err(|_| stopping())?;
        match timeout(LOOK_DEADLINE, seen).await {
            Ok(Ok(())) => self.settle().await.map(|missing| Applied { missing }),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Ok(Applied { missing: vec!["a manifest is still being written".to_owned()] }),
        }
    }

    async fn ask<T>(&self, event: CniEvent, answer: oneshot::Receiver<T>) -> Result<T, Error> {
        let stopping = || try_again("the agent is stopping");
        self.events.send(event).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    fn enter(&self, attachment: AttachmentId) -> Result<InFlight<'_>, Error> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight.insert(attachment.clone()) {
            Ok(InFlight { set: &self.in_flight, attachment })
        } else {
            Err(try_again(format!(
                "another request for container {} and interface {} is being served",
                attachment.container_id, attachment.ifname
            )))
        }
    }
}

fn busy() -> Error {
    try_again("the agent is busy: its reconcile loop does not answer")
}

pub(super) fn id(attachment: &Attachment) -> AttachmentId {
    let Attachment { container_id, ifname } = attachment.clone();
    AttachmentId { container_id, ifname }
}
