//! Everything that Millrace keeps of pods on a node, as the kernel and the disk show it. Two inventories are equal when
//! nothing was left behind between them.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::Path,
    process::Command,
    time::Duration,
};

use agent_api::interface::HOST_IFNAME_PREFIX;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Node;
use crate::eventually::eventually;

/// Where Millrace keeps things on a node.
const PINS: &str = "sys/fs/bpf/millrace";
const FOLDERS: [&str; 2] = ["run/millrace", "var/lib/millrace"];
const LEASES: &str = "var/lib/millrace/leases.json";

/// By then every pod has its links, on a busy machine too.
const SETTLED: Duration = Duration::from_mins(1);

/// Maps that packets write to: what they hold follows the traffic, and each entry expires.
const WRITTEN_BY_PACKETS: [&str; 5] = ["CT_", "SOCKETS_", "FRAGMENTS_", "DENIED_", "COUNTERS"];

/// What there is on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Leased addresses, with the interface of each.
    pub leases: BTreeMap<IpAddr, String>,
    /// Interfaces of pods.
    pub interfaces: BTreeSet<String>,
    /// Addresses of the endpoint maps, with the interface of each.
    pub endpoints: BTreeMap<IpAddr, String>,
    /// Pinned maps and links.
    pub pins: BTreeSet<String>,
    /// Entries of the maps that the agent writes.
    pub map_entries: BTreeMap<String, u64>,
    /// Files in the runtime and state directories.
    pub files: BTreeSet<String>,
    /// Routes and neighbours of pods' interfaces.
    pub routes: BTreeSet<String>,
    /// Network namespaces of pods.
    pub namespaces: BTreeSet<String>,
}

impl Inventory {
    /// Looks at a node that runs.
    pub fn take(node: &Node) -> Result<Self> {
        let root = node.root()?;
        let mut files = BTreeSet::new();
        for folder in FOLDERS {
            collect(&root.join(folder), folder, &mut files)?;
        }
        let mut pins = BTreeSet::new();
        collect(&root.join(PINS), "", &mut pins)?;
        let mut namespaces = BTreeSet::new();
        collect(&root.join("run/netns"), "", &mut namespaces)?;
        Ok(Self {
            leases: leases(&root.join(LEASES))?,
            interfaces: interfaces(node)?,
            endpoints: endpoints(node)?,
            pins,
            map_entries: map_entries(node)?,
            files,
            routes: routes(node)?,
            namespaces,
        })
    }

    /// Looks at a node that runs, when its pods have all that they get: their links come some seconds after them.
    pub fn of_settled(node: &Node) -> Result<Self> {
        eventually(format!("{} is settled", node.name()), SETTLED, || {
            let now = Self::take(node)?;
            now.check().map(|()| now)
        })
    }

    /// An error unless leases, interfaces, endpoints and pins are those of the same pods, and of nothing else.
    pub fn check(&self) -> Result<()> {
        ensure!(self.leases == self.endpoints, "leases {:?}, endpoints {:?}", self.leases, self.endpoints);
        let leased: BTreeSet<String> = self.leases.values().cloned().collect();
        ensure!(leased == self.interfaces, "leases of {leased:?}, interfaces {:?}", self.interfaces);
        let both = |interface: &String| ["from_pod", "to_pod"].map(|of| format!("/links/{interface}:{of}"));
        let wanted: BTreeSet<String> = self.interfaces.iter().flat_map(both).collect();
        let is_pod = |pin: &&String| pin.starts_with(&format!("/links/{HOST_IFNAME_PREFIX}"));
        let pinned: BTreeSet<String> = self.pins.iter().filter(is_pod).cloned().collect();
        let differ: Vec<&String> = pinned.symmetric_difference(&wanted).collect();
        ensure!(differ.is_empty(), "links without an interface, or missing: {differ:?}");
        Ok(())
    }

