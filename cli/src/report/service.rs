//! `millrace service list`.
use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
};

use dataplane_common::net::proto;
use serde::Serialize;

use super::Report;
use crate::{
    names::Names,
    node::{Proto, service::Frontend},
    table::{Table, joined},
};

/// What a frontend of this protocol does not do.
const SCTP: &str =
    "SCTP is translated in the packets of pods only, and only where port and targetPort are the same number.";

#[derive(Debug, Serialize)]
pub(crate) struct ServiceRow {
    /// `NAMESPACE/NAME:PORT-NAME`; `null` when the catalog does not know it.
    service: Option<String>,
    service_id: u32,
    frontend: SocketAddr,
    protocol: Proto,
    /// What a client meets when there is no backend.
    when_empty: &'static str,
    backends: Vec<Backend>,
    /// They get no new flow and keep those that they have.
    kept: Vec<Backend>,
}

#[derive(Debug, Serialize)]
struct Backend {
    address: SocketAddr,
    pod: Option<String>,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{} ({pod})", self.address),
            None => self.address.fmt(f),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ServiceList(Vec<ServiceRow>);

impl ServiceList {
    pub(crate) fn new(frontends: Vec<Frontend>, names: &Names) -> Self {
        let mut rows: Vec<ServiceRow> = frontends.into_iter().map(|frontend| row(frontend, names)).collect();
        rows.sort_by(|a, b| (&a.service, a.protocol, a.frontend).cmp(&(&b.service, b.protocol, b.frontend)));
        Self(rows)
    }
}

fn row(frontend: Frontend, names: &Names) -> ServiceRow {
    let listed = |addresses: Vec<SocketAddr>| {
        let pod = |address: SocketAddr| names.pod(address.ip()).map(ToString::to_string);
        let backends = addresses.into_iter().map(|address| Backend { address, pod: pod(address) });
        let mut backends: Vec<Backend> = backends.collect();
        backends.sort_by_key(|backend| backend.address);
        backends
    };
    ServiceRow {
        service: names.service(frontend.service_id),
        service_id: frontend.service_id,
        frontend: frontend.addr,
        protocol: frontend.proto,
        when_empty: if frontend.drops_when_empty { "drop" } else { "reject" },
        backends: listed(frontend.backends),
        kept: listed(frontend.kept),
    }
}

impl Report for ServiceList {
    fn text(&self) -> String {
        let mut table = Table::new(&["SERVICE", "FRONTEND", "BACKENDS"]);
        for row in &self.0 {
            let service = row.service.clone().unwrap_or_else(|| format!("id {:08x}", row.service_id));
            let listed = |backends: &[Backend]| joined(backends.iter().map(ToString::to_string));
            let mut backends = match row.backends.as_slice() {
                [] => format!("none: {}", if row.when_empty == "drop" { "dropped" } else { "rejected" }),
                backends => listed(backends),
            };
            if !row.kept.is_empty() {
                let _ = write!(backends, "; for the flows that they have: {}", listed(&row.kept));
            }
            table.row([service, format!("{}/{}", row.frontend, row.protocol), backends]);
        }
        let text = table.text("no services");
        if self.0.iter().any(|row| row.protocol == Proto(proto::SCTP)) {
            format!("{text}\n{SCTP}\n")
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(service_id: u32, addr: &str, drops_when_empty: bool, backends: &[&str]) -> Frontend {
        Frontend {
            addr: addr.parse().unwrap(),
            proto: Proto(proto::TCP),
            service_id,
            drops_when_empty,
            backends: backends.iter().map(|backend| backend.parse().unwrap()).collect(),
            kept: Vec::new(),
        }
    }

    fn list() -> ServiceList {
        let names = Names::default()
            .with_service(1, "shop", "web", "http")
            .with_service(2, "shop", "local", "")
            .with_pod("10.1.0.9", "shop", "web-0");
        let frontends = vec![
            frontend(9, "10.96.0.3:80", false, &[]),
            frontend(1, "[fd00:96::1]:80", false, &["[fd00::9]:8080"]),
            frontend(1, "10.96.0.1:80", false, &["10.1.1.4:8080", "10.1.0.9:8080"]),
            Frontend {
                kept: vec!["10.1.1.7:8080".parse().unwrap()],
                ..frontend(2, "10.96.0.2:80", true, &[])
            },
        ];
        ServiceList::new(frontends, &names)
    }

    #[test]
    fn services_are_listed_with_their_backends_and_what_happens_without() {
        assert_eq!(
            list().text(),
            "\
SERVICE        FRONTEND             BACKENDS
id 00000009    10.96.0.3:80/tcp     none: rejected
shop/local     10.96.0.2:80/tcp     none: dropped; for the flows that they have: 10.1.1.7:8080
shop/web:http  10.96.0.1:80/tcp     10.1.0.9:8080 (shop/web-0), 10.1.1.4:8080
shop/web:http  [fd00:96::1]:80/tcp  [fd00::9]:8080
"
        );
    }

    #[test]
    fn a_list_with_sctp_says_how_far_it_goes() {
        let sctp = Frontend { proto: Proto(proto::SCTP), ..frontend(1, "10.96.0.1:80", false, &[]) };
        let text = ServiceList::new(vec![sctp], &Names::default()).text();
        assert!(text.ends_with(&format!("\n\n{SCTP}\n")), "{text}");
        assert!(!list().text().contains("SCTP"));
    }

    #[test]
    fn the_json_of_a_service_has_its_parts_apart() {
        let json = serde_json::to_value(list()).unwrap();
        assert_eq!(json[0]["service"], serde_json::Value::Null);
        assert_eq!(json[2]["protocol"], "tcp");
        assert_eq!(json[2]["backends"][0]["pod"], "shop/web-0");
    }
}
