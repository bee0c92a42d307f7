//! The name of a cluster, and the names of all that it makes on the machine.
use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{Result, bail};

/// Where the folders of clusters are. Not in `/tmp`: images would fill a machine's memory.
const FOLDERS: &str = "/var/lib/millrace-cluster";

/// Marks what belongs to a cluster of ours. No cluster name holds a dot, so that no name begins like another.
const MARK: &str = "mrc.";

/// Longest name: a cgroup, a namespace and a host name are made of it.
const LONGEST: usize = 30;

/// Names one cluster of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(String);

impl ClusterName {
    /// What everything of this cluster on the machine is called, or begins with and a dot.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("{MARK}{}", self.0)
    }

    /// The name of a part: a network namespace.
    #[must_use]
    pub fn part(&self, part: &str) -> String {
        format!("{MARK}{}.{part}", self.0)
    }

    /// The cgroup of a part, below the root of each hierarchy.
    #[must_use]
    pub fn part_group(&self, part: &str) -> String {
        format!("{}/{part}", self.scope())
    }

    /// The folder of its files.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(FOLDERS).join(&self.0)
    }

    /// The cluster that something of this name belongs to.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        name.strip_prefix(MARK)?.split('.').next()?.parse().ok()
    }

    /// The folder that holds one folder for each cluster.
    #[must_use]
    pub fn folders() -> PathBuf {
        PathBuf::from(FOLDERS)
    }
}

impl FromStr for ClusterName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(is_plain) || name.starts_with('-') {
            bail!(
                "{name:?} cannot be the name of a cluster: use 1 to {LONGEST} of the characters a-z, 0-9 and -, \
                 not beginning with -"
            );
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_makes_names_it() {
        let name: ClusterName = "web".parse().expect("a name");
        assert_eq!(ClusterName::of(&name.part("node-1")), Some(name.clone()));
        assert_eq!(ClusterName::of(&name.scope()), Some(name));
        assert_eq!(ClusterName::of("mrc.web-2.node-1"), "web-2".parse().ok());
        assert_eq!(ClusterName::of("cni-1234"), None);
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for bad in ["", "../x", "a.b", "-rf", "UPPER", &"x".repeat(31)] {
            let message = bad.parse::<ClusterName>().expect_err(bad).to_string();
            assert!(message.contains("cannot be the name of a cluster"), "{message}");
        }
    }
}
