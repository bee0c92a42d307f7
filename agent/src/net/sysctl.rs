//! Switches below `/proc/sys` that forwarding needs.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent_core::model::Family;

/// A switch that is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("cannot read {name}: is /proc mounted?")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{name} is {found} and must be {wanted}, but cannot be set from here: run `sysctl -w {name}={wanted}` on the node"
    )]
    Write {
        name: String,
        found: String,
        wanted: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The switches of the agent's network namespace.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self { root: "/proc/sys".into() }
    }
}

impl Sysctls {
    /// The switches below a mount of `/proc/sys`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the node forward packets of a family. `true`: something was changed.
    ///
    /// # Errors
    /// If a switch is off and cannot be set: in a container `/proc/sys` is often read-only.
    pub fn ensure_forwarding(&self, family: Family, uplink: Option<&str>) -> Result<bool, SysctlError> {
        match family {
            Family::V4 => self.ensure("net/ipv4/ip_forward", "1"),
            Family::V6 => {
                let name = "net/ipv6/conf/all/forwarding";
                if self.read(name)? == "1" {
                    return Ok(false);
                }
                // A forwarding node ignores router advertisements on interfaces where `accept_ra` is 1, and would
                // lose the default route that it may have from them.
                if let Some(uplink) = uplink {
                    let accept_ra = format!("net/ipv6/conf/{uplink}/accept_ra");
                    if self.read(&accept_ra)? == "1" {
                        self.ensure(&accept_ra, "2")?;
                    }
                }
                self.ensure(name, "1")
            }
        }
    }

    fn ensure(&self, name: &str, wanted: &'static str) -> Result<bool, SysctlError> {
        let found = self.read(name)?;
        if found == wanted {
            return Ok(false);
        }
        fs::write(self.root.join(name), wanted).map(|()| true).map_err(|source| SysctlError::Write {
            name: shown(name),
            found,
            wanted,
            source,
        })
    }

    fn read(&self, name: &str) -> Result<String, SysctlError> {
        let text = fs::read_to_string(self.root.join(name));
        text.map(|text| text.trim().to_owned())
            .map_err(|source| SysctlError::Read { name: shown(name), source })
    }
}

/// With slashes for dots in names of interfaces, and dots for slashes, as `sysctl` reads it.
fn shown(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(switches: &[(&str, &str)]) -> (tempfile::TempDir, Sysctls) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in switches {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let sysctls = Sysctls::at(dir.path());
        (dir, sysctls)
    }

    const V6: &str = "net/ipv6/conf/all/forwarding";
    const RA: &str = "net/ipv6/conf/eth0.5/accept_ra";

    #[test]
    fn forwarding_is_switched_on_once() {
        let (_dir, sysctls) = tree(&[("net/ipv4/ip_forward", "0")]);
        assert!(sysctls.ensure_forwarding(Family::V4, None).unwrap());
        assert!(!sysctls.ensure_forwarding(Family::V4, None).unwrap());
    }

    #[test]
    fn an_uplink_that_lives_from_router_advertisements_keeps_them() {
        for (before, after) in [("1", "2"), ("0", "0"), ("2", "2")] {
            let (_dir, sysctls) = tree(&[(V6, "0"), (RA, before)]);
            assert!(sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap());
            assert_eq!(
                (sysctls.read(V6).unwrap().as_str(), sysctls.read(RA).unwrap().as_str()),
                ("1", after)
            );
        }
    }

    #[test]
    fn what_an_administrator_chose_with_forwarding_on_is_left_alone() {
        let (_dir, sysctls) = tree(&[(V6, "1"), (RA, "1")]);
        assert!(!sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap());
        assert_eq!(sysctls.read(RA).unwrap(), "1");
    }

    #[test]
    fn a_missing_switch_is_named_as_sysctl_names_it() {
        let (_dir, sysctls) = tree(&[(V6, "0")]);
        let error = sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap_err().to_string();
        assert!(error.contains("net.ipv6.conf.eth0/5.accept_ra"), "{error}");
    }
}
