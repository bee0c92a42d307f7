//! Names for the numbers in the maps, from the catalog that the agent writes.
use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_core::{
    catalog::{Catalog, FILE_NAME, RuleInfo, ServiceInfo},
    explain::{self, Explanation},
    ids::{ClassId, RuleId, ServiceId, SetId},
    model::ObjectName,
};
use dataplane_common::policy::{Direction, SET_DENY_ALL};
use serde::Serialize;

use crate::{agent, clock::spoken};

/// Who keeps a pod from talking freely in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "isolation", rename_all = "kebab-case")]
pub(crate) enum Isolation {
    None,
    By {
        policies: Vec<String>,
    },
    /// By policies that isolate nobody any more, at least not as they did.
    Formerly {
        policies: Vec<String>,
        seconds_ago: u64,
    },
    /// Isolated, by policies that the catalog does not name.
    BySet {
        set_id: u32,
    },
    /// The real set could not be written: the pod is cut off until it is.
    FailedClosed,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::By { policies } => f.write_str(&policies.join(", ")),
            Self::Formerly { policies, seconds_ago } => {
                let ago = spoken(Duration::from_secs(*seconds_ago));
                write!(f, "{}, as it was until {ago} ago", policies.join(", "))
            }
            Self::BySet { set_id } => write!(f, "set {set_id:08x}"),
            Self::FailedClosed => {
                f.write_str("everything: its pod is not known, or its policies could not be written")
            }
        }
    }
}

/// What the numbers and addresses in the maps are called. What is not known keeps its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Why names are missing.
    pub(crate) warning: Option<String>,
    pub(crate) catalog: Catalog,
    /// When they were read, in seconds since the epoch.
    read_at: u64,
}

impl Names {
    /// Asks the agent to bring its catalog up to date, and reads it. A dead agent has nothing to add.
    pub(crate) fn of_now(runtime_dir: &Path) -> Self {
        let stale = agent::refresh_names(runtime_dir);
        let names = Self::read(runtime_dir);
        Self { warning: names.warning.or(stale), ..names }
    }

    /// Reads the agent's catalog. Without it there are no names, which is a warning, no error.
    pub(crate) fn read(runtime_dir: &Path) -> Self {
        let path = runtime_dir.join(FILE_NAME);
        let read_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let warning = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(catalog) => return Self { warning: None, catalog, read_at },
                Err(error) => format!("{error}; the agent writes it anew with its next change"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "there is none; the agent writes it (another one may be meant: --runtime-dir)".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let warning =
            format!("numbers stand for names, for the catalog {} cannot be used: {warning}", path.display());
        Self { warning: Some(warning), catalog: Catalog::default(), read_at }
    }

    /// The pod that has an address.
    pub(crate) fn pod(&self, ip: IpAddr) -> Option<&ObjectName> {
        let local = self.catalog.endpoints.get(&ip).map(|endpoint| &endpoint.pod);
        local.or_else(|| self.catalog.pods.get(&ip))
    }

    /// The addresses of a pod, IPv4 first.
    pub(crate) fn addresses(&self, pod: &ObjectName) -> Vec<IpAddr> {
        let local = self.catalog.endpoints.iter().map(|(ip, endpoint)| (ip, &endpoint.pod));
        let all = local.chain(&self.catalog.pods);
        let addresses: BTreeSet<IpAddr> = all.filter(|(_, name)| *name == pod).map(|(ip, _)| *ip).collect();
        addresses.into_iter().collect()
    }

    /// The interface of a pod of this node.
    pub(crate) fn interface(&self, ip: IpAddr) -> Option<&str> {
        self.catalog.endpoints.get(&ip).map(|endpoint| endpoint.host_ifname.as_str())
    }

    /// A Service, with the name of the port when it has one.
    pub(crate) fn service(&self, id: u32) -> Option<String> {
        let ServiceInfo { service, port_name, .. } = self.catalog.services.get(&ServiceId(id))?;
        Some(if port_name.is_empty() { service.to_string() } else { format!("{service}:{port_name}") })
    }

    pub(crate) fn service_or_id(&self, id: u32) -> String {
        self.service(id).unwrap_or_else(|| format!("id {}", ServiceId(id)))
    }

    pub(crate) fn is_of_service(&self, id: u32, service: &ObjectName) -> bool {
        self.catalog.services.get(&ServiceId(id)).is_some_and(|info| info.service == *service)
    }

    /// The policies behind a policy set.
    pub(crate) fn isolation(&self, set: u32) -> Isolation {
        match (set, self.catalog.sets.get(&SetId(set))) {
            (0, _) => Isolation::None,
            (SET_DENY_ALL, _) => Isolation::FailedClosed,
            (_, Some(info)) => {
                Isolation::By { policies: info.policies.iter().map(ToString::to_string).collect() }
            }
            (set_id, None) => match self.catalog.former_sets.get(&SetId(set_id)) {
                Some(former) => Isolation::Formerly {
                    policies: former.policies.iter().map(ToString::to_string).collect(),
                    seconds_ago: self.read_at.saturating_sub(former.until),
                },
                None => Isolation::BySet { set_id },
            },
        }
    }

    pub(crate) fn direction(&self, set: u32) -> Option<Direction> {
        self.catalog.sets.get(&SetId(set)).map(|info| info.direction)
    }

    /// A rule, with what it allows.
    pub(crate) fn rule(&self, id: u32) -> String {
        let Some(info) = self.catalog.rules.get(&RuleId(id)) else { return format!("rule {}", RuleId(id)) };
        let RuleInfo { direction, peers_text, ports_text, .. } = info;
        let preposition = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{} ({preposition} {peers_text}, {ports_text})", position(info))
    }

    /// A rule, by its place alone.
    pub(crate) fn rule_position(&self, id: u32) -> String {
        self.catalog.rules.get(&RuleId(id)).map_or_else(|| format!("rule {}", RuleId(id)), position)
    }

    /// How the policies of a set judge a peer of these classes; `None` when the catalog does not know the set.
    pub(crate) fn explain(&self, set: u32, classes: &[u32], proto: u8, port: u16) -> Option<Explanation> {
        let classes: Vec<ClassId> = classes.iter().copied().map(ClassId).collect();
        explain::nearest(&self.catalog, SetId(set), &classes, proto, port)
    }

    /// What to add to "is not known", when names are missing.
    pub(crate) fn excuse(&self) -> &'static str {
        if self.warning.is_some() { " (its names are missing)" } else { "" }
    }
}

