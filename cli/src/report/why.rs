//! `millrace why`.
use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::Report;
use crate::{
    node::Proto,
    why::{
        question::Question,
        walk::{Decision, Target, Walk},
    },
};

/// Exit code for a flow that does not reach its destination, or not always.
pub(crate) const DENIED: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Allowed,
    Denied,
    /// Some backends, or one of the families.
    SometimesDenied,
    NoBackend,
    NoSuchPort,
}

#[derive(Debug, Serialize)]
pub(crate) struct WhyReport {
    verdict: Verdict,
    source: String,
    destination: String,
    protocol: Proto,
    port: u16,
    flows: Vec<Walk>,
}

impl WhyReport {
    pub(crate) fn new(question: &Question, flows: Vec<Walk>) -> Self {
        let targets: Vec<&Target> = flows.iter().flat_map(|walk| &walk.targets).collect();
        let denied = targets.iter().filter(|target| target.is_denied()).count();
        let unanswered = flows.iter().filter(|walk| walk.targets.is_empty()).count();
        let has_no_port =
            |walk: &Walk| walk.service.as_ref().is_some_and(|hop| hop.when_empty == "no-such-port");
        let verdict = if !flows.is_empty() && flows.iter().all(has_no_port) {
            Verdict::NoSuchPort
        } else if unanswered == flows.len() {
            Verdict::NoBackend
        } else if denied + unanswered == 0 {
            Verdict::Allowed
        } else if denied == targets.len() {
            Verdict::Denied
        } else {
            Verdict::SometimesDenied
        };
        Self {
            verdict,
            source: question.source.to_string(),
            destination: question.destination.to_string(),
            protocol: question.proto,
            port: question.port,
            flows,
        }
    }
}

impl Report for WhyReport {
    fn text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "DENIED",
            Verdict::SometimesDenied => "SOMETIMES DENIED",
            Verdict::NoBackend => "NO BACKEND",
            Verdict::NoSuchPort => "NO SUCH PORT",
        };
        let Self { source, destination, protocol, port, .. } = self;
        let mut text = format!("{verdict}: {source} -> {destination}:{port}/{protocol}\n");
        for walk in &self.flows {
            text.push_str(&flow(walk, self.protocol));
        }
        text
    }

    fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Allowed => ExitCode::SUCCESS,
            Verdict::Denied | Verdict::SometimesDenied | Verdict::NoBackend | Verdict::NoSuchPort => {
                ExitCode::from(DENIED)
            }
        }
    }
}

fn flow(walk: &Walk, proto: Proto) -> String {
    let named = |pod: &Option<String>| pod.as_ref().map_or_else(String::new, |pod| format!(" ({pod})"));
    let source = walk.source.map_or_else(|| "this node".to_owned(), |ip| ip.to_string());
    let source = format!("{source}{}", named(&walk.source_pod));
    let destination = format!("{}/{proto}{}", walk.destination, named(&walk.destination_pod));
    let mut text = format!("\n{source} -> {destination}\n");
    if let Some(service) = &walk.service {
        let count = match walk.targets.len() {
            0 if service.when_empty == "drop" => "no backend on this node: the packet is dropped".to_owned(),
            0 if service.when_empty == "no-such-port" => {
                format!(
                    "is at this address, without port {}/{proto}: the connection is refused",
                    walk.destination.port()
                )
            }
            0 => "no backend: the connection is rejected".to_owned(),
            1 => "1 backend".to_owned(),
            count => format!("one of {count} backends at random"),
        };
        let _infallible = writeln!(text, "  service  {}: {count}", service.name);
    }
    for target in &walk.targets {
        if walk.service.is_some() {
            let verdict = if target.is_denied() { "DENIED" } else { "allowed" };
            let _infallible =
                writeln!(text, "  backend  {}{}: {verdict}", target.address, named(&target.pod));
        }
        let indent = if walk.service.is_some() { "    " } else { "  " };
        let _infallible = write!(
            text,
            "{indent}egress   {}{indent}ingress  {}",
            decision(&target.egress, indent),
            decision(&target.ingress, indent)
        );
    }
    text
}

fn decision(decision: &Decision, indent: &str) -> String {
    match decision {
        Decision::NotIsolated => "no policy isolates the pod\n".to_owned(),
        Decision::Allowed { rule, catalog_agrees } => {
            format!("allowed by {rule}\n{}", disagreement(*catalog_agrees, indent))
        }
        Decision::NotJudged { because } => format!("not judged: {because}\n"),
        Decision::Denied { isolated_by, nearest, catalog_agrees } => {
            let mut text = format!("DENIED, isolated by {isolated_by}\n");
            for rule in nearest {
                let _infallible = writeln!(text, "{indent}         nearest: {rule}");
            }
            text + &disagreement(*catalog_agrees, indent)
        }
    }
}

