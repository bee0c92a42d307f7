//! A control plane that is one etcd and one API server: kube-proxy and the agent need no more. The EndpointSlices are
//! written through the API by the benchmark itself.
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use harness::{
    eventually::eventually,
    machine::{
        cgroup::{self, Cgroup},
        netns::Netns,
        process::{Place, Process},
        run::Run,
    },
};
use serde_json::json;

use super::{
    api::Api,
    binaries::Binaries,
    service::{Protocol, Service},
};
use crate::interrupt;

/// How long etcd and the API server may take.
const START: Duration = Duration::from_mins(2);

/// The API server's address, on the loopback interface of its namespace; nodes have a route to it.
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);
const PORT: u16 = 6443;

/// What the API server knows its only user by. It listens in a network namespace of its own.
const TOKEN: &str = "benchmark";

/// A running control plane. Everything goes when it is dropped.
pub(crate) struct ControlPlane {
    api: Api,
    // From here on in the order of taking down.
    _api_server: Process,
    _etcd: Process,
    _cgroup: Cgroup,
    netns: Netns,
    folder: Folder,
}

/// A folder that goes when it is dropped.
struct Folder {
    run: Run,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.run.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("remove {}: {error}", self.run.folder().display());
        }
    }
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    pub(crate) fn start() -> Result<Self> {
        let binaries = Binaries::find()?;
        let run = Run::unique();
        let path = run.folder();
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let folder = Folder { run: run.clone() };
        let cgroup = Cgroup::create(&cgroup::root()?, &run.to_string())?;
        let netns = Netns::create(&run.part("control"))?;
        netns.ip(&format!("addr add {ADDR}/32 dev lo\n"))?;
        let place = Place { netns: &netns, cgroup: &cgroup, outlives: false, capabilities: None };
        let etcd = start("etcd", &path, etcd(&binaries, &path), place)?;
        keys(&path)?;
        let mut api_server = start("api-server", &path, api_server(&binaries, &path), place)?;
        fs::write(path.join("kubeconfig"), kubeconfig()).context("write a kubeconfig")?;
        let api = Api::open(&path.join("kubeconfig"), &netns.path())?;
        eventually("the API server is ready", START, || {
            if let Some(status) = api_server.ended()? {
                let log = fs::read_to_string(path.join("api-server.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n");
                // Final: no later attempt can succeed.
                return Ok(Err(anyhow::anyhow!("the API server ended with {status}:\n{tail}")));
            }
            if let Err(stopped) = interrupt::check() {
                return Ok(Err(stopped));
            }
            api.ready().map(Ok)
        })??;
        Ok(Self { api, _api_server: api_server, _etcd: etcd, _cgroup: cgroup, netns, folder })
    }

    pub(crate) const fn api(&self) -> &Api {
        &self.api
    }

    /// For clients that are cabled to it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.run.folder().join("kubeconfig")
    }

    /// Connects a node's namespace with a link and a route of its own; `number` is another for each node.
    pub(crate) fn cable(&self, node: &Netns, number: u8) -> Result<()> {
        let (here, there) = (format!("10.245.{number}.1"), format!("10.245.{number}.2"));
        self.netns.ip(&format!(
            "link add node{number} type veth peer name control netns {}\n\
             addr add {here}/24 dev node{number}\n\
             link set node{number} up\n",
            node.name()
        ))?;
        node.ip(&format!(
            "addr add {there}/24 dev control\n\
             link set control up\n\
             route add {ADDR}/32 via {here}\n"
        ))
    }
}

/// The service that every API server makes for itself.
pub(crate) fn service() -> Service {
    Service {
        namespace: "default".to_owned(),
        name: "kubernetes".to_owned(),
        port_name: "https".to_owned(),
        protocol: Protocol::Tcp,
        cluster_ip: Ipv4Addr::new(10, 96, 0, 1),
        port: 443,
        backends: vec![SocketAddrV4::new(ADDR, PORT)],
        affinity: None,
    }
}

fn start(name: &str, folder: &Path, mut command: Command, place: Place<'_>) -> Result<Process> {
    let path = folder.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let errors = log.try_clone().context("duplicate a log")?;
    // Ctrl-C is for the benchmark, which ends this when it is done with it.
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    Process::spawn(command, place)
}

fn etcd(binaries: &Binaries, folder: &Path) -> Command {
    let mut etcd = Command::new(&binaries.etcd);
    etcd.arg("--data-dir").arg(folder.join("etcd")).args([
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        // The data lives as long as the benchmark; the disk is not what is measured.
        "--unsafe-no-fsync",
    ]);
    etcd
}

fn api_server(binaries: &Binaries, folder: &Path) -> Command {
    let file = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    let mut server = Command::new(&binaries.kube);
    server.arg("kube-apiserver").args([
        "--etcd-servers=http://127.0.0.1:2379",
        &format!("--advertise-address={ADDR}"),
        &format!("--secure-port={PORT}"),
        &file("cert-dir", "certificates"),
        &file("token-auth-file", "tokens.csv"),
        &file("service-account-key-file", "service-accounts.pub"),
        &file("service-account-signing-key-file", "service-accounts.key"),
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/12",
        "--authorization-mode=RBAC",
        // Nobody makes service accounts here, and pods are objects only.
        "--disable-admission-plugins=ServiceAccount",
    ]);
    server
}

/// The token of the only user, and the keys without which the API server does not start.
fn keys(folder: &Path) -> Result<()> {
    fs::write(folder.join("tokens.csv"), format!("{TOKEN},benchmark,benchmark,\"system:masters\"\n"))
        .context("write the tokens")?;
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
        let output = output.context("run openssl: apt-get install openssl")?;
        if !output.status.success() {
            bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    openssl(&["genrsa", "-out", "service-accounts.key", "2048"])?;
    openssl(&["rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub"])
}

fn kubeconfig() -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "bench", "cluster": {
            "server": format!("https://{ADDR}:{PORT}"),
            // The certificate is one that the API server made for itself.
            "insecure-skip-tls-verify": true,
        } }],
        "users": [{ "name": "bench", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
        "current-context": "bench",
    })
    .to_string()
}
