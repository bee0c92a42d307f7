//! Addresses of the pods of this node: who has which, on disk, and compared with what lives.
mod file;
pub mod host_local;
mod leases;
mod pool;

use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path, time::Duration};

use agent_api::interface::Label;
use agent_core::model::{
    ObjectName,
    endpoint::{AttachmentId, Endpoint},
};
use dataplane_common::net::MacAddr;
pub use file::{Damage, FileError, LeaseFile, Stored};
pub use leases::{Counted, Interface, LeaseError, Leases, Others, RESERVATION_LIFETIME};

/// A host-side interface that exists: what an agent that remembers nothing can know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub host_mac: MacAddr,
    /// From the link's alias.
    pub label: Option<Label>,
    /// From the permanent neighbours.
    pub pod_mac: Option<MacAddr>,
    /// From the host's routes.
    pub addresses: Vec<IpAddr>,
}

impl Survivor {
    /// Whether an endpoint is this interface.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.host_ifname == endpoint.host_ifname
            && self.host_ifindex == endpoint.host_ifindex
            && self.host_mac == endpoint.host_mac
    }

    /// The endpoint that the interface belongs to, if it tells.
    fn endpoint(&self) -> Option<Endpoint> {
        let label = self.label.as_ref()?;
        let pod = label.pod.as_ref()?;
        if self.addresses.is_empty() {
            return None;
        }
        Some(Endpoint {
            attachment: AttachmentId {
                container_id: label.attachment.container_id.clone(),
                ifname: label.attachment.ifname.clone(),
            },
            pod: ObjectName::new(&pod.namespace, &pod.name),
            pod_uid: pod.uid.clone(),
            ips: self.addresses.clone(),
            host_ifname: self.host_ifname.clone(),
            host_ifindex: self.host_ifindex,
            host_mac: self.host_mac,
            pod_mac: self.pod_mac?,
            netns: label.netns,
        })
    }
}

/// What the kernel knows of the node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Living {
    pub interfaces: Vec<Survivor>,
    /// Addresses in the pinned endpoint maps.
    pub pinned: Vec<IpAddr>,
    /// Addresses that the host has itself, or that it routes to, and that are not of these interfaces.
    pub foreign: Vec<IpAddr>,
}

impl Living {
    /// Every address that is in use.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of_interfaces = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        of_interfaces.chain(&self.foreign).copied()
    }
}

/// The leases and their file.
#[derive(Debug)]
pub struct Ipam {
    pub leases: Leases,
    file: LeaseFile,
    boot_id: String,
    /// How often something changed that belongs on disk.
    revision: u64,
}

/// Leases on their way to disk.
#[derive(Debug)]
pub struct Snapshot {
    pub revision: u64,
    file: LeaseFile,
    stored: Stored,
}

impl Snapshot {
    /// Writes it.
    ///
    /// # Errors
    /// If the state directory cannot be written.
    pub fn write(&self) -> Result<(), FileError> {
        self.file.write(&self.stored)
    }
}

impl Ipam {
    /// Restores the leases: from the file what still lives, and from the interfaces what the file does not know.
    ///
    /// The second value says what was wrong with the file, when it could not be used.
    ///
    /// # Errors
    /// If there is a file that cannot be read at all: going on could give one address to two pods.
    pub fn restore(
        state_dir: &Path,
        boot_id: &str,
        cool_down: Duration,
        living: &Living,
        now: Duration,
    ) -> Result<(Self, Option<FileError>), FileError> {
        let file = LeaseFile::new(state_dir);
        let (stored, damage) = match file.read() {
            Ok(stored) => (stored.unwrap_or_default(), None),
            Err(damage @ FileError::Damaged { .. }) => (Stored::default(), Some(damage)),
            Err(error @ (FileError::Read { .. } | FileError::Write { .. })) => return Err(error),
        };
        let leases = restore(stored, boot_id, cool_down, living, now);
        Ok((Self { leases, file, boot_id: boot_id.to_owned(), revision: 0 }, damage))
    }

    /// Notes a change that belongs on disk, and numbers it.
    pub fn changed(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// The leases as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let stored = Stored {
            boot_id: self.boot_id.clone(),
            endpoints: self.leases.endpoints().cloned().collect(),
            cooling: self.leases.cooling.iter().map(|(address, until)| (*address, *until)).collect(),
            cursors: self.leases.cursors.iter().map(|(cidr, address)| (*cidr, *address)).collect(),
        };
        Snapshot { revision: self.revision, file: self.file.clone(), stored }
    }
}

