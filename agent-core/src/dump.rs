//! Maps as text: one line per entry, sorted, the same for the same entries.
use std::{fmt::Write as _, net::IpAddr};

use dataplane_common::{
    endpoint::EndpointValue,
    maps::MapId,
    net::{MacAddr, proto},
    policy::{CLASS_ANY, PolicyKey, SET_DENY_ALL},
    service::{FrontendValue, flag},
};

use crate::{
    entry::{self, Backend, Frontend, PolicyEntry, PortPrefix, Route, Way},
    table::Table,
};

/// The entries of one map as lines. An entry that makes no sense is shown as bytes.
pub fn dump<'a>(map: MapId, entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut lines: Vec<(Vec<u8>, String)> = entries
        .into_iter()
        .map(|(key, value)| (sort_key(map, key), line(map, key, value).unwrap_or_else(|| raw(key, value))))
        .collect();
    lines.sort();
    lines.into_iter().fold(String::new(), |mut text, (_, line)| {
        let _ = writeln!(text, "{} {line}", map.spec().name);
        text
    })
}

/// Slots sort as numbers, tries by address before length.
fn sort_key(map: MapId, key: &[u8]) -> Vec<u8> {
    match Table::of(map) {
        Some(Table::Cidrs | Table::Routes | Table::Policies) => {
            key.split_at_checked(4).map_or_else(|| key.to_vec(), |(len, rest)| [rest, len].concat())
        }
        Some(Table::Backends) => {
            entry::number_from_bytes(key).map_or_else(|| key.to_vec(), |slot| slot.to_be_bytes().to_vec())
        }
        Some(Table::Frontends | Table::Classes | Table::Endpoints | Table::Netns) | None => key.to_vec(),
    }
}

fn line(map: MapId, key: &[u8], value: &[u8]) -> Option<String> {
    let Some(table) = Table::of(map) else {
        let is_epoch = map == MapId::POLICY_EPOCH;
        let line =
            || Some(format!("{} -> {}", entry::number_from_bytes(key)?, entry::number_from_bytes(value)?));
        return if is_epoch { line() } else { None };
    };
    Some(match table {
        Table::Frontends => frontend(Frontend::from_bytes(key)?, entry::frontend_value(value)?),
        Table::Backends => {
            let Backend { addr, port } = Backend::from_bytes(value)?;
            format!("{} -> {}", entry::number_from_bytes(key)?, socket(addr, port))
        }
        Table::Policies => policy(PolicyEntry::from_bytes(key)?, entry::policy_value(value)?.rule),
        Table::Classes => {
            format!("{} -> class {:08x}", entry::addr_from_bytes(key)?, entry::number_from_bytes(value)?)
        }
        Table::Cidrs => {
            format!("{} -> class {:08x}", entry::prefix_from_bytes(key)?, entry::number_from_bytes(value)?)
        }
        Table::Endpoints => endpoint(entry::addr_from_bytes(key)?, entry::endpoint_value(value)?),
        Table::Routes => {
            let Route { ifindex, way } = Route::from_bytes(value)?;
            let way = match way {
                Way::Direct(node) => format!("via {node} dev {ifindex}"),
                Way::Gateway(router) => format!("via the router {router} dev {ifindex}"),
                Way::Stack => "by the host's stack".to_owned(),
                Way::Service => "a service".to_owned(),
            };
            format!("{} -> {way}", entry::prefix_from_bytes(key)?)
        }
        Table::Netns => format!("{} -> {}", entry::netns_from_bytes(key)?, entry::number_from_bytes(value)?),
    })
}

fn raw(key: &[u8], value: &[u8]) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    format!("{} -> {}", hex(key), hex(value))
}

fn frontend(key: Frontend, value: FrontendValue) -> String {
    let FrontendValue { service_id, backends_start, backends_count, kept_count, flags, reserved: _ } = value;
    let backends = match backends_count {
        0 => "no backends".to_owned(),
        count => format!("backends {backends_start}..{}", backends_start + u32::from(count)),
    };
    let scope = if key.scope == 0 { String::new() } else { format!(" scope {}", key.scope) };
    let mut text = format!(
        "{}/{}{scope} -> service {service_id:08x} {backends}",
        socket(key.addr, key.port),
        protocol(key.proto)
    );
    if kept_count > 0 {
        let _ = write!(text, " keeps {}..{}", value.kept_start(), backends_start + value.slots());
    }
    if flags & flag::DROP_WHEN_EMPTY != 0 {
        text.push_str(" drop-when-empty");
    }
    text
}

fn policy(key: PolicyEntry, rule: u32) -> String {
    let class = if key.class == CLASS_ANY { "any".to_owned() } else { format!("{:08x}", key.class) };
    let PortPrefix { prefix_len, proto, port } = key.ports;
    let ports = match prefix_len {
        PolicyKey::ANY_PROTO_BITS => "everything".to_owned(),
        PolicyKey::ANY_PORT_BITS => protocol(proto),
        PolicyKey::FULL_BITS => format!("{} {port}", protocol(proto)),
        len => {
            let host_bits = PolicyKey::FULL_BITS.saturating_sub(len).min(16);
            let size = (1_u32 << host_bits) - 1;
            format!("{} {port}-{}", protocol(proto), u32::from(port) | size)
        }
    };
    format!("set {} class {class} {ports} -> allow by rule {rule:08x}", set(key.set))
}

fn endpoint(addr: IpAddr, value: EndpointValue) -> String {
    let EndpointValue { ifindex, ingress_set, egress_set, pod_mac, host_mac, translated, .. } = value;
    let (ingress, egress) = (set(ingress_set), set(egress_set));
    let translated = if translated == 0 { "" } else { " translated" };
    let (pod_mac, host_mac) = (mac(pod_mac), mac(host_mac));
    format!(
        "{addr} -> dev {ifindex} pod {pod_mac} host {host_mac} ingress {ingress} egress {egress}{translated}"
    )
}

fn set(set: u32) -> String {
    match set {
        0 => "open".to_owned(),
        SET_DENY_ALL => "deny-all".to_owned(),
        set => format!("{set:08x}"),
    }
}

fn socket(addr: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(addr, port).to_string()
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        number => format!("protocol {number}"),
    }
}

fn mac(mac: MacAddr) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
