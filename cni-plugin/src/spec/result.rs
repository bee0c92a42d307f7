//! The result of ADD, in the shape of each version.
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Version;

/// What ADD made. Also read back, as `prevResult`; fields that this plugin does not know pass through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AddResult {
    pub(crate) cni_version: String,
    pub(crate) interfaces: Vec<InterfaceResult>,
    pub(crate) ips: Vec<IpResult>,
    pub(crate) routes: Vec<RouteResult>,
    pub(crate) dns: Map<String, Value>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterfaceResult {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// Path of the network namespace; absent on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IpResult {
    /// `4` or `6`; until 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    pub(crate) address: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteResult {
    pub(crate) dst: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    /// Since 1.1.0; absent for the main table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u32>,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl AddResult {
    /// Adds what this plugin made to what the plugins before it made.
    pub(crate) fn extend(&mut self, ours: Self) {
        let offset = self.interfaces.len();
        self.interfaces.extend(ours.interfaces);
        self.ips.extend(
            ours.ips
                .into_iter()
                .map(|ip| IpResult { interface: ip.interface.map(|index| index + offset), ..ip }),
        );
        self.routes.extend(ours.routes);
    }

    /// The result in a version's shape.
    pub(crate) fn to_json(&self, version: Version) -> serde_json::Result<Value> {
        let mut result = self.clone();
        version.as_str().clone_into(&mut result.cni_version);
        for ip in &mut result.ips {
            ip.version =
                (version < Version::V1_0_0).then(|| if ip.address.is_ipv4() { "4" } else { "6" }.into());
        }
        if version < Version::V1_1_0 {
            for interface in &mut result.interfaces {
                interface.mtu = None;
            }
            // Without its table a route would be taken for one of the main table.
            result.routes.retain(|route| route.table.is_none());
            for route in &mut result.routes {
                route.priority = None;
            }
        }
        serde_json::to_value(&result)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours() -> AddResult {
        let interface =
            |name: &str| InterfaceResult { name: name.into(), mtu: Some(1500), ..InterfaceResult::default() };
        let address = "10.1.0.5/32".parse().unwrap();
        let route = |table| RouteResult {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: None,
            table,
            priority: Some(1024),
            other: Map::new(),
        };
        AddResult {
            routes: vec![route(None), route(Some(7))],
            interfaces: vec![interface("mr0"), interface("eth0")],
            ips: vec![IpResult {
                version: None,
                address,
                gateway: None,
                interface: Some(1),
                other: Map::new(),
            }],
            ..AddResult::default()
        }
    }

    #[test]
    fn each_version_has_its_own_shape() {
        for version in Version::ALL {
            let result = ours().to_json(version).unwrap();
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(result["ips"][0].get("version").is_some(), version < Version::V1_0_0, "{version:?}");
            assert_eq!(
                result["interfaces"][0].get("mtu").is_some(),
                version >= Version::V1_1_0,
                "{version:?}"
            );
            let expected = if version >= Version::V1_1_0 {
                json!([{"dst": "0.0.0.0/0", "priority": 1024}, {"dst": "0.0.0.0/0", "priority": 1024, "table": 7}])
            } else {
                json!([{"dst": "0.0.0.0/0"}])
            };
            assert_eq!(result["routes"], expected, "{version:?}");
        }
    }

    #[test]
    fn a_previous_result_is_kept_and_our_indices_move_behind_it() {
        let previous = serde_json::json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "other0", "pciID": "0000:00:1f.6"}],
            "ips": [{"address": "192.0.2.1/24", "interface": 0}],
            "dns": {"nameservers": ["192.0.2.53"]},
            "future": 1,
        });
        let mut result: AddResult = serde_json::from_value(previous).unwrap();
        result.extend(ours());
        let json = result.to_json(Version::V1_1_0).unwrap();
        assert_eq!(json["interfaces"][0]["pciID"], "0000:00:1f.6");
        assert_eq!(json["interfaces"][2]["name"], "eth0");
        assert_eq!((&json["ips"][0]["interface"], &json["ips"][1]["interface"]), (&0.into(), &2.into()));
        assert_eq!(json["dns"]["nameservers"][0], "192.0.2.53");
        assert_eq!(json["future"], 1);
    }
}