    /// What is in this one and not in the other, or differs: a line each.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let lines = |inventory: &Self| -> BTreeSet<String> {
            let leases = inventory.leases.iter().map(|(address, of)| format!("lease {address} {of}"));
            let endpoints =
                inventory.endpoints.iter().map(|(address, of)| format!("endpoint {address} {of}"));
            let maps =
                inventory.map_entries.iter().map(|(name, entries)| format!("{entries} entries in {name}"));
            let sets = [
                ("interface", &inventory.interfaces),
                ("pin", &inventory.pins),
                ("file", &inventory.files),
                ("route", &inventory.routes),
                ("namespace", &inventory.namespaces),
            ];
            let sets =
                sets.into_iter().flat_map(|(what, set)| set.iter().map(move |name| format!("{what} {name}")));
            leases.chain(endpoints).chain(maps).chain(sets).collect()
        };
        lines(self).difference(&lines(other)).cloned().collect()
    }
}

/// The files below a folder; none when there is no such folder.
fn collect(folder: &Path, shown: &str, found: &mut BTreeSet<String>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.with_context(|| format!("read {}", folder.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let shown = format!("{shown}/{}", entry.file_name().to_string_lossy());
        // What goes away while it is looked at is not there.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), &shown, found)?;
        } else {
            found.insert(shown);
        }
    }
    Ok(())
}

/// The second line of the file is JSON.
fn leases(file: &Path) -> Result<BTreeMap<IpAddr, String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let (_, leases) = text.split_once('\n').with_context(|| format!("{} has one line", file.display()))?;
    let leases: Value = serde_json::from_str(leases).with_context(|| format!("read {}", file.display()))?;
    let mut found = BTreeMap::new();
    for endpoint in array(&leases["endpoints"])? {
        for address in array(&endpoint["ips"])? {
            found.insert(ip(address)?, text_of(&endpoint["host_ifname"])?);
        }
    }
    Ok(found)
}

fn endpoints(node: &Node) -> Result<BTreeMap<IpAddr, String>> {
    let mut found = BTreeMap::new();
    for endpoint in array(&node.millrace(&["endpoint", "list"])?)? {
        for address in array(&endpoint["addresses"])? {
            found.insert(ip(address)?, text_of(&endpoint["interface"])?);
        }
    }
    Ok(found)
}

fn map_entries(node: &Node) -> Result<BTreeMap<String, u64>> {
    let status = node.millrace(&["status"])?;
    let maps = array(&status["maps"])?.iter().map(|map| {
        let entries = map["entries"].as_u64().with_context(|| format!("a number of entries: {map}"))?;
        Ok((text_of(&map["name"])?, entries))
    });
    let mut maps: BTreeMap<String, u64> = maps.collect::<Result<_>>()?;
    maps.retain(|name, _| !WRITTEN_BY_PACKETS.iter().any(|prefix| name.starts_with(prefix)));
    Ok(maps)
}

fn interfaces(node: &Node) -> Result<BTreeSet<String>> {
    let lines = ip_lines(node, &["-oneline", "link", "show"])?;
    let names = lines.iter().filter_map(|line| line.split([':', '@']).nth(1).map(str::trim));
    Ok(names.filter(|name| name.starts_with(HOST_IFNAME_PREFIX)).map(str::to_owned).collect())
}

fn routes(node: &Node) -> Result<BTreeSet<String>> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        lines.extend(ip_lines(node, &[family, "route", "show", "table", "all"])?);
        lines.extend(ip_lines(node, &[family, "neigh", "show", "nud", "permanent"])?);
    }
    lines.retain(|line| line.contains(&format!("dev {HOST_IFNAME_PREFIX}")));
    Ok(lines.into_iter().collect())
}

fn ip_lines(node: &Node, arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("ip");
    command.args(arguments);
    let output = node.run(command)?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments:?} on {}: {}", node.name(), message.trim());
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect())
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

fn text_of(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("not a text: {value}"))?.to_owned())
}

fn ip(value: &Value) -> Result<IpAddr> {
    text_of(value)?.parse().with_context(|| format!("not an address: {value}"))
}
