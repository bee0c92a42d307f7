use std::{fs, path::Path};

use agent_api::{
    Attachment, Interface, Network, PodRef, Reply, Request, client::CallError, client::call,
    interface::host_ifname, pending,
};
use tokio::task::JoinHandle;

use super::*;

/// How the reconcile loop of a test answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loop {
    Programs,
    Hangs,
}

struct Agent {
    options: Options,
    node: watch::Sender<NodeNetwork>,
    /// What the reconcile loop was told: `+` container or `-` container.
    told: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Agent {
    fn start(dir: &Path, living: &Living, behaviour: Loop) -> (Self, Vec<Endpoint>) {
        let mut options = Options::new("node-a".into(), dir.join("run"), dir.join("state"));
        options.attach_deadline = Duration::from_millis(300);
        let server = CniServer::open(options.clone(), living).unwrap();
        let endpoints = server.endpoints();
        let (events, mut inbox) = mpsc::channel(8);
        let (looks, _) = mpsc::channel(1);
        let cidrs = ["10.0.0.0/24", "fd00::/64"].map(|cidr| cidr.parse().unwrap());
        let (node, seen) =
            watch::channel(NodeNetwork { pod_cidrs: cidrs.to_vec(), mtu: 1450, ..NodeNetwork::default() });
        let told = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&told);
        let reconcile = tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(event) = inbox.recv().await {
                match event {
                    CniEvent::Attach { endpoint, done } => {
                        record.lock().unwrap().push(format!("+{}", endpoint.attachment.container_id));
                        match behaviour {
                            Loop::Programs => drop(done.send(Ok(()))),
                            Loop::Hangs => unanswered.push(done),
                        }
                    }
                    CniEvent::Detach { attachment, done } => {
                        record.lock().unwrap().push(format!("-{}", attachment.container_id));
                        drop(done.send(Ok(())));
                    }
                    CniEvent::Status { reply } => drop(reply.send(Status::default())),
                    CniEvent::Check { reply, .. } | CniEvent::Settle { reply } => {
                        drop(reply.send(Vec::new()));
                    }
                    CniEvent::Health { reply } => drop(reply.send(agent_api::Health::default())),
                }
            }
        });
        let serve = tokio::spawn(server.run(events, looks, seen, Netlink::open().unwrap()));
        (Self { options, node, told, tasks: vec![serve, reconcile] }, endpoints)
    }

    async fn call(&self, request: Request) -> Result<Reply, Error> {
        let socket = self.options.runtime_dir.join(agent_api::SOCKET_NAME);
        let result = tokio::task::spawn_blocking(move || call(&socket, request, Duration::from_secs(3)));
        result.await.unwrap().map_err(|error| {
            let CallError::Agent(error) = error else { panic!("{error}") };
            error
        })
    }

    async fn reserve(&self, container: &str) -> Result<Network, Error> {
        let pod =
            PodRef { namespace: "default".into(), name: format!("pod-{container}"), uid: String::new() };
        let reply = self.call(Request::Reserve { attachment: attachment(container), pod }).await?;
        let Reply::Reserved(network) = reply else { panic!("{reply:?}") };
        Ok(network)
    }

    async fn attach(&self, container: &str) -> Result<Reply, Error> {
        let host_ifname = host_ifname(&attachment(container));
        let interface =
            Interface { host_ifname, host_ifindex: 7, host_mac: [2; 6], pod_mac: [4; 6], netns: None };
        self.call(Request::Attach { attachment: attachment(container), interface }).await
    }

    async fn detach(&self, container: &str) -> Result<Reply, Error> {
        self.call(Request::Detach { attachment: attachment(container) }).await
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.into(), ifname: "eth0".into() }
}

