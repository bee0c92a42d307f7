//! The network configuration, from standard input.
use std::{
    io::Read,
    path::{Path, PathBuf},
};

use agent_api::Attachment;
use serde_json::{Map, Value};

use crate::{
    environment::is_container_id,
    spec::{AddResult, Code, Error, Version},
};

/// The longest configuration that is read, so that a confused runtime cannot exhaust memory.
const MAX_CONFIG: u64 = 4 << 20;

/// The keys of GC's list: the specification's, and the one of its first draft. libcni sends both.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The plugin's part of a network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetConf {
    pub(crate) version: Version,
    pub(crate) name: String,
    /// Where the agent's socket is.
    pub(crate) runtime_dir: PathBuf,
    /// Where detachments wait for the agent.
    pub(crate) state_dir: PathBuf,
    /// Whether the interface's default route is wanted in the pod's main table; `None`: where no other interface has one.
    pub(crate) default_route: Option<bool>,
    fields: Map<String, Value>,
}

/// Reads standard input.
pub(crate) fn read(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match input.take(MAX_CONFIG + 1).read_to_end(&mut bytes) {
        Err(cause) => {
            Err(Error::new(Code::Io, "cannot read the network configuration from stdin").because(&cause))
        }
        Ok(_) if bytes.len() as u64 > MAX_CONFIG => Err(Error::new(
            Code::Decode,
            format!("the network configuration on stdin is longer than {MAX_CONFIG} bytes"),
        )),
        Ok(_) => Ok(bytes),
    }
}

/// The version that the answer is to have, as far as the configuration tells.
pub(crate) fn answer_version(bytes: &[u8]) -> Version {
    serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|value| Version::parse(value.get("cniVersion")?.as_str()?))
        .unwrap_or(Version::LATEST)
}

impl NetConf {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(bytes).map_err(|cause| {
            Error::new(Code::Decode, "the network configuration on stdin is not JSON").because(&cause)
        })?;
        let Value::Object(fields) = value else {
            return Err(Error::new(Code::Decode, "the network configuration on stdin is not a JSON object"));
        };
        let version = string(&fields, "cniVersion")?.unwrap_or_default();
        let version = Version::parse(version).ok_or_else(|| {
            Error::new(
                Code::IncompatibleVersion,
                format!("cniVersion is {version:?}: this plugin speaks {}", Version::list()),
            )
        })?;
        let name = string(&fields, "name")?.unwrap_or_default();
        if !is_container_id(name) {
            return Err(invalid_field("name", name, "the name of the network, of letters, digits and _ . -"));
        }
        if string(&fields, "type")?.is_none_or(str::is_empty) {
            return Err(invalid_field("type", "", "the name of the plugin, millrace-cni"));
        }
        Ok(Self {
            version,
            name: name.to_owned(),
            runtime_dir: directory(&fields, "runtimeDir", "/run/millrace")?,
            state_dir: directory(&fields, "stateDir", "/var/lib/millrace")?,
            default_route: default_route(&fields)?,
            fields,
        })
    }

    /// The path of the agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir.join(agent_api::SOCKET_NAME)
    }

    /// The result of the plugins before this one, or of ADD.
    pub(crate) fn previous_result(&self) -> Result<Option<AddResult>, Error> {
        match self.fields.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone()).map(Some).map_err(|cause| {
                Error::new(Code::InvalidConfig, "prevResult is not the result of an ADD").because(&cause)
            }),
        }
    }

    /// GC: the attachments that must stay.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<Attachment>, Error> {
        let found = || VALID_ATTACHMENTS.iter().filter_map(|key| Some((*key, self.fields.get(*key)?)));
        // An empty list is `null` to a runtime that is written in Go.
        let Some((key, list)) = found().find(|(_, list)| !list.is_null()) else {
            if found().next().is_some() {
                return Ok(Vec::new());
            }
            return Err(Error::new(
                Code::InvalidConfig,
                format!("{} is missing: without it GC would remove everything", VALID_ATTACHMENTS[0]),
            ));
        };
        let attachment = |item: &Value| {
            let field = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(Attachment { container_id: field("containerID")?, ifname: field("ifname")? })
        };
        list.as_array().and_then(|items| items.iter().map(attachment).collect()).ok_or_else(|| {
            Error::new(Code::InvalidConfig, format!("{key} is not a list of {{containerID, ifname}}"))
        })
    }
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid_field(name, &other.to_string(), "a string")),
    }
}

