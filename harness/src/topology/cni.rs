//! Calls of the CNI binary, as a container runtime makes them.
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::node::Node;
use crate::machine::{binaries::binary, process::Process};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniCall {
    /// `CNI_COMMAND`.
    pub command: String,
    /// Environment besides the command; absent ones are not set.
    pub container_id: Option<String>,
    pub netns: Option<PathBuf>,
    pub ifname: Option<String>,
    pub args: Option<String>,
    /// Standard input.
    pub config: String,
}

/// The outcome of a call: the result, or the error that the plugin printed.
pub type CniResult = std::result::Result<Value, CniError>;

/// An error of the CNI specification, and how the plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    pub code: u64,
    pub message: String,
    pub details: String,
    pub exit_code: Option<i32>,
    /// Everything on standard output and standard error.
    pub output: String,
}

impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CNI error {}: {} ({})", self.code, self.message, self.details)
    }
}

impl std::error::Error for CniError {}

impl Node {
    /// The network configuration of this node, of a CNI version.
    #[must_use]
    pub fn cni_config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "millrace",
            "type": "millrace-cni",
            "runtimeDir": self.runtime_dir(),
            "stateDir": self.state_dir(),
        })
    }

    /// Runs the CNI binary in the node's namespace.
    pub fn cni(&self, call: &CniCall) -> Result<CniResult> {
        let mut command = Command::new(binary("millrace-cni")?);
        command.env_clear().env("CNI_COMMAND", &call.command).env("CNI_PATH", "/opt/cni/bin");
        let optional = [
            ("CNI_CONTAINERID", call.container_id.clone()),
            ("CNI_NETNS", call.netns.as_ref().map(|path| path.display().to_string())),
            ("CNI_IFNAME", call.ifname.clone()),
            ("CNI_ARGS", call.args.clone()),
        ];
        command.envs(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A runtime's child, in the runtime's cgroup.
        let output = Process::within(self.netns(), command)?.finish(call.config.as_bytes())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            // DEL and CHECK print nothing.
            if stdout.trim().is_empty() {
                return Ok(Ok(Value::Null));
            }
            let result = serde_json::from_str(&stdout);
            return result.map(Ok).with_context(|| format!("the result is not JSON: {stdout:?}"));
        }
        let error: Value = serde_json::from_str(&stdout).unwrap_or_default();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        Ok(Err(CniError {
            code: error["code"].as_u64().unwrap_or_default(),
            message: text("msg"),
            details: text("details"),
            exit_code: output.status.code(),
            output: stdout + &String::from_utf8_lossy(&output.stderr),
        }))
    }
}