fn position(rule: &RuleInfo) -> String {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{} {direction} rule {}", rule.policy, rule.index + 1)
}

#[cfg(test)]
impl Names {
    pub(crate) fn with_pod(mut self, ip: &str, namespace: &str, name: &str) -> Self {
        self.catalog.pods.insert(ip.parse().unwrap(), ObjectName::new(namespace, name));
        self
    }

    pub(crate) fn with_service(mut self, id: u32, namespace: &str, name: &str, port_name: &str) -> Self {
        let info = ServiceInfo {
            service: ObjectName::new(namespace, name),
            port_name: port_name.to_owned(),
            protocol: agent_core::model::Protocol::Tcp,
            port: 80,
        };
        self.catalog.services.insert(ServiceId(id), info);
        self
    }

    /// A set of policies of the namespace `shop`.
    pub(crate) fn with_set(mut self, id: u32, direction: Direction, policies: &[&str]) -> Self {
        let policies = policies.iter().map(|&policy| ObjectName::new("shop", policy)).collect();
        let info = agent_core::catalog::SetInfo { direction, policies, rules: Vec::new(), ports: Vec::new() };
        self.catalog.sets.insert(SetId(id), info);
        self
    }

    /// A set of a policy of the namespace `shop` that went so long before the names were read.
    pub(crate) fn with_former_set(mut self, id: u32, policy: &str, seconds_ago: u64) -> Self {
        self.read_at = 1_000_000;
        let policies = vec![ObjectName::new("shop", policy)];
        let until = self.read_at - seconds_ago;
        self.catalog.former_sets.insert(SetId(id), agent_core::catalog::FormerSet { policies, until });
        self
    }

    /// The first ingress rule of a policy of the namespace `shop`.
    pub(crate) fn with_rule(mut self, id: u32, policy: &str, peers: &str, ports: &str) -> Self {
        let info = RuleInfo {
            policy: ObjectName::new("shop", policy),
            direction: Direction::Ingress,
            index: 0,
            peers_text: peers.to_owned(),
            ports_text: ports.to_owned(),
            peers: None,
            ports: None,
        };
        self.catalog.rules.insert(RuleId(id), info);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_is_read_as_the_agent_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let written =
            Names::default().with_pod("10.1.0.9", "shop", "db").with_set(1, Direction::Egress, &["a"]);
        fs::write(dir.path().join(FILE_NAME), serde_json::to_vec(&written.catalog).unwrap()).unwrap();
        let names = Names::read(dir.path());
        assert_eq!((names.catalog, names.warning), (written.catalog, None));
    }

    #[test]
    fn a_missing_catalog_is_one_warning_and_leaves_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::read(dir.path());
        let warning = names.warning.as_deref().unwrap();
        assert!(warning.contains(FILE_NAME) && warning.contains("there is none"), "{warning}");
        assert_eq!(names.rule(0x100), "rule 00000100");
        assert_eq!(names.isolation(7), Isolation::BySet { set_id: 7 });
    }

    #[test]
    fn a_truncated_catalog_is_one_warning() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "{\"node_name\":\"a\",\"rev").unwrap();
        let warning = Names::read(dir.path()).warning.unwrap();
        assert!(warning.contains("EOF while parsing") && !warning.contains('\n'), "{warning}");
    }

    #[test]
    fn a_rule_is_named_by_its_policy_and_what_it_allows() {
        let names = Names::default().with_rule(1, "db-access", "pods app=web of namespace shop", "TCP 5432");
        let rule = "shop/db-access ingress rule 1";
        assert_eq!(names.rule(1), format!("{rule} (from pods app=web of namespace shop, TCP 5432)"));
        assert_eq!(names.rule_position(1), rule);
    }
}
