//! STATUS: whether ADD would succeed.
use super::require_version;
use crate::{
    agent::Agent,
    config::NetConf,
    spec::{Code, Error, Version},
};

pub(crate) fn status(conf: &NetConf) -> Result<(), Error> {
    require_version(conf, "STATUS", Version::V1_1_0)?;
    let not_ready = |message: String| Error::new(Code::NotReady, message);
    let status = Agent::new(conf).status().map_err(|error| not_ready(error.message).and(&error.details))?;
    if status.waiting_for.is_empty() {
        return Ok(());
    }
    Err(not_ready(format!("millrace-agent is starting: it waits for {}", status.waiting_for.join(", "))))
}
