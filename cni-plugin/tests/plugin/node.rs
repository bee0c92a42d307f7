//! A node and a pod as network namespaces, and the runtime that calls the plugin.
use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio, id},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::fake_agent::{FakeAgent, OnAttach};

/// A network namespace, removed with the value.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(kind: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mrcni-{}-{}-{kind}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let status = Command::new("ip").args(["netns", "add", &name]).status().expect("running ip");
        assert!(status.success(), "cannot make the network namespace {name}: this test needs root");
        Self { name }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a command inside and returns what it prints.
    pub(crate) fn run(&self, command: &str) -> String {
        let arguments = ["netns", "exec", &self.name].into_iter().chain(command.split_whitespace());
        let output = Command::new("ip").args(arguments).output().expect("running ip");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Runs something on a thread of its own inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.path()).expect("opening the namespace");
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
                work()
            });
            thread.join().expect("the work inside panicked")
        })
    }

    /// Names of the links inside, without loopback.
    pub(crate) fn links(&self) -> Vec<String> {
        let links: Vec<Value> = serde_json::from_str(&self.run("ip -j link")).expect("JSON of ip");
        let names = links.iter().map(|link| link["ifname"].as_str().expect("a name").to_owned());
        names.filter(|name| name != "lo").collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A node with one pod, an agent's directories, and the runtime's call.
pub(crate) struct Node {
    pub(crate) host: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) version: &'static str,
}

/// What the plugin answered.
pub(crate) struct Answer {
    pub(crate) success: bool,
    /// `null` when nothing was printed.
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Answer {
    /// The code of the error. Checks its form on the way.
    pub(crate) fn code(&self) -> u64 {
        assert!(!self.success, "expected an error, got {}", self.json);
        assert_eq!(self.stderr, "", "errors go to standard output");
        for field in ["cniVersion", "msg", "details"] {
            assert!(self.json[field].is_string(), "{field} in {}", self.json);
        }
        self.json["code"].as_u64().unwrap_or_else(|| panic!("no code in {}", self.json))
    }

    pub(crate) fn message(&self) -> &str {
        self.json["msg"].as_str().expect("a message")
    }

    pub(crate) fn assert_success(&self) {
        assert!(self.success, "{} {}", self.json, self.stderr);
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { host: Namespace::new("node"), pod: Namespace::new("pod"), dir, version: "1.1.0" }
    }

    pub(crate) fn with_agent(on_attach: OnAttach) -> (Self, FakeAgent) {
        let node = Self::new();
        let agent = FakeAgent::start(node.dir.path(), on_attach);
        (node, agent)
    }

    pub(crate) fn config(&self) -> Value {
        json!({
            "cniVersion": self.version,
            "name": "pods",
            "type": "millrace-cni",
            "runtimeDir": self.dir.path(),
            "stateDir": self.state_dir(),
        })
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The variables of a valid call.
    pub(crate) fn variables(&self, verb: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_COMMAND", verb.into()),
            ("CNI_CONTAINERID", "c0ffee".into()),
            ("CNI_NETNS", self.pod.path()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1".into()),
            ("CNI_PATH", "/opt/cni/bin".into()),
        ]
    }

    pub(crate) fn call(&self, verb: &str) -> Answer {
        self.call_with(&self.variables(verb), self.config().to_string().as_bytes())
    }

    pub(crate) fn call_with_config(&self, verb: &str, config: &Value) -> Answer {
        self.call_with(&self.variables(verb), config.to_string().as_bytes())
    }

    pub(crate) fn call_with(&self, variables: &[(&str, String)], input: &[u8]) -> Answer {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.host.name, env!("CARGO_BIN_EXE_millrace-cni")])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("running the plugin");
        // The plugin may stop reading early.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        let Output { status, stdout, stderr } = child.wait_with_output().expect("waiting for the plugin");
        let json = if stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&stdout).expect("standard output is not JSON")
        };
        Answer { success: status.success(), json, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    /// Checks that neither namespace holds anything of a pod.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.host.links(), Vec::<String>::new());
        assert_eq!(self.pod.links(), Vec::<String>::new());
        assert_eq!(self.host.run("ip route") + &self.host.run("ip -6 route"), "");
    }
}
