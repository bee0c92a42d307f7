//! The control plane: etcd, the API server, and as much of the rest as is asked for, on a machine of its own.
use std::{net::TcpListener, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    address::{Families, Family, url_host},
    api::Api,
    certificates::{Authority, Subject, write},
    component::{self, Component},
    fabric::new_netns,
    forward,
    name::ClusterName,
    place::Place,
    programs::Programs,
    proxy,
};
use crate::{
    eventually::eventually,
    machine::{cgroup, netns::Netns},
};

/// The name of its machine.
pub const MACHINE: &str = "control";

/// The port of the API server.
pub const API_PORT: u16 = 6443;

/// How long the API server may take to be ready, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// One note of each request of the agents, when it is answered: a watch when it begins.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ['system:serviceaccount:kube-system:millrace']}
- {level: None}
";

/// How much of the control plane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The API alone.
    Api,
    /// Also the controllers: EndpointSlices, service accounts.
    Controllers,
    /// Also the scheduler.
    Whole,
}

/// A running control plane. It stays up when this value is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: ClusterName,
    families: Families,
    extent: Extent,
    programs: Programs,
    netns: Netns,
    authority: Authority,
}

impl ControlPlane {
    /// Starts it in a network namespace, and waits until the API answers.
    pub fn start(
        cluster: &ClusterName,
        netns: Netns,
        families: Families,
        extent: Extent,
        programs: &Programs,
    ) -> Result<Self> {
        let authority = Authority::create(&cluster.folder().join("pki"))?;
        let plane =
            Self { cluster: cluster.clone(), families, extent, programs: programs.clone(), netns, authority };
        plane.write_credentials()?;
        plane.start_etcd()?;
        plane.start_api_server()?;
        plane.publish()?;
        plane.wait_for_api()?;
        plane.start_controllers()?;
        Ok(plane)
    }

    /// Starts one without any node, in a network of its own that only this machine's loopback leads to: for callers that
    /// need the API and nothing that runs pods. Pods are made ready by patching their status.
    pub fn alone(cluster: &ClusterName, families: Families, extent: Extent) -> Result<(Self, Api)> {
        let programs = Programs::find()?;
        super::claim(cluster)?;
        component::prepare(cluster)?;
        let plane = Self::start(cluster, new_netns(cluster, MACHINE)?, families, extent, &programs)?;
        let api = Api::connect(&plane.kubeconfig())?;
        proxy::allow(&api)?;
        Ok((plane, api))
    }

