//! The agent of a node: start, ask, stop, kill.
use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use agent_api::{API_VERSION, Attachment, Envelope, Health, Reply, Request, SOCKET_NAME, Status, client};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;

use super::node::{Node, UPLINK};
use crate::{
    eventually::{PATIENCE, eventually},
    machine::{
        binaries::binary,
        process::{Place, Process},
    },
};

/// How long an agent may take to load its programs and read its manifests.
const START: Duration = Duration::from_secs(30);

/// All that an agent needs: `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`.
const CAPABILITIES: &[u8] = &[12, 38, 39];

/// A running agent.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Directories in place of the node's own.
    pub bpffs: Option<PathBuf>,
    pub cgroup_root: Option<PathBuf>,
    pub manifests: Option<PathBuf>,
    /// An API server in place of manifests.
    pub kubeconfig: Option<PathBuf>,
    pub uplink: &'static str,
    /// The agent of another release.
    pub agent: Option<PathBuf>,
    /// Options after the usual ones.
    pub arguments: Vec<String>,
    /// What the agent is allowed, by number (capabilities(7)).
    pub capabilities: &'static [u8],
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            bpffs: None,
            cgroup_root: None,
            manifests: None,
            kubeconfig: None,
            uplink: UPLINK,
            agent: None,
            arguments: Vec::new(),
            capabilities: CAPABILITIES,
        }
    }
}

/// An agent that ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What it logged since its start.
    pub log: String,
}

impl Node {
    /// Where the agent logs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Has every agent of this node start with these options from now on.
    pub fn start_agents_with(&self, arguments: &[&str]) {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        *self.usual.lock().unwrap_or_else(PoisonError::into_inner) = arguments;
    }

    /// Starts the agent and waits until it has programmed the cluster.
    pub fn start_agent(&self) -> Result<()> {
        self.spawn_agent(&AgentOptions::default())?;
        self.await_agent()
    }

    /// Starts the agent.
    pub fn spawn_agent(&self, options: &AgentOptions) -> Result<()> {
        let mut agent = self.agent();
        if agent.is_some() {
            bail!("the agent of {} runs already", self.spec.name);
        }
        *agent = Some(Running { process: self.spawn(options)? });
        Ok(())
    }

    /// Starts the agent with a command that lets it do something else than to run, on this node's maps.
    pub fn spawn_agent_command(&self, command: &str) -> Result<Process> {
        let mut agent = Command::new(binary("millrace-agent")?);
        agent.arg("--bpffs").arg(self.bpffs()).arg(command);
        self.log_output_of(&mut agent)?;
        Process::spawn(agent, self.host_place())
    }

    /// Starts an agent that is expected to end, and waits for that.
    pub fn run_agent(&self, options: &AgentOptions) -> Result<Ended> {
        let before = self.log().len();
        let mut process = self.spawn(options)?;
        let status = await_end(&mut process, START)?;
        Ok(Ended { status, log: self.log()[before..].to_owned() })
    }