fn survivor(container: &str, endpoint: &Endpoint) -> ipam::Survivor {
    ipam::Survivor {
        host_ifname: host_ifname(&attachment(container)),
        host_ifindex: endpoint.host_ifindex,
        host_mac: endpoint.host_mac,
        label: None,
        pod_mac: None,
        addresses: endpoint.ips.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reserved_attached_and_detached() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    let network = agent.reserve("a").await.unwrap();
    assert_eq!(
        network.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.2/32", "fd00::2/128"]
    );
    assert_eq!(
        network.gateways,
        ["169.254.1.1", "fe80::1"].map(|gateway| gateway.parse::<std::net::IpAddr>().unwrap())
    );
    assert_eq!(network.mtu, 1450);
    assert_eq!(agent.reserve("a").await.unwrap(), network, "repeating returns the same");
    assert_eq!(agent.attach("a").await.unwrap(), Reply::Attached);
    assert_eq!(agent.detach("a").await.unwrap(), Reply::Detached);
    assert_eq!(agent.detach("a").await.unwrap(), Reply::Detached, "what is unknown is detached");
    assert_eq!(agent.told(), ["+a", "-a", "-a"]);
    assert_ne!(agent.reserve("a").await.unwrap().addresses, network.addresses, "the address cools down");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_pods_at_once_each_is_on_disk_when_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    let (agent, on_disk) = (&agent, &|| fs::read_to_string(dir.path().join("state/leases.json")).unwrap());
    let has = |text: &str, container: &str| text.contains(&format!("\"container_id\":\"{container}\""));
    let names: Vec<String> = (0..40).map(|number| format!("pod{number:02}")).collect();
    futures::future::join_all(names.iter().map(|name| async move {
        agent.reserve(name).await.unwrap();
        assert!(!has(&on_disk(), name), "{name} is only reserved");
        agent.attach(name).await.unwrap();
        assert!(has(&on_disk(), name), "{name} is attached");
    }))
    .await;
    futures::future::join_all(names.iter().map(|name| async move {
        agent.detach(name).await.unwrap();
        assert!(!has(&on_disk(), name), "{name} is detached");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_endpoint_outlives_the_agent_and_a_reservation_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, restored) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    assert!(restored.is_empty());
    agent.reserve("a").await.unwrap();
    agent.attach("a").await.unwrap();
    agent.reserve("b").await.unwrap();
    let endpoint = agent.options.clone();
    drop(agent);
    tokio::task::yield_now().await;

    let stored = ipam::LeaseFile::new(&endpoint.state_dir).read().unwrap().unwrap();
    let living = Living { interfaces: vec![survivor("a", &stored.endpoints[0])], ..Living::default() };
    let (agent, restored) = start_again(dir.path(), &living).await;
    assert_eq!(restored, stored.endpoints);
    assert_eq!(restored[0].pod.name, "pod-a");
    let error = agent.attach("b").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TryAgain);
    assert!(
        agent.reserve("c").await.unwrap().addresses
            != restored[0].ips.iter().copied().map(IpNetwork::from).collect::<Vec<_>>()
    );
}

/// The socket of the first agent is free as soon as its task has ended.
async fn start_again(dir: &Path, living: &Living) -> (Agent, Vec<Endpoint>) {
    for _ in 0..100 {
        if std::os::unix::net::UnixStream::connect(dir.join("run/cni.sock")).is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Agent::start(dir, living, Loop::Programs)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_programmed_in_time_asks_to_be_tried_again_and_names_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Hangs);
    agent.reserve("a").await.unwrap();
    let (first, second) = tokio::join!(agent.attach("a"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        agent.attach("a").await
    });
    let (first, second) = (first.unwrap_err(), second.unwrap_err());
    assert_eq!((first.kind, second.kind), (ErrorKind::TryAgain, ErrorKind::TryAgain));
    assert!(first.message.contains("default/pod-a"), "{first}");
    assert!(second.message.contains("another request"), "{second}");
    assert_eq!(agent.told(), ["+a"], "the second one reached nobody");
    agent.detach("a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_pod_cidr_asks_to_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    agent.node.send(NodeNetwork::default()).unwrap();
    let error = agent.reserve("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TryAgain);
    assert!(error.message.contains("podCIDRs") && error.message.contains("node-a"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_not_the_attachments_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    agent.reserve("a").await.unwrap();
    let interface = Interface {
        host_ifname: "eth0".into(),
        host_ifindex: 2,
        host_mac: [2; 6],
        pod_mac: [4; 6],
        netns: None,
    };
    let error = agent.call(Request::Attach { attachment: attachment("a"), interface }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("host_ifname"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn detachments_left_on_disk_are_done_at_the_start_and_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    for container in ["a", "b"] {
        agent.reserve(container).await.unwrap();
        agent.attach(container).await.unwrap();
    }
    drop(agent);
    let stored = ipam::LeaseFile::new(&state_dir).read().unwrap().unwrap();
    let interfaces =
        ["a", "b"].iter().zip(&stored.endpoints).map(|(name, endpoint)| survivor(name, endpoint));
    let living = Living { interfaces: interfaces.collect(), ..Living::default() };
    pending::leave(&state_dir, &attachment("a")).unwrap();
    let torn = pending::path(&state_dir, &attachment("torn"));
    fs::write(&torn, "{").unwrap();

    let (agent, restored) = start_again(dir.path(), &living).await;
    assert_eq!(restored, stored.endpoints[1..]);
    assert!(torn.with_extension("corrupt").exists(), "a damaged file is set aside");
    pending::leave(&state_dir, &attachment("b")).unwrap();
    for _ in 0..100 {
        if agent.told() == ["-b"] && pending::list(&state_dir).unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the detachment was not done: {:?}", agent.told());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_comes_back_is_not_hit_by_its_old_detachment() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    agent.reserve("a").await.unwrap();
    agent.attach("a").await.unwrap();
    // Between two looks at the folder.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let path = pending::leave(&agent.options.state_dir, &attachment("a")).unwrap();
    agent.reserve("a").await.unwrap();
    agent.attach("a").await.unwrap();
    assert!(!path.exists());
    assert_eq!(agent.told(), ["+a", "-a", "+a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_vanished_is_detached_by_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    agent.reserve("a").await.unwrap();
    agent.attach("a").await.unwrap();
    // No such interface was ever made. The first sweep runs at the start; the attachment came after it or is hit by it.
    let (events, mut inbox) = mpsc::channel(8);
    let (_node, seen) = watch::channel(NodeNetwork::default());
    let (ipam, _) = Ipam::restore(
        &agent.options.state_dir,
        &ipam::boot_id().unwrap(),
        Duration::ZERO,
        &Living {
            interfaces: ipam::LeaseFile::new(&agent.options.state_dir)
                .read()
                .unwrap()
                .unwrap()
                .endpoints
                .iter()
                .map(|endpoint| survivor("a", endpoint))
                .collect(),
            ..Living::default()
        },
        ipam::time_since_boot().unwrap(),
    )
    .unwrap();
    assert_eq!(ipam.leases.endpoints().count(), 1);
    let shared = Shared {
        options: agent.options.clone(),
        ipam: Mutex::new(ipam),
        on_disk: Arc::default(),
        in_flight: Mutex::default(),
        events,
        looks: mpsc::channel(1).0,
        node: seen,
        problems: Vec::new(),
        unsaved: Mutex::default(),
    };
    let netlink = Netlink::open().unwrap();
    let (swept, told) = tokio::join!(housekeeping::sweep_once(&shared, &netlink), async {
        let Some(CniEvent::Detach { attachment, done }) = inbox.recv().await else { panic!("no detachment") };
        done.send(Ok(())).unwrap();
        attachment.container_id
    });
    swept.unwrap();
    assert_eq!(told, "a");
    assert_eq!(shared.ipam.lock().unwrap().leases.endpoints().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_lease_file_is_a_problem_in_the_status() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::write(dir.path().join("state/leases.json"), "torn").unwrap();
    let (agent, _) = Agent::start(dir.path(), &Living::default(), Loop::Programs);
    let Reply::Status(status) = agent.call(Request::Status).await.unwrap() else { panic!("no status") };
    assert!(status.problems.iter().any(|problem| problem.contains("leases.json.corrupt-1")), "{status:?}");
}
