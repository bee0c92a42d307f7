//! STATUS: whether ADD would succeed.
//!
//! A kubelet makes a node of which STATUS fails unready, and the pods on it with it: the whole cluster stops sending
//! them traffic, though they work. An agent that is being replaced must not cause that, so STATUS goes on succeeding for
//! a while after the agent last served; an ADD in that time is tried again.
use std::{fs, io, path::Path, time::Duration};

use agent_api::disk;
use nix::time::{ClockId, clock_gettime};

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
    let served = conf.runtime_dir.join(agent_api::SERVED_NAME);
    let now = Moment::now();
    match ask(conf) {
        Ok(()) => {
            // If it cannot be written, there is no grace.
            let _ = now.and_then(|now| now.write(&served));
            Ok(())
        }
        Err(_) if now.is_ok_and(|now| now.is_soon_after(&served)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn ask(conf: &NetConf) -> Result<(), Error> {
    let not_ready = |message: String| Error::new(Code::NotReady, message);
    let health = Agent::new(conf).health().map_err(|error| not_ready(error.message).and(&error.details))?;
    match health.refusing.split_first() {
        None => Ok(()),
        Some((first, more)) => {
            let error = not_ready(format!("millrace-agent cannot serve a pod: {first}"));
            Err(more.iter().fold(error, |error, sentence| error.and(sentence)))
        }
    }
}

/// A moment of one boot. The wall clock would do for no grace: it jumps, by hours when it is first set.
struct Moment {
    boot_id: String,
    since_boot: Duration,
}

impl Moment {
    fn now() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id, since_boot: clock_gettime(ClockId::CLOCK_BOOTTIME)?.into() })
    }

    fn write(&self, mark: &Path) -> io::Result<()> {
        let text = format!("{} {}\n", self.boot_id, self.since_boot.as_millis());
        disk::replace(mark, text.as_bytes(), 0o644)
    }

    /// Whether the mark is of this boot and not older than the grace.
    fn is_soon_after(&self, mark: &Path) -> bool {
        let text = fs::read_to_string(mark).unwrap_or_default();
        text.trim().split_once(' ').is_some_and(|(boot_id, millis)| {
            let marked = millis.parse().map(Duration::from_millis);
            let since = marked.ok().and_then(|marked| self.since_boot.checked_sub(marked));
            boot_id == self.boot_id && since.is_some_and(|since| since < GRACE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_a_minute_of_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("served");
        let at = |boot_id: &str, seconds| Moment {
            boot_id: boot_id.to_owned(),
            since_boot: Duration::from_secs(seconds),
        };
        assert!(!at("a", 10).is_soon_after(&mark), "there is no mark");
        at("a", 100).write(&mark).unwrap();
        for (boot_id, seconds, expected) in
            [("a", 100, true), ("a", 159, true), ("a", 160, false), ("a", 99, false), ("b", 100, false)]
        {
            assert_eq!(at(boot_id, seconds).is_soon_after(&mark), expected, "{boot_id} {seconds}");
        }
        for damaged in ["", "a", "a x", "100"] {
            fs::write(&mark, damaged).unwrap();
            assert!(!at("a", 100).is_soon_after(&mark), "{damaged:?}");
        }
        assert!(Moment::now().unwrap().since_boot > Duration::ZERO);
    }
}