    fn spawn(&self, options: &AgentOptions) -> Result<Process> {
        let agent = match &options.agent {
            Some(agent) => agent.clone(),
            None => binary("millrace-agent")?,
        };
        let mut command = Command::new(agent);
        let (source, path) = match &options.kubeconfig {
            Some(kubeconfig) => ("--kubeconfig", kubeconfig.clone()),
            None => ("--manifests", options.manifests.clone().unwrap_or_else(|| self.manifests())),
        };
        command
            .args(["--node-name", &self.spec.name, "--uplink", options.uplink])
            .arg(source)
            .arg(path)
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            // Agents of former releases do not know the option.
            .env("MILLRACE_HOST_LOCAL_DIR", self.host_local_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--bpffs")
            .arg(options.bpffs.as_deref().unwrap_or(self.bpffs()))
            .arg("--cgroup-root")
            .arg(options.cgroup_root.as_deref().unwrap_or(self.cgroup()))
            .args(&*self.usual.lock().unwrap_or_else(PoisonError::into_inner))
            .args(&options.arguments);
        self.log_output_of(&mut command)?;
        Process::spawn(command, Place { capabilities: Some(options.capabilities), ..self.host_place() })
    }

    /// Has a process write to the agent's log.
    fn log_output_of(&self, command: &mut Command) -> Result<()> {
        let path = self.log_path();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let errors = log.try_clone().context("duplicate the log")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Ok(())
    }

    /// Waits until the agent has read all manifests and programmed them.
    pub fn await_agent(&self) -> Result<()> {
        let name = &self.spec.name;
        eventually(format!("the agent of {name} is ready"), START, || {
            if let Some(agent) = &mut *self.agent()
                && let Some(status) = agent.process.ended()?
            {
                // Final: no later attempt can succeed.
                return Ok(Err(anyhow!("the agent of {name} ended with {status}:\n{}", self.log_tail())));
            }
            let status = self.status().map_err(|error| error.context(self.log_tail()))?;
            if !status.waiting_for.is_empty() {
                bail!("it waits for {}", status.waiting_for.join(", "));
            }
            Ok(Ok(()))
        })?
    }

    /// Asks the agent what it is doing.
    pub fn status(&self) -> Result<Status> {
        let path = self.runtime_dir().join(SOCKET_NAME);
        let socket = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
        socket.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
        let mut line = serde_json::to_string(&Envelope { version: API_VERSION, request: Request::Status })
            .context("encode a request")?;
        line.push('\n');
        (&socket).write_all(line.as_bytes()).context("ask the agent")?;
        let mut answer = String::new();
        BufReader::new(&socket).read_line(&mut answer).context("read the agent's answer")?;
        let reply = serde_json::from_str(&answer).with_context(|| format!("not a reply: {answer:?}"))?;
        let Reply::Status(status) = reply else { bail!("the agent answered {reply:?}") };
        Ok(*status)
    }

    /// Asks the agent whether the node can be used.
    pub fn health(&self) -> Result<Health> {
        let path = self.runtime_dir().join(SOCKET_NAME);
        let reply = client::call(&path, Request::Health, PATIENCE).context("ask the agent for its health")?;
        let Reply::Health(health) = reply else { bail!("the agent answered {reply:?}") };
        Ok(health)
    }

    /// Asks the agent what of an attachment is not in its place.
    pub fn check(&self, attachment: &Attachment) -> Result<Vec<String>> {
        let path = self.runtime_dir().join(SOCKET_NAME);
        let request = Request::Check { attachment: attachment.clone() };
        let reply = client::call(&path, request, PATIENCE).context("ask the agent about an attachment")?;
        let Reply::Checked(checked) = reply else { bail!("the agent answered {reply:?}") };
        Ok(checked.missing)
    }

    /// Ends the agent at once, without a chance to clean up.
    pub fn kill_agent(&self) -> Result<()> {
        self.end_agent(Signal::SIGKILL).map(drop)
    }

    /// Asks the agent to end and waits for it.
    pub fn stop_agent(&self) -> Result<ExitStatus> {
        self.end_agent(Signal::SIGTERM)
    }

    /// Stops the agent in the middle of whatever it does; [`Self::resume_agent`] lets it go on.
    pub fn pause_agent(&self) {
        self.signal_agent(Signal::SIGSTOP);
    }

    /// Lets a paused agent go on.
    pub fn resume_agent(&self) {
        self.signal_agent(Signal::SIGCONT);
    }

    /// The process of the agent, if one runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent().as_ref().map(|running| running.process.pid())
    }

    fn signal_agent(&self, signal: Signal) {
        if let Some(running) = self.agent().as_ref() {
            running.process.signal(signal);
        }
    }

    fn end_agent(&self, signal: Signal) -> Result<ExitStatus> {
        let running = self.agent().take();
        let mut running = running.with_context(|| format!("no agent runs on {}", self.spec.name))?;
        running.process.signal(signal);
        await_end(&mut running.process, PATIENCE)
    }

    /// All that agents of this node logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn agent(&self) -> MutexGuard<'_, Option<Running>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn await_end(process: &mut Process, deadline: Duration) -> Result<ExitStatus> {
    eventually("the agent ends", deadline, || process.ended()?.context("it runs"))
}