/// The maps decide; the catalog tells what the agent meant when it last wrote both.
fn disagreement(catalog_agrees: bool, indent: &str) -> String {
    if catalog_agrees {
        return String::new();
    }
    format!(
        "{indent}         but the policies say otherwise: a change is under way, or could not be written\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Isolation;

    fn question() -> Question {
        Question::parse(&["shop/web -> svc/shop/db:5432".to_owned()]).unwrap()
    }

    fn target(address: &str, pod: &str, ingress: Decision) -> Target {
        let address = address.parse().unwrap();
        Target { address, pod: Some(pod.to_owned()), egress: Decision::NotIsolated, ingress }
    }

    fn allowed() -> Decision {
        let rule = "shop/db-access ingress rule 1 (from pods app=web of namespace shop, TCP 5432)".into();
        Decision::Allowed { rule, catalog_agrees: true }
    }

    fn denied() -> Decision {
        Decision::Denied {
            isolated_by: Isolation::By {
                policies: vec!["shop/db-access".into(), "shop/default-deny".into()],
            },
            nearest: vec!["shop/db-access ingress rule 1 (from anywhere, TCP 80): the port differs".into()],
            catalog_agrees: false,
        }
    }

    fn walk(service: bool, targets: Vec<Target>) -> Walk {
        Walk {
            source: Some("10.1.0.7".parse().unwrap()),
            source_pod: Some("shop/web".into()),
            destination: "10.96.0.20:5432".parse().unwrap(),
            destination_pod: None,
            service: service
                .then(|| crate::why::walk::ServiceHop { name: "shop/db:pg".into(), when_empty: "reject" }),
            targets,
        }
    }

    #[test]
    fn an_allowed_flow_names_the_rule_for_each_backend() {
        let targets = vec![
            target("10.1.0.9:5432", "shop/db-0", allowed()),
            target("10.1.1.4:5432", "shop/db-1", Decision::NotIsolated),
        ];
        let report = WhyReport::new(&question(), vec![walk(true, targets)]);
        assert_eq!(
            report.text(),
            "\
allowed: shop/web -> svc/shop/db:5432/tcp

10.1.0.7 (shop/web) -> 10.96.0.20:5432/tcp
  service  shop/db:pg: one of 2 backends at random
  backend  10.1.0.9:5432 (shop/db-0): allowed
    egress   no policy isolates the pod
    ingress  allowed by shop/db-access ingress rule 1 (from pods app=web of namespace shop, TCP 5432)
  backend  10.1.1.4:5432 (shop/db-1): allowed
    egress   no policy isolates the pod
    ingress  no policy isolates the pod
"
        );
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn a_denied_flow_names_the_policies_and_the_nearest_rule() {
        let report = WhyReport::new(
            &question(),
            vec![walk(false, vec![target("10.1.0.9:5432", "shop/db-0", denied())])],
        );
        assert_eq!(
            report.text(),
            "\
DENIED: shop/web -> svc/shop/db:5432/tcp

10.1.0.7 (shop/web) -> 10.96.0.20:5432/tcp
  egress   no policy isolates the pod
  ingress  DENIED, isolated by shop/db-access, shop/default-deny
           nearest: shop/db-access ingress rule 1 (from anywhere, TCP 80): the port differs
           but the policies say otherwise: a change is under way, or could not be written
"
        );
        assert_eq!(report.exit_code(), ExitCode::from(DENIED));
    }

    #[test]
    fn a_flow_that_only_some_backends_take_is_not_called_allowed() {
        let targets = vec![
            target("10.1.0.9:5432", "shop/db-0", allowed()),
            target("10.1.1.4:5432", "shop/db-1", denied()),
        ];
        let report = WhyReport::new(&question(), vec![walk(true, targets)]);
        assert_eq!(report.verdict, Verdict::SometimesDenied);
        assert_eq!(report.exit_code(), ExitCode::from(DENIED));
    }

    #[test]
    fn a_service_without_backends_is_not_called_allowed() {
        let report = WhyReport::new(&question(), vec![walk(true, vec![])]);
        assert!(report.text().contains("  service  shop/db:pg: no backend: the connection is rejected\n"));
        assert_eq!(report.exit_code(), ExitCode::from(DENIED));
    }

    #[test]
    fn a_port_that_a_service_does_not_have_is_not_called_allowed() {
        let mut walk = walk(true, vec![]);
        walk.service.as_mut().unwrap().when_empty = "no-such-port";
        let report = WhyReport::new(&question(), vec![walk]);
        let text = report.text();
        assert!(text.starts_with("NO SUCH PORT: "), "{text}");
        assert!(
            text.contains("shop/db:pg: is at this address, without port 5432/tcp: the connection is refused")
        );
        assert_eq!(report.exit_code(), ExitCode::from(DENIED));
    }
}