/// Pure part of [`Ipam::restore`].
fn restore(stored: Stored, boot_id: &str, cool_down: Duration, living: &Living, now: Duration) -> Leases {
    let mut leases = Leases::new(cool_down);
    leases.cursors = stored.cursors.into_iter().collect();
    if stored.boot_id == boot_id {
        // A time far ahead is not of this clock.
        leases.cooling =
            stored.cooling.into_iter().filter(|(_, until)| (now..=now + cool_down).contains(until)).collect();
        for endpoint in stored.endpoints {
            if living.interfaces.iter().any(|interface| interface.is(&endpoint)) {
                leases.attach(endpoint);
            } else {
                leases.cool(&endpoint.ips, now);
            }
        }
    }
    let known: BTreeSet<String> = leases.endpoints().map(|endpoint| endpoint.host_ifname.clone()).collect();
    for interface in living.interfaces.iter().filter(|interface| !known.contains(&interface.host_ifname)) {
        // Two interfaces with one address: the first keeps it, and no third one gets it.
        if let Some(endpoint) = interface.endpoint()
            && !endpoint.ips.iter().any(|address| leases.is_leased(*address))
        {
            leases.attach(endpoint);
        }
    }
    leases.block(living.addresses());
    let gone: Vec<IpAddr> =
        living.pinned.iter().copied().filter(|address| !leases.is_leased(*address)).collect();
    leases.cool(&gone, now);
    leases
}

