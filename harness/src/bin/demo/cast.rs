//! Who plays: the pods and services, and the picture of them.
use std::{sync::Arc, time::Instant};

use anyhow::Result;
use harness::{
    cluster::{BARRIER_IP, ClusterIps, PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, holds},
    probe::wire::Transport,
    topology::{CLIENT_V4, Pod, Topology},
};

use crate::{interrupt, show::Show};

pub(crate) const NAMESPACE: &str = "shop";
/// The service's port, and the pods' behind it.
pub(crate) const WEB_PORT: u16 = 80;
const WEB_TARGET: u16 = 8080;
pub(crate) const DATABASE_PORT: u16 = 5432;

/// The pods and services of the demo.
pub(crate) struct Cast {
    /// Three, on both nodes.
    pub(crate) webs: Vec<Arc<Pod>>,
    pub(crate) database: Arc<Pod>,
    /// May use the database.
    pub(crate) my_api: Arc<Pod>,
    /// May not.
    pub(crate) visitor: Arc<Pod>,
    pub(crate) web: ClusterIps,
    pub(crate) database_service: ClusterIps,
}

impl Cast {
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        let clients = [&self.my_api, &self.visitor, &self.database];
        clients.into_iter().chain(&self.webs).map(Arc::as_ref)
    }
}

/// Starts the agents, creates the pods and services, and draws them.
pub(crate) fn enter(show: &Show, topology: &Topology) -> Result<Cast> {
    let begun = Instant::now();
    topology.start_agents()?;
    show.good(&format!("two agents loaded their programs in {} ms", begun.elapsed().as_millis()));

    topology.control_plane.apply_namespace(NAMESPACE, &[])?;
    let begun = Instant::now();
    let pod = |name: &str, app: &str, node: usize| -> Result<Arc<Pod>> {
        interrupt::check()?;
        topology.add_pod(PodSpec::new(NAMESPACE, name).label("app", app).on(node))
    };
    let webs = vec![pod("web-1", "web", 0)?, pod("web-2", "web", 0)?, pod("web-3", "web", 1)?];
    let my_api = pod("my-api", "my-api", 0)?;
    let visitor = pod("visitor", "visitor", 0)?;
    let database = pod("database", "database", 1)?;
    let took = begun.elapsed().as_millis() / 6;
    show.good(&format!("six pods, {took} ms each: object, CNI ADD, policy in the maps, process"));

    for web in &webs {
        web.probe().listen(Transport::Tcp, WEB_TARGET)?;
        web.probe().listen(Transport::Udp, WEB_TARGET)?;
    }
    database.probe().listen(Transport::Tcp, DATABASE_PORT)?;
    let spec = ServiceSpec::new(NAMESPACE, "web").select("app", "web");
    let spec = spec.port(Protocol::Tcp, WEB_PORT, WEB_TARGET).port(Protocol::Udp, WEB_PORT, WEB_TARGET);
    let web = topology.control_plane.apply_service(&spec)?;
    let spec = ServiceSpec::new(NAMESPACE, "database").select("app", "database");
    let database_service =
        topology.control_plane.apply_service(&spec.port(Protocol::Tcp, DATABASE_PORT, DATABASE_PORT))?;
    topology.settle()?;
    without_barrier(topology)?;
    let cast = Cast { webs, database, my_api, visitor, web, database_service };
    show.quote(&picture(&cast));
    Ok(cast)
}

/// Removes the Service by which [`Topology::settle`] knows that the nodes are done: it is no part of the play.
pub(crate) fn without_barrier(topology: &Topology) -> Result<()> {
    topology.control_plane.remove_marks()?;
    for node in topology.nodes() {
        holds("the nodes forget the marks", PATIENCE, || {
            node.maps().has_frontend(BARRIER_IP, 1).is_ok_and(|is| !is)
        })?;
    }
    Ok(())
}

fn picture(cast: &Cast) -> String {
    let at = |pod: &Pod| format!("{:<9}{}", pod.name(), pod.ip(false));
    let [one, two, three] = [0, 1, 2].map(|index| at(&cast.webs[index]));
    let (api, visitor, database) = (at(&cast.my_api), at(&cast.visitor), at(&cast.database));
    format!(
        "
                       client {CLIENT_V4}
                               │
              ─────────────────┴───── fabric ─────────
                │                               │
      ┌─ node-1 ┴ 192.168.77.11 ─┐    ┌─ node-2 ┴ 192.168.77.12 ─┐
      │  {one:<22}  │    │  {three:<22}  │
      │  {two:<22}  │    │  {database:<22}  │
      │  {api:<22}  │    └──────────────────────────┘
      │  {visitor:<22}  │
      └──────────────────────────┘    service web       {}:{WEB_PORT}
                                      service database  {}:{DATABASE_PORT}
",
        cast.web.v4, cast.database_service.v4
    )
}
