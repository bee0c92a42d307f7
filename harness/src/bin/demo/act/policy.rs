//! The database policy: one client is allowed, the other denied, and the policy named.
use std::{net::SocketAddr, time::Instant};

use anyhow::{Result, bail};
use harness::{
    probe::wire::{Outcome, Target},
    topology::Topology,
};

use super::{ALL, SILENCE, TIMEOUT, is_denied, millrace, reaches};
use crate::{
    cast::{Cast, DATABASE_PORT},
    show::{self, Show},
};

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: database
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: database
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: my-api
    ports:
    - protocol: TCP
      port: 5432
";

pub(crate) fn play(show: &Show, topology: &Topology, cast: &Cast) -> Result<()> {
    show.title("2  Only my-api may use the database");
    let service = SocketAddr::new(cast.database_service.v4.into(), DATABASE_PORT);
    let service_v6 = SocketAddr::new(cast.database_service.v6.into(), DATABASE_PORT);
    let [pod, _] = cast.database.at(DATABASE_PORT);
    let (my_api, visitor, node) = (cast.my_api.probe(), cast.visitor.probe(), topology.node(1));
    show::say("Without a policy everybody reaches it:");
    reaches(show, "my-api", my_api, service)?;
    reaches(show, "visitor", visitor, service)?;
    reaches(show, "the client outside", topology.client(), pod)?;
    let (held, opened) = visitor.open(Target::tcp(service), TIMEOUT)?;
    if !opened.is_answered() {
        bail!("visitor: {opened}");
    }

    show::say("The policy of the Kubernetes documentation, written into the folder of manifests:");
    show.quote(POLICY);
    let begun = Instant::now();
    topology.control_plane.apply_yaml(POLICY)?;
    topology.settle()?;
    show.good(&format!("in the maps of both nodes after {} ms", begun.elapsed().as_millis()));
    reaches(show, "my-api", my_api, service)?;
    reaches(show, "my-api, IPv6", my_api, service_v6)?;
    is_denied(show, "visitor", visitor, service)?;
    is_denied(show, "visitor, IPv6", visitor, service_v6)?;
    is_denied(show, "the client outside", topology.client(), pod)?;
    let outcome = held.exchange(SILENCE)?;
    if outcome != Outcome::TimedOut {
        bail!("visitor's open connection, which is forbidden now: {outcome}");
    }
    show.stopped("visitor's open connection    cut: the policy reaches established flows");
    reaches(show, "a probe from its own node", node.host(), pod)?;
    millrace(show, node, &["why", "shop/visitor -> shop/database:5432"], ALL)?;
    millrace(show, node, &["why", "shop/my-api -> shop/database:5432"], ALL)?;
    millrace(show, node, &["drops"], ALL)
}