/// This boot's identity, as the kernel gives it.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The time since boot, with the time the machine slept.
///
/// # Errors
/// Never on Linux.
pub fn time_since_boot() -> io::Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?.into())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use agent_api::{Attachment, PodRef};

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);
    const COOL_DOWN: Duration = Duration::from_secs(30);

    fn survivor(number: u8) -> Survivor {
        Survivor {
            host_ifname: format!("mr{number}"),
            host_ifindex: u32::from(number),
            host_mac: [2, 0, 0, 0, 0, number],
            label: Some(Label {
                network: "pods".into(),
                attachment: Attachment { container_id: format!("c{number}"), ifname: "eth0".into() },
                netns: NonZeroU64::new(4000 + u64::from(number)),
                pod: Some(PodRef { namespace: "ns".into(), name: format!("web-{number}"), uid: "u".into() }),
            }),
            pod_mac: Some([2, 0, 0, 0, 1, number]),
            addresses: vec![[10, 0, 0, number].into()],
        }
    }

    fn endpoint(number: u8) -> Endpoint {
        survivor(number).endpoint().unwrap()
    }

    fn living(numbers: &[u8]) -> Living {
        Living { interfaces: numbers.iter().copied().map(survivor).collect(), ..Living::default() }
    }

    fn stored(numbers: &[u8]) -> Stored {
        let endpoints = numbers.iter().copied().map(endpoint).collect();
        Stored { boot_id: "this".into(), endpoints, ..Stored::default() }
    }

    fn restored(stored: Stored, living: &Living) -> Leases {
        restore(stored, "this", COOL_DOWN, living, NOW)
    }

    fn names(leases: &Leases) -> Vec<&str> {
        leases.endpoints().map(|endpoint| endpoint.pod.name.as_str()).collect()
    }

    /// All addresses of a small range, as they are handed out now.
    fn hand_out(leases: &mut Leases) -> Vec<String> {
        leases.set_pod_cidrs(&["10.0.0.0/29".parse().unwrap()]);
        let mut reserve = |number: usize| {
            let id = AttachmentId { container_id: format!("new-{number}"), ifname: "eth0".into() };
            leases.reserve(&id, &ObjectName::new("ns", "new"), "", NOW).ok()
        };
        (0..).map_while(&mut reserve).map(|ips| ips[0].to_string()).collect()
    }

    #[test]
    fn an_endpoint_whose_interface_lives_is_restored_as_it_was() {
        let leases = restored(stored(&[2, 3]), &living(&[2, 3]));
        assert_eq!(leases.endpoints().cloned().collect::<Vec<_>>(), [endpoint(2), endpoint(3)]);
    }

    #[test]
    fn an_endpoint_whose_interface_is_gone_is_dropped_and_its_address_cools_down() {
        let mut leases = restored(stored(&[2, 3]), &living(&[3]));
        assert_eq!(names(&leases), ["web-3"]);
        assert_eq!(hand_out(&mut leases), ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"], "it comes last");
    }

    #[test]
    fn an_interface_of_the_same_name_but_another_index_is_another_interface() {
        let mut other = living(&[2]);
        other.interfaces[0].host_ifindex = 99;
        other.interfaces[0].label = None;
        let mut leases = restored(stored(&[2]), &other);
        assert_eq!(names(&leases), Vec::<&str>::new());
        assert!(!hand_out(&mut leases).contains(&"10.0.0.2".to_owned()), "the address still lives");
    }

    #[test]
    fn leases_of_another_boot_are_dropped_and_the_order_of_addresses_goes_on() {
        let mut stored = stored(&[2, 3]);
        stored.boot_id = "another".into();
        stored.cooling = vec![([10, 0, 0, 4].into(), NOW + COOL_DOWN)];
        stored.cursors = vec![("10.0.0.0/29".parse().unwrap(), [10, 0, 0, 5].into())];
        let mut leases = restored(stored, &living(&[]));
        assert_eq!(names(&leases), Vec::<&str>::new());
        assert_eq!(hand_out(&mut leases), ["10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    }

    #[test]
    fn without_a_file_endpoints_are_rebuilt_from_their_interfaces() {
        let leases = restored(Stored::default(), &living(&[2, 3]));
        assert_eq!(leases.endpoints().cloned().collect::<Vec<_>>(), [endpoint(2), endpoint(3)]);
    }

    #[test]
    fn an_address_on_an_interface_that_does_not_tell_its_pod_is_not_handed_out() {
        let mut silent = living(&[2, 3]);
        silent.interfaces[0].label = None;
        silent.interfaces[1].pod_mac = None;
        let mut leases = restored(Stored::default(), &silent);
        assert_eq!(names(&leases), Vec::<&str>::new());
        assert_eq!(hand_out(&mut leases), ["10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    }

    #[test]
    fn two_interfaces_with_one_address_do_not_become_two_endpoints() {
        let mut twice = living(&[2, 3]);
        twice.interfaces[1].addresses = twice.interfaces[0].addresses.clone();
        assert_eq!(names(&restored(Stored::default(), &twice)), ["web-2"]);
    }

    #[test]
    fn addresses_in_the_maps_without_an_interface_cool_down() {
        let pinned = Living { pinned: vec![[10, 0, 0, 2].into()], ..living(&[]) };
        let mut leases = restored(Stored::default(), &pinned);
        assert_eq!(hand_out(&mut leases).last().map(String::as_str), Some("10.0.0.2"));
    }

    #[test]
    fn after_any_damage_of_the_file_no_living_address_is_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let restore = |now| Ipam::restore(dir.path(), "this", COOL_DOWN, &living(&[2, 5]), now).unwrap();
        let (mut ipam, damage) = restore(NOW);
        assert!(damage.is_none());
        assert_eq!(hand_out(&mut ipam.leases), ["10.0.0.3", "10.0.0.4", "10.0.0.6"]);
        ipam.snapshot().write().unwrap();
        let whole = fs::read(LeaseFile::new(dir.path()).path()).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(LeaseFile::new(dir.path()).path(), &whole[..length]).unwrap();
            let (mut ipam, damage) = restore(NOW);
            assert!(matches!(damage, Some(FileError::Damaged { .. })), "cut at {length}");
            assert_eq!(names(&ipam.leases), ["web-2", "web-5"]);
            assert_eq!(hand_out(&mut ipam.leases), ["10.0.0.3", "10.0.0.4", "10.0.0.6"]);
        }
    }

    #[test]
    fn a_cool_down_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ipam, _) = Ipam::restore(dir.path(), "this", COOL_DOWN, &living(&[2]), NOW).unwrap();
        ipam.leases.release(&endpoint(2).attachment, NOW).unwrap();
        ipam.snapshot().write().unwrap();
        let (mut ipam, _) = Ipam::restore(dir.path(), "this", COOL_DOWN, &living(&[]), NOW).unwrap();
        assert_eq!(hand_out(&mut ipam.leases).last().map(String::as_str), Some("10.0.0.2"));
        let later = NOW + COOL_DOWN;
        let (ipam, _) =
            Ipam::restore(dir.path(), "this", COOL_DOWN, &living(&[]), later + COOL_DOWN).unwrap();
        assert!(ipam.leases.cooling.is_empty());
    }

    #[test]
    fn the_clock_and_the_boot_are_known() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(time_since_boot().unwrap() > Duration::ZERO);
    }
}