    /// The control plane of a cluster that is up.
    pub fn open(
        cluster: &ClusterName,
        families: Families,
        extent: Extent,
        programs: &Programs,
    ) -> Result<Self> {
        Ok(Self {
            cluster: cluster.clone(),
            families,
            extent,
            programs: programs.clone(),
            netns: Netns::open(&cluster.part(MACHINE))?,
            authority: Authority::open(&cluster.folder().join("pki"))?,
        })
    }

    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Its programs' folder.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    #[must_use]
    pub const fn families(&self) -> Families {
        self.families
    }

    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The API server as machines on the cluster's network see it.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}:{API_PORT}", url_host(self.families.first().control_plane()))
    }

    /// The administrator's kubeconfig, for this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.cluster)
    }

    /// A program of the control plane, by its name.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        Component::new(&self.cluster, MACHINE, name)
    }

    /// The programs that run, in the order of their start.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        let all = ["etcd", "kube-apiserver", "forward", "kube-controller-manager", "kube-scheduler"];
        let running = match self.extent {
            Extent::Api => 3,
            Extent::Controllers => 4,
            Extent::Whole => 5,
        };
        all[..running].iter().map(|name| self.component(name)).collect()
    }

    /// Starts the API server, also after it was killed.
    pub fn start_api_server(&self) -> Result<()> {
        let pki = self.authority.folder();
        let file = |name: &str| pki.join(name).display().to_string();
        let families = self.families;
        let mut command = self.kube("kube-apiserver")?;
        command.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--advertise-address={}", families.first().control_plane()),
            "--bind-address=::".to_owned(),
            format!("--secure-port={API_PORT}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--kubelet-client-certificate={}", file("admin.crt")),
            format!("--kubelet-client-key={}", file("admin.key")),
            // Node names do not resolve.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={}", families.list(Family::service_cidr)),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
        ]);
        self.component("kube-apiserver").start(&self.place()?, command)
    }

    /// Where the API server notes what Millrace asks of it, a line of JSON for each request.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.cluster.folder().join("logs/audit.log")
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_for_api(&self) -> Result<()> {
        let api = Api::connect(&self.kubeconfig())?;
        let server = self.component("kube-apiserver");
        eventually("the API server is ready", PATIENCE, || {
            // An error that waiting does not cure ends the wait below.
            if server.pid().is_none() {
                return Ok(());
            }
            api.ready()
        })?;
        server.check_runs()
    }

    /// Makes the API reachable on this machine's loopback, and writes the administrator's kubeconfig for it.
    fn publish(&self) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on 127.0.0.1")?;
        let server = format!("https://{}", listener.local_addr().context("the address of a listener")?);
        forward::start(&self.component("forward"), &self.place()?, listener)?;
        let text = self.authority.kubeconfig(&server, "admin", Some("system:masters"))?;
        write(&self.kubeconfig(), &text)
    }

    fn start_etcd(&self) -> Result<()> {
        let mut command = Command::new(self.programs.path("etcd")?);
        command.env_clear().arg("--data-dir").arg(self.cluster.folder().join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // Nobody misses the data after a power failure.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        self.component("etcd").start(&self.place()?, command)
    }

    /// Starts controllers and scheduler, also after they were killed.
    pub fn start_controllers(&self) -> Result<()> {
        if self.extent == Extent::Api {
            return Ok(());
        }
        let pki = self.authority.folder();
        let mut command = self.kube("kube-controller-manager")?;
        command.args([
            format!("--kubeconfig={}", pki.join("controllers.conf").display()),
            format!("--service-account-private-key-file={}", pki.join("accounts.key").display()),
            format!("--root-ca-file={}", pki.join("ca.crt").display()),
            "--use-service-account-credentials".to_owned(),
            // Nodes get their pod CIDRs when they are made, so that routes need not wait.
            "--allocate-node-cidrs=false".to_owned(),
            "--leader-elect=false".to_owned(),
            // A node that is gone shall be seen soon.
            "--node-monitor-period=2s".to_owned(),
            "--node-monitor-grace-period=20s".to_owned(),
        ]);
        self.component("kube-controller-manager").start(&self.place()?, command)?;
        if self.extent == Extent::Controllers {
            return Ok(());
        }
        let mut command = self.kube("kube-scheduler")?;
        command.arg(format!("--kubeconfig={}", pki.join("scheduler.conf").display()));
        command.arg("--leader-elect=false");
        self.component("kube-scheduler").start(&self.place()?, command)
    }

    /// Certificates and kubeconfigs of the control plane's own programs, the administrator's, and what is noted.
    fn write_credentials(&self) -> Result<()> {
        write(&self.authority.folder().join("audit.yaml"), AUDIT_POLICY)?;
        let families = self.families.each().iter();
        let addresses: Vec<_> = families
            .flat_map(|family| [family.control_plane(), family.api_service()])
            .chain([[127, 0, 0, 1].into()])
            .collect();
        let host_names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let server =
            Subject { name: "kube-apiserver", group: None, addresses: &addresses, host_names: &host_names };
        self.authority.sign_to_file("apiserver", &server)?;
        let admin = Subject { name: "admin", group: Some("system:masters"), addresses: &[], host_names: &[] };
        self.authority.sign_to_file("admin", &admin)?;
        let local = format!("https://127.0.0.1:{API_PORT}");
        for (file, user) in [
            ("controllers.conf", "system:kube-controller-manager"),
            ("scheduler.conf", "system:kube-scheduler"),
        ] {
            write(&self.authority.folder().join(file), &self.authority.kubeconfig(&local, user, None)?)?;
        }
        Ok(())
    }

    fn kube(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.path(name)?);
        command.env_clear();
        Ok(command)
    }

    /// Where its programs run.
    pub fn place(&self) -> Result<Place> {
        let groups = cgroup::hierarchies()?.into_iter().filter(|hierarchy| hierarchy.version_2);
        let group = |hierarchy: cgroup::Hierarchy| hierarchy.group(&self.cluster.part_group(MACHINE));
        Ok(Place::network(&self.netns, groups.map(group).collect::<Result<_>>()?))
    }
}

/// Where the administrator's kubeconfig of a cluster is.
#[must_use]
pub fn kubeconfig(cluster: &ClusterName) -> PathBuf {
    cluster.folder().join("kubeconfig")
}
