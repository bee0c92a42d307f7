//! How the interfaces and routes of pods are recognised: names, link aliases, route protocols.
//!
//! Everything an agent that remembers nothing needs to know about an interface is on the interface itself.
use std::{fmt, num::NonZeroU64, str::FromStr};

use crate::{Attachment, PodRef};

/// Every host-side interface begins with this.
pub const HOST_IFNAME_PREFIX: &str = "mr";

/// `rtm_protocol` of the host's routes to the pods of this node.
pub const POD_ROUTE_PROTOCOL: u8 = 201;

/// `rtm_protocol` of the host's routes to the pods of other nodes.
pub const NODE_ROUTE_PROTOCOL: u8 = 202;

/// The kernel stores aliases of at most this many bytes.
const ALIAS_MAX: usize = 255;

/// First word of the alias, with the version of its form.
const ALIAS_MARK: &str = "millrace/1";

/// In front of the number of the pod's network namespace: no name of a pod begins like this.
const NETNS_MARK: &str = "netns=";

/// FNV-1a, 64 bits: stable over versions and machines, unlike the standard library's hashers.
#[must_use]
pub fn fnv1a(parts: &[&[u8]]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| {
        // A zero byte after each part: ("ab", "c") and ("a", "bc") differ.
        step(part.iter().fold(hash, |hash, byte| step(hash, *byte)), 0)
    })
}

/// Name of the host side of an attachment's interface: 14 characters, one less than the kernel allows.
#[must_use]
pub fn host_ifname(attachment: &Attachment) -> String {
    let hash = fnv1a(&[attachment.container_id.as_bytes(), attachment.ifname.as_bytes()]);
    format!("{HOST_IFNAME_PREFIX}{:012x}", (hash >> 48) ^ (hash & 0xffff_ffff_ffff))
}

/// A side of the pair of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Host,
    Pod,
}

/// Ethernet address of a side of an attachment's interface: unicast, locally administered.
///
/// An address that was set explicitly is left alone by udev's `MACAddressPolicy=persistent`, which would otherwise
/// change it after the static neighbours were written.
#[must_use]
pub fn mac_address(attachment: &Attachment, side: Side) -> [u8; 6] {
    let side: &[u8] = match side {
        Side::Host => b"host",
        Side::Pod => b"pod",
    };
    let hash = fnv1a(&[attachment.container_id.as_bytes(), attachment.ifname.as_bytes(), side]);
    let [_, _, first, rest @ ..] = (hash ^ (hash >> 48)).to_be_bytes();
    let [second, third, fourth, fifth, sixth] = rest;
    [(first & 0xfc) | 0x02, second, third, fourth, fifth, sixth]
}

/// What the link alias of both sides says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name of the CNI network.
    pub network: String,
    pub attachment: Attachment,
    /// The pod's network namespace; see [`crate::netns::cookie`].
    pub netns: Option<NonZeroU64>,
    /// `None` when it did not fit.
    pub pod: Option<PodRef>,
}

impl Label {
    /// The alias: as much of the label as the kernel stores. `None` when not even the attachment fits.
    #[must_use]
    pub fn to_alias(&self) -> Option<String> {
        let whole = self.to_string();
        if whole.len() <= ALIAS_MAX {
            return Some(whole);
        }
        let short = Self { pod: None, ..self.clone() }.to_string();
        (short.len() <= ALIAS_MAX).then_some(short)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attachment { container_id, ifname } = &self.attachment;
        write!(f, "{ALIAS_MARK} {} {container_id} {ifname}", self.network)?;
        if let Some(PodRef { namespace, name, uid }) = &self.pod {
            write!(f, " {namespace}/{name} {uid}")?;
        }
        if let Some(netns) = self.netns {
            write!(f, " {NETNS_MARK}{netns}")?;
        }
        Ok(())
    }
}

/// The alias is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a label of the form `{ALIAS_MARK} NETWORK CONTAINER IFNAME [NAMESPACE/POD UID] [netns=NUMBER]`")]
pub struct NotALabel;

impl FromStr for Label {
    type Err = NotALabel;

    fn from_str(alias: &str) -> Result<Self, NotALabel> {
        let mut words = alias.split(' ');
        let mut word = || words.next().map(str::to_owned).ok_or(NotALabel);
        if word()? != ALIAS_MARK {
            return Err(NotALabel);
        }
        let network = word()?;
        let attachment = Attachment { container_id: word()?, ifname: word()? };
        let mut rest: Vec<&str> = words.collect();
        let netns = match rest.last().and_then(|last| last.strip_prefix(NETNS_MARK)) {
            None => None,
            Some(number) => {
                let number = number.parse().map_err(|_| NotALabel)?;
                rest.pop();
                Some(number)
            }
        };
        let pod = match *rest {
            [] => None,
            [pod, uid] => {
                let (namespace, name) = pod.split_once('/').ok_or(NotALabel)?;
                Some(PodRef { namespace: namespace.into(), name: name.into(), uid: uid.into() })
            }
            _ => return Err(NotALabel),
        };
        Ok(Self { network, attachment, netns, pod })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container_id: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container_id.into(), ifname: ifname.into() }
    }

    fn label(uid: &str) -> Label {
        Label {
            network: "pods".into(),
            attachment: attachment("0123abc", "eth0"),
            netns: NonZeroU64::new(4711),
            pod: Some(PodRef { namespace: "default".into(), name: "web-0".into(), uid: uid.into() }),
        }
    }

    #[test]
    fn host_names_fit_the_kernel_and_tell_attachments_apart() {
        let names = [("a", "eth0"), ("a", "eth1"), ("b", "eth0"), ("ae", "th0")]
            .map(|(container, ifname)| host_ifname(&attachment(container, ifname)));
        assert!(
            names.iter().all(|name| name.len() <= 15 && name.starts_with(HOST_IFNAME_PREFIX)),
            "{names:?}"
        );
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "{names:?}");
    }

    #[test]
    fn the_two_sides_have_unicast_local_addresses_that_differ() {
        for id in 0..1000 {
            let attachment = attachment(&format!("container-{id}"), "eth0");
            let (host, pod) = (mac_address(&attachment, Side::Host), mac_address(&attachment, Side::Pod));
            assert_ne!(host, pod);
            assert!([host, pod].iter().all(|mac| mac[0] & 3 == 2), "{host:x?} {pod:x?}");
        }
    }

    #[test]
    fn a_label_survives_the_alias() {
        for uid in ["", "6f3c"] {
            for netns in [None, NonZeroU64::new(1), Some(NonZeroU64::MAX)] {
                for label in [Label { netns, ..label(uid) }, Label { netns, pod: None, ..label(uid) }] {
                    assert_eq!(label.to_alias().unwrap().parse(), Ok(label));
                }
            }
        }
    }

    #[test]
    fn a_label_too_long_for_the_kernel_keeps_the_attachment() {
        let long = label(&"u".repeat(300));
        let kept: Label = long.to_alias().unwrap().parse().unwrap();
        assert_eq!(kept, Label { pod: None, ..long });
    }

    #[test]
    fn foreign_aliases_are_no_labels() {
        for alias in [
            "",
            "uplink",
            "millrace/1",
            "millrace/1 pods c1",
            "millrace/2 pods c1 eth0",
            "millrace/1 pods c1 eth0 netns=0",
        ] {
            assert_eq!(alias.parse::<Label>(), Err(NotALabel), "{alias}");
        }
    }
}
