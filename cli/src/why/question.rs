//! What was asked.
use std::{fmt, net::IpAddr};

use agent_core::model::ObjectName;
use anyhow::{Result, anyhow, bail};
use dataplane_common::net::proto;

use crate::node::Proto;

/// An end of a flow, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// This node itself.
    Host,
    Addr(IpAddr),
    Pod(ObjectName),
    Service(ObjectName),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Addr(addr) => addr.fmt(f),
            Self::Pod(name) => name.fmt(f),
            Self::Service(name) => write!(f, "svc/{name}"),
        }
    }
}

/// A new connection from one party to a port of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) source: Party,
    pub(crate) destination: Party,
    pub(crate) proto: Proto,
    pub(crate) port: u16,
}

const FORM: &str = "ask as in: millrace why 'shop/web -> svc/shop/database:5432/tcp'";

impl Question {
    /// Takes the words of the command line, however the shell split them.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        if words.last().is_some_and(|word| word.ends_with('-')) {
            bail!(
                "the shell took the `>` for a redirection, so the destination is now a file: quote the flow; {FORM}"
            );
        }
        let text = words.join(" ").replace("->", " to ");
        let words: Vec<&str> = text.split_whitespace().collect();
        let (source, destination) = match words.as_slice() {
            [source, "to", destination] | [source, destination] => (*source, *destination),
            _ => bail!("{text:?} is not a source and a destination; {FORM}"),
        };
        let (destination, port, proto) = split_port(destination)?;
        Ok(Self { source: source_party(source)?, destination: party(destination)?, proto, port })
    }
}

/// `PARTY:PORT[/PROTOCOL]`. A pod's name holds a slash, too, so only a protocol's name is taken for one.
fn split_port(text: &str) -> Result<(&str, u16, Proto)> {
    let (rest, proto) = match text.rsplit_once('/') {
        Some((rest, "tcp" | "TCP")) => (rest, proto::TCP),
        Some((rest, "udp" | "UDP")) => (rest, proto::UDP),
        Some((rest, "sctp" | "SCTP")) => (rest, proto::SCTP),
        _ => (text, proto::TCP),
    };
    let Some((party, port)) = rest.rsplit_once(':') else {
        bail!("{text:?} has no port: write {text}:PORT, or {text}:PORT/udp");
    };
    if party.contains(':') && !party.ends_with(']') {
        bail!("put the IPv6 address of {text:?} in brackets: [{party}]:PORT");
    }
    let port = match port.parse() {
        Ok(0) | Err(_) => {
            bail!("{port:?} in {text:?} is not a port: a number from 1 to 65535, then /tcp, /udp or /sctp")
        }
        Ok(port) => port,
    };
    Ok((party, port, Proto(proto)))
}

fn source_party(text: &str) -> Result<Party> {
    match party(text)? {
        Party::Service(name) => {
            Err(anyhow!("svc/{name} is a service: connections come from pods or addresses"))
        }
        source @ (Party::Host | Party::Addr(_) | Party::Pod(_)) => Ok(source),
    }
}

fn party(text: &str) -> Result<Party> {
    if text == "host" {
        return Ok(Party::Host);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(addr) = bare.parse::<IpAddr>() {
        return Ok(Party::Addr(addr.to_canonical()));
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        _ if parts.iter().any(|part| part.is_empty()) => {}
        ["svc" | "service", name] => return Ok(Party::Service(ObjectName::new("default", *name))),
        ["svc" | "service", namespace, name] => {
            return Ok(Party::Service(ObjectName::new(*namespace, *name)));
        }
        [name] => return Ok(Party::Pod(ObjectName::new("default", *name))),
        ["pod", namespace, name] | [namespace, name] => {
            return Ok(Party::Pod(ObjectName::new(*namespace, *name)));
        }
        _ => {}
    }
    bail!("{text:?} is neither `host`, an address, [NAMESPACE/]POD nor svc/[NAMESPACE/]SERVICE")
}

/// A pod as the options take it: `[NAMESPACE/]POD`.
pub(crate) fn pod(text: &str) -> Result<ObjectName> {
    match party(text)? {
        Party::Pod(name) => Ok(name),
        Party::Host | Party::Addr(_) | Party::Service(_) => Err(anyhow!("{text:?} is not [NAMESPACE/]POD")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> Result<Question> {
        Question::parse(&[text.to_owned()])
    }

    fn asked(text: &str) -> String {
        match ask(text) {
            Ok(Question { source, destination, proto, port }) => {
                format!("{source} > {destination} {proto} {port}")
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn every_way_to_name_a_party_is_understood() {
        assert_eq!(asked("web -> db:5432"), "default/web > default/db tcp 5432");
        assert_eq!(asked("shop/web->shop/db:53/udp"), "shop/web > shop/db udp 53");
        assert_eq!(asked("10.1.0.7 to 10.1.0.9:80/tcp"), "10.1.0.7 > 10.1.0.9 tcp 80");
        assert_eq!(asked("fd00::7 -> [fd00::9]:80/sctp"), "fd00::7 > fd00::9 sctp 80");
        assert_eq!(asked("host svc/shop/db:5432"), "host > svc/shop/db tcp 5432");
        assert_eq!(asked("pod/shop/web -> service/db:1"), "shop/web > svc/default/db tcp 1");
    }

    #[test]
    fn the_shell_may_have_split_the_words() {
        let words = ["shop/web", "to", "db:80"].map(str::to_owned);
        assert_eq!(Question::parse(&words).unwrap(), ask("shop/web -> db:80").unwrap());
    }

    #[test]
    fn an_arrow_that_the_shell_swallowed_is_recognised() {
        let error = Question::parse(&["web".to_owned(), "-".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("the shell took the `>` for a redirection"), "{error}");
    }

    #[test]
    fn each_mistake_is_named() {
        for (question, expected) in [
            ("web", "not a source and a destination"),
            ("a b c d", "not a source and a destination"),
            ("web -> db", "\"db\" has no port"),
            ("web -> db:http", "\"http\" in \"db:http\" is not a port"),
            ("web -> db:0", "is not a port"),
            ("web -> fd00::9:80", "in brackets: [fd00::9]:PORT"),
            ("web -> db:80/icmp", "is not a port"),
            ("svc/shop/db -> web:1", "connections come from pods"),
            ("a/b/c/d -> web:1", "neither `host`, an address"),
            ("/a -> web:1", "neither `host`, an address"),
        ] {
            let answer = asked(question);
            assert!(answer.starts_with("error: ") && answer.contains(expected), "{question}: {answer}");
        }
    }
}