/// `args.cni` is what is said for one pod (Multus: `cni-args` of its annotation), so it comes first.
fn default_route(fields: &Map<String, Value>) -> Result<Option<bool>, Error> {
    let for_pod = fields.get("args").and_then(|args| args.get("cni")?.get("defaultRoute"));
    match for_pod.or_else(|| fields.get("defaultRoute")) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(wanted)) => Ok(Some(*wanted)),
        Some(other) => Err(invalid_field("defaultRoute", &other.to_string(), "true or false")),
    }
}

fn directory(fields: &Map<String, Value>, name: &str, default: &str) -> Result<PathBuf, Error> {
    let path = string(fields, name)?.unwrap_or(default);
    if Path::new(path).is_absolute() {
        Ok(path.into())
    } else {
        Err(invalid_field(name, path, "an absolute path"))
    }
}

fn invalid_field(name: &str, value: &str, rule: &str) -> Error {
    Error::new(
        Code::InvalidConfig,
        format!("{name} is {value:?} in the network configuration: must be {rule}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(config: &Value) -> Result<NetConf, Error> {
        NetConf::parse(config.to_string().as_bytes())
    }

    #[test]
    fn directories_have_defaults() {
        let conf = parse(&json!({"cniVersion": "1.0.0", "name": "pods", "type": "millrace-cni"})).unwrap();
        assert_eq!(conf.socket(), Path::new("/run/millrace/cni.sock"));
        assert_eq!(conf.state_dir, Path::new("/var/lib/millrace"));
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value() {
        let cases = [
            ("name", json!("a/b"), Code::InvalidConfig),
            ("name", json!(7), Code::InvalidConfig),
            ("type", json!(""), Code::InvalidConfig),
            ("runtimeDir", json!("run"), Code::InvalidConfig),
            ("stateDir", json!(["/var"]), Code::InvalidConfig),
            ("defaultRoute", json!("yes"), Code::InvalidConfig),
            ("cniVersion", json!("9.9.9"), Code::IncompatibleVersion),
            ("cniVersion", json!("0.2.0"), Code::IncompatibleVersion),
            ("cniVersion", json!(1.0), Code::InvalidConfig),
        ];
        for (field, value, code) in cases {
            let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "millrace-cni"});
            config[field] = value;
            let error = parse(&config).unwrap_err();
            assert_eq!(error.code, code, "{config}: {error:?}");
            assert!(error.message.contains(field), "{config}: {error:?}");
        }
    }

    #[test]
    fn what_is_said_for_one_pod_comes_before_what_is_said_for_the_network() {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "millrace-cni"});
        assert_eq!(parse(&config).unwrap().default_route, None);
        config["defaultRoute"] = json!(false);
        assert_eq!(parse(&config).unwrap().default_route, Some(false));
        config["args"] = json!({"cni": {"defaultRoute": true}});
        assert_eq!(parse(&config).unwrap().default_route, Some(true));
    }

    #[test]
    fn gc_without_its_list_is_refused() {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "millrace-cni"});
        assert!(parse(&config).unwrap().valid_attachments().is_err());
        for key in VALID_ATTACHMENTS {
            config[key] = json!([{"containerID": "a", "ifname": "eth0"}]);
            assert_eq!(parse(&config).unwrap().valid_attachments().unwrap()[0].container_id, "a");
            config[key] = json!([{"containerID": "a"}]);
            assert!(parse(&config).unwrap().valid_attachments().is_err());
            config.as_object_mut().unwrap().remove(key);
        }
    }

    #[test]
    fn gc_takes_null_for_an_empty_list_but_not_beside_a_list() {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "millrace-cni"});
        config[VALID_ATTACHMENTS[0]] = Value::Null;
        assert_eq!(parse(&config).unwrap().valid_attachments().unwrap(), []);
        config[VALID_ATTACHMENTS[1]] = json!([{"containerID": "a", "ifname": "eth0"}]);
        assert_eq!(parse(&config).unwrap().valid_attachments().unwrap().len(), 1);
        config[VALID_ATTACHMENTS[1]] = json!(7);
        assert!(parse(&config).unwrap().valid_attachments().is_err());
    }
}
