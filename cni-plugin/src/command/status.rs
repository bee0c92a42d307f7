//! STATUS: whether ADD would succeed.
//!
//! A kubelet makes a node of which STATUS fails unready, and the pods on it with it: the whole cluster stops sending
//! them traffic, though they work. An agent that is being replaced must not cause that, so STATUS goes on succeeding for
//! a while after the agent last served; an ADD in that time is tried again.
use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use super::require_version;
use crate::{
    agent::Agent,
    config::NetConf,
    spec::{Code, Error, Version},
};

/// Longer than another agent takes to start, and much shorter than the cluster waits before it moves the pods.
const GRACE: Duration = Duration::from_mins(1);

pub(crate) fn status(conf: &NetConf) -> Result<(), Error> {
    require_version(conf, "STATUS", Version::V1_1_0)?;
    // In the runtime directory: a boot empties it.
    let served = conf.runtime_dir.join(agent_api::SERVED_NAME);
    match ask(conf) {
        Ok(()) => {
            // If it cannot be written, there is no grace.
            let _ = File::create(&served);
            Ok(())
        }
        Err(_) if served_lately(&served) => Ok(()),
        Err(error) => Err(error),
    }
}

fn ask(conf: &NetConf) -> Result<(), Error> {
    let not_ready = |message: String| Error::new(Code::NotReady, message);
    let status = Agent::new(conf).status().map_err(|error| not_ready(error.message).and(&error.details))?;
    if status.waiting_for.is_empty() {
        return Ok(());
    }
    Err(not_ready(format!("millrace-agent is starting: it waits for {}", status.waiting_for.join(", "))))
}

fn served_lately(mark: &Path) -> bool {
    let time = fs::metadata(mark).and_then(|metadata| metadata.modified());
    time.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|since| since < GRACE))
}
