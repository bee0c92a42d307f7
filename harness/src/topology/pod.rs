//! A pod: its namespace, its cgroup and the process in it.
use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{cni::CniCall, node::Node};
use crate::{
    cluster::PodSpec,
    machine::{
        cgroup::{self, Cgroup},
        netns::{self, Netns},
        process::Place,
        run::Run,
    },
    probe::client::Probe,
};

/// The CNI version that pods are attached with, unless a test says otherwise.
const CNI_VERSION: &str = "1.1.0";
const IFNAME: &str = "eth0";

/// A pod of the topology.
#[derive(Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    node: usize,
    /// As its kubelet says it.
    uid: String,
    container_id: String,
    /// Result of ADD.
    result: OnceLock<Value>,
    ips: OnceLock<Vec<IpAddr>>,
    probe: Probe,
    cgroup: Cgroup,
    netns: Netns,
}

/// The two ends of a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodMacs {
    pub pod: [u8; 6],
    pub host: [u8; 6],
}

impl Pod {
    /// Makes namespace, cgroup and process; the pod has no interface yet.
    pub(super) fn build(run: &Run, node: &Node, spec: &PodSpec, uid: &str, outlives: bool) -> Result<Self> {
        let PodSpec { namespace, name, .. } = spec;
        let netns = Netns::create(&run.part(&format!("{namespace}-{name}")))?;
        let cgroup = Cgroup::create(node.pods_cgroup().path(), &format!("{namespace}_{name}"))?;
        let place = Place { netns: &netns, cgroup: &cgroup, outlives, capabilities: None };
        let probe = Probe::start(run, &format!("{namespace}/{name}"), place)?;
        Ok(Self {
            namespace: namespace.clone(),
            name: name.clone(),
            node: spec.node,
            uid: spec.static_hash.as_deref().unwrap_or(uid).to_owned(),
            container_id: format!("{run}-{}", uid.rsplit('-').next().unwrap_or(uid)),
            result: OnceLock::new(),
            ips: OnceLock::new(),
            probe,
            cgroup,
            netns,
        })
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the pod's node.
    #[must_use]
    pub const fn node(&self) -> usize {
        self.node
    }

    /// The pod's process.
    #[must_use]
    pub const fn probe(&self) -> &Probe {
        &self.probe
    }

    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    #[must_use]
    pub const fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The pod's addresses; none before it is attached.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        self.ips.get().map_or(&[], Vec::as_slice)
    }

    /// The pod's address of a family.
    #[must_use]
    pub fn ip(&self, v6: bool) -> IpAddr {
        let ip = self.ips().iter().find(|ip| ip.is_ipv6() == v6);
        *ip.unwrap_or_else(|| panic!("{}/{} lacks an address of the family", self.namespace, self.name))
    }

    /// A port of the pod, in both families.
    #[must_use]
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::new(self.ip(false), port), SocketAddr::new(self.ip(true), port)]
    }

    /// What ADD returned.
    #[must_use]
    pub fn cni_result(&self) -> &Value {
        self.result.get().unwrap_or(&Value::Null)
    }

    /// The link-layer addresses that ADD reported: the pod's and its host's side.
    pub fn macs(&self) -> Result<PodMacs> {
        let interfaces =
            self.cni_result()["interfaces"].as_array().context("the result has no interfaces")?;
        let mac = |inside: bool| {
            let interface = interfaces.iter().find(|interface| interface["sandbox"].is_string() == inside);
            let mac = interface
                .and_then(|interface| interface["mac"].as_str())
                .context("an interface has no `mac`")?;
            parse_mac(mac).with_context(|| format!("{mac} is no link-layer address"))
        };
        Ok(PodMacs { pod: mac(true)?, host: mac(false)? })
    }

    /// A CNI call about this pod.
    #[must_use]
    pub fn cni_call(&self, node: &Node, command: &str) -> CniCall {
        CniCall {
            command: command.to_owned(),
            container_id: Some(self.container_id.clone()),
            netns: Some(self.netns.path()),
            ifname: Some(IFNAME.to_owned()),
            args: Some(format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                self.namespace, self.name, self.container_id, self.uid
            )),
            config: node.cni_config(CNI_VERSION).to_string(),
        }
    }

    /// Removes all that the pod has on the machine, for good, also while somebody still holds the pod.
    pub(super) fn remove(&self) {
        self.probe.kill();
        if let Err(error) = cgroup::remove(self.cgroup.path()) {
            eprintln!("remove cgroup {}: {error}", self.cgroup.path().display());
        }
        netns::delete(self.netns.name());
    }

    /// CNI ADD.
    pub(super) fn attach(&self, node: &Node) -> Result<()> {
        let what = || format!("attach {}/{}", self.namespace, self.name);
        let result = node.cni(&self.cni_call(node, "ADD"))?.with_context(what)?;
        let ips = addresses(&result).with_context(|| format!("{}: {result}", what()))?;
        if self.ips.set(ips).is_err() {
            bail!("{}: it is attached already", what());
        }
        // Set together with the addresses.
        let _ = self.result.set(result);
        Ok(())
    }

    /// CNI DEL.
    pub(super) fn detach(&self, node: &Node) -> Result<()> {
        let deleted = node.cni(&self.cni_call(node, "DEL"))?;
        deleted.map(drop).with_context(|| format!("detach {}/{}", self.namespace, self.name))
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// The addresses of a CNI result.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().context("the result of ADD has no `ips`")?;
    ips.iter()
        .map(|ip| {
            let address = ip["address"].as_str().context("an IP has no `address`")?;
            let (address, _) = address.split_once('/').context("an address has no prefix length")?;
            address.parse().with_context(|| format!("{address} is not an address"))
        })
        .collect()
}
