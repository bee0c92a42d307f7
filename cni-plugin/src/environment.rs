//! What the runtime says in environment variables.
use std::{collections::BTreeMap, path::PathBuf};

use agent_api::{Attachment, PodRef};

use crate::spec::{Code, Error};

/// The longest interface name of the kernel.
const IFNAME_MAX: usize = 15;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The variables, by name. Empty is the same as unset.
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(crate) fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        Self(variables.filter(|(name, value)| name.starts_with("CNI_") && !value.is_empty()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn verb(&self) -> Result<Verb, Error> {
        match self.get("CNI_COMMAND") {
            Some("ADD") => Ok(Verb::Add),
            Some("DEL") => Ok(Verb::Del),
            Some("CHECK") => Ok(Verb::Check),
            Some("GC") => Ok(Verb::Gc),
            Some("STATUS") => Ok(Verb::Status),
            Some("VERSION") => Ok(Verb::Version),
            Some(other) => Err(invalid(format!(
                "CNI_COMMAND is {other:?}: must be ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))),
            None => Err(invalid(
                "CNI_COMMAND is not set: this program is a CNI plugin, to be run by a container runtime",
            )),
        }
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`. Names every variable that is wrong, not only the first.
    pub(crate) fn attachment(&self) -> Result<Attachment, Error> {
        let container_id = self.checked("CNI_CONTAINERID", is_container_id, CONTAINER_ID_RULE);
        let ifname = self.checked("CNI_IFNAME", is_ifname, IFNAME_RULE);
        match (container_id, ifname) {
            (Ok(container_id), Ok(ifname)) => Ok(Attachment { container_id, ifname }),
            (container_id, ifname) => {
                let problems: Vec<_> = [container_id.err(), ifname.err()].into_iter().flatten().collect();
                Err(invalid(problems.join("; ")))
            }
        }
    }

    fn checked(&self, name: &str, holds: fn(&str) -> bool, rule: &str) -> Result<String, String> {
        match self.get(name) {
            None => Err(format!("{name} is not set")),
            Some(value) if holds(value) => Ok(value.to_owned()),
            Some(value) => Err(format!("{name} is {value:?}: {rule}")),
        }
    }

    /// `CNI_NETNS`, which DEL may lack.
    pub(crate) fn netns(&self) -> Option<PathBuf> {
        self.get("CNI_NETNS").map(PathBuf::from)
    }

    /// `CNI_NETNS`, which the other verbs need.
    pub(crate) fn required_netns(&self) -> Result<PathBuf, Error> {
        self.netns()
            .ok_or_else(|| invalid("CNI_NETNS is not set: it is the path of the pod's network namespace"))
    }

    /// `DEFAULT_ROUTE` of `CNI_ARGS`: whether the interface is to have the pod's default route.
    pub(crate) fn default_route(&self) -> Result<Option<bool>, Error> {
        let args = self.get("CNI_ARGS").unwrap_or_default();
        match args.split(';').find_map(|argument| argument.strip_prefix("DEFAULT_ROUTE=")) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                Err(invalid(format!("CNI_ARGS has DEFAULT_ROUTE={other:?}: must be true or false")))
            }
        }
    }

    /// The pod, from the keys of `CNI_ARGS` that Kubernetes runtimes set.
    pub(crate) fn pod(&self) -> Result<PodRef, Error> {
        let args = self.get("CNI_ARGS").unwrap_or_default();
        let mut pod = PodRef { namespace: String::new(), name: String::new(), uid: String::new() };
        for argument in args.split(';').filter(|argument| !argument.is_empty()) {
            let (key, value) = argument.split_once('=').ok_or_else(|| {
                invalid(format!("CNI_ARGS has {argument:?}: must be KEY=VALUE pairs separated by semicolons"))
            })?;
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                _ => {}
            }
        }
        let fields =
            [("K8S_POD_NAMESPACE", &pod.namespace), ("K8S_POD_NAME", &pod.name), ("K8S_POD_UID", &pod.uid)];
        for (key, value) in fields {
            if value.is_empty() && key != "K8S_POD_UID" {
                return Err(invalid(format!(
                    "CNI_ARGS has no {key}: without the pod's name its network policy is not known"
                )));
            }
            if value.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
                return Err(invalid(format!(
                    "CNI_ARGS has {key}={value:?}: not the name of a Kubernetes object"
                )));
            }
        }
        Ok(pod)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidEnvironment, message)
}

const CONTAINER_ID_RULE: &str =
    "must begin with a letter or digit and hold only letters, digits, underscores, dots and hyphens";

/// Whether CNI allows the text as a container id, and as the name of a network.
pub(crate) fn is_container_id(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

const IFNAME_RULE: &str = "must be 1 to 15 bytes without slash, colon or white space, and not . or ..";

fn is_ifname(name: &str) -> bool {
    (1..=IFNAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn every_wrong_variable_is_named() {
        let error = environment(&[("CNI_CONTAINERID", "-x")]).attachment().unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment);
        assert!(
            error.message.contains("CNI_CONTAINERID") && error.message.contains("CNI_IFNAME"),
            "{error:?}"
        );
    }

    #[test]
    fn container_ids_follow_the_rule_of_the_specification() {
        let valid = ["a", "0", "A_b.c-d", "cri-o_1"];
        let invalid = ["_a", ".a", "-a", "a/b", "a b", "ä", "a\n", "../x"];
        assert!(valid.into_iter().all(is_container_id));
        assert!(!invalid.into_iter().any(is_container_id));
    }

    #[test]
    fn interface_names_follow_the_rule_of_the_kernel() {
        let valid = ["eth0", "e", "exactly15bytes_", "eth0.1", "grün"];
        let invalid = ["sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "a\tb"];
        assert!(valid.into_iter().all(is_ifname));
        assert!(!invalid.into_iter().any(is_ifname));
    }

    #[test]
    fn the_pod_comes_from_the_arguments_and_unknown_arguments_are_ignored() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u;X=y=z;";
        let pod = environment(&[("CNI_ARGS", args)]).pod().unwrap();
        assert_eq!(pod, PodRef { namespace: "ns".into(), name: "web-0".into(), uid: "u".into() });
    }

    #[test]
    fn arguments_that_do_not_name_a_pod_are_refused_by_name() {
        let missing = "K8S_POD_NAMESPACE";
        for args in [
            "",
            "K8S_POD_NAME=a",
            "K8S_POD_NAME=a;K8S_POD_NAMESPACE=",
            "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=c",
        ] {
            let error = environment(&[("CNI_ARGS", args)]).pod().unwrap_err();
            assert!(
                error.message.contains("CNI_ARGS") && error.message.contains(missing),
                "{args}: {error:?}"
            );
        }
        assert!(environment(&[("CNI_ARGS", "novalue")]).pod().is_err());
    }
}
