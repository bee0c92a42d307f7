//! Switches below `/proc/sys` that forwarding needs.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent_api::disk;
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
    #[error(
        "{name} was {before} before Millrace and cannot be set back from here: run `sysctl -w {name}={before}`"
    )]
    Restore {
        name: String,
        before: String,
        #[source]
        source: io::Error,
    },
}

/// The switches of the agent's network namespace.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
    /// Where it is written down what was set, so that an uninstallation can set it back.
    record: PathBuf,
}

/// The record's name in the state directory: a line for each switch, with the boot's identity, the name, the value
/// before and the one after.
pub const RECORD: &str = "sysctls";

impl Sysctls {
    /// The switches below a mount of `/proc/sys`, with a record in the state directory.
    #[must_use]
    pub fn at(root: &Path, state_dir: &Path) -> Self {
        Self { root: root.to_owned(), record: state_dir.join(RECORD) }
    }

    /// Sets back what was set since the boot and is still as it was set. Returns a sentence for each.
    ///
    /// # Errors
    /// A sentence for each switch that stays as it is, with the remedy.
    #[must_use]
    pub fn restore(&self) -> Vec<Result<String, SysctlError>> {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        let boot_id = self.boot_id();
        let mut restored = Vec::new();
        for line in text.lines() {
            let [boot, name, before, after] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            // Another boot began with what the administrator says, and whoever changed it since wants it so.
            if boot != boot_id || self.read(name).ok().as_deref() != Some(after) {
                continue;
            }
            let write = fs::write(self.root.join(name), before);
            restored.push(match write {
                Ok(()) => Ok(format!("{} is {before} again", shown(name))),
                Err(source) => {
                    Err(SysctlError::Restore { name: shown(name), before: before.to_owned(), source })
                }
            });
        }
        restored
    }

    fn boot_id(&self) -> String {
        self.read("kernel/random/boot_id")
            .or_else(|_| Self::at(Path::new("/proc/sys"), Path::new("")).read("kernel/random/boot_id"))
            .unwrap_or_default()
    }

    /// Writes down what is about to be set. The first value of a boot counts.
    fn write_down(&self, name: &str, before: &str, after: &str) -> io::Result<()> {
        let boot_id = self.boot_id();
        let known = fs::read_to_string(&self.record).unwrap_or_default();
        if known.lines().any(|line| line.starts_with(&format!("{boot_id} {name} "))) {
            return Ok(());
        }
        let of_this_boot = known.lines().filter(|line| line.starts_with(&boot_id));
        let line = format!("{boot_id} {name} {before} {after}");
        let lines = of_this_boot.chain([line.as_str()]);
        let text = lines.flat_map(|line| [line, "\n"]).collect::<String>();
        disk::replace(&self.record, text.as_bytes(), 0o644)
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
        if let Err(error) = self.write_down(name, &found, wanted) {
            tracing::warn!(%error, "{} stays {wanted} when Millrace is removed: its value before cannot be kept", shown(name));
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
        let sysctls = Sysctls::at(dir.path(), dir.path());
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
    fn what_was_set_is_set_back_unless_somebody_wants_it_otherwise() {
        const V4: &str = "net/ipv4/ip_forward";
        for (meanwhile, expected) in [("1", "0"), ("2", "2")] {
            let (dir, sysctls) = tree(&[(V4, "0"), (V6, "0"), (RA, "1"), ("kernel/random/boot_id", "this")]);
            assert!(sysctls.restore().is_empty(), "nothing was set");
            sysctls.ensure_forwarding(Family::V4, None).unwrap();
            sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap();
            fs::write(dir.path().join(V4), meanwhile).unwrap();
            let values = || [V4, V6, RA].map(|name| sysctls.read(name).unwrap());
            assert_eq!(values()[1..], ["1", "2"]);
            // An agent that starts again finds all as it wants it, and forgets nothing.
            sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap();
            let sentences: Vec<String> = sysctls.restore().into_iter().map(Result::unwrap).collect();
            assert!(
                sentences.contains(&"net.ipv6.conf.all.forwarding is 0 again".to_owned()),
                "{sentences:?}"
            );
            assert_eq!(values(), [expected, "0", "1"]);
        }
    }

    #[test]
    fn what_an_earlier_boot_was_set_to_is_nobodys_business() {
        let (dir, sysctls) = tree(&[("net/ipv4/ip_forward", "0"), ("kernel/random/boot_id", "this")]);
        sysctls.ensure_forwarding(Family::V4, None).unwrap();
        fs::write(dir.path().join("kernel/random/boot_id"), "next").unwrap();
        assert!(sysctls.restore().is_empty());
        assert_eq!(sysctls.read("net/ipv4/ip_forward").unwrap(), "1");
    }

    #[test]
    fn a_missing_switch_is_named_as_sysctl_names_it() {
        let (_dir, sysctls) = tree(&[(V6, "0")]);
        let error = sysctls.ensure_forwarding(Family::V6, Some("eth0.5")).unwrap_err().to_string();
        assert!(error.contains("net.ipv6.conf.eth0/5.accept_ra"), "{error}");
    }
}
