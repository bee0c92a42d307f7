//! What a source has sent, so that it sends only differences.
//!
//! Holds a fingerprint per object, never the object: the cluster state has it already.
use std::collections::{HashMap, HashSet};

use super::{
    convert::{Applied, Concern, InvalidObject, ObjectKey, Outcome},
    source::{Batch, Report, Subject},
};

/// Sentences about one object, at most. A slice may have a thousand endpoints that are all wrong in the same way.
const SENTENCES: usize = 5;

/// What is in force for each object.
#[derive(Debug, Default)]
pub struct Ledger {
    in_force: HashMap<ObjectKey, Sent>,
    /// Reports that are not cleared.
    reported: HashSet<(ObjectKey, Concern)>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    fingerprint: u64,
    /// Whether this is what the author wrote, not a stand-in for it.
    good: bool,
}

impl Ledger {
    /// The source sees this version of the object.
    pub fn offer(&mut self, key: ObjectKey, outcome: Outcome<Applied>, batch: &mut Batch) {
        match outcome {
            Outcome::Irrelevant => self.withdraw(key, batch),
            Outcome::Usable { model, skipped } => {
                self.report(&key, &skipped, "", batch);
                self.send(key, model, true, batch);
            }
            Outcome::Invalid { stand_in, problems } => {
                let good = self.in_force.get(&key).map(|sent| sent.good);
                let consequence = match (good, &stand_in) {
                    (Some(true), _) => "; until then the last good version stays in force",
                    (_, Some(_)) => "; until then this item counts for nothing and the rest is in force",
                    (Some(false), None) => "; until then an earlier version stays in force",
                    (None, None) => "; until then the object is ignored",
                };
                self.report(&key, &problems, consequence, batch);
                if let (None | Some(false), Some(stand_in)) = (good, stand_in) {
                    self.send(key, stand_in, false, batch);
                }
            }
        }
    }

    /// The source sees that the object is gone.
    pub fn withdraw(&mut self, key: ObjectKey, batch: &mut Batch) {
        self.report(&key, &[], "", batch);
        if self.in_force.remove(&key).is_some() {
            batch.updates.push(key.delete());
        }
    }

    /// The source has listed everything: what is not there is gone.
    pub fn retain(&mut self, listed: &HashSet<ObjectKey>, batch: &mut Batch) {
        let mut gone: Vec<ObjectKey> = self
            .in_force
            .keys()
            .chain(self.reported.iter().map(|(key, _)| key))
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        gone.sort_unstable();
        gone.dedup();
        for key in gone {
            self.withdraw(key, batch);
        }
    }

    fn send(&mut self, key: ObjectKey, applied: Applied, good: bool, batch: &mut Batch) {
        let sent = Sent { fingerprint: applied.fingerprint, good };
        let earlier = self.in_force.insert(key, sent);
        if earlier.map(|sent| sent.fingerprint) != Some(sent.fingerprint) {
            batch.updates.push(applied.update);
        }
    }

    /// Reports each concern by itself. What is wrong has a consequence.
    fn report(&mut self, key: &ObjectKey, problems: &[InvalidObject], consequence: &str, batch: &mut Batch) {
        for concern in Concern::ALL {
            let consequence = if concern == Concern::Wrong { consequence } else { "" };
            let of_it = problems.iter().filter(|problem| problem.concern == concern);
            let sentences = few(key, of_it.map(|problem| format!("{problem}{consequence}")));
            let reported = (key.clone(), concern);
            let known = if sentences.is_empty() {
                self.reported.remove(&reported)
            } else {
                !self.reported.insert(reported)
            };
            if known || !sentences.is_empty() {
                batch
                    .reports
                    .push(Report { subject: Subject::about(key.clone(), concern), problems: sentences });
            }
        }
    }
}

/// The first sentences, and how many there are besides.
fn few(key: &ObjectKey, mut sentences: impl Iterator<Item = String>) -> Vec<String> {
    let mut few: Vec<String> = sentences.by_ref().take(SENTENCES).collect();
    match sentences.count() {
        0 => {}
        more => few.push(format!("{key}: and {more} more like these")),
    }
    few
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use crate::{
        convert::{self, NetworkPolicy, Service},
        source::{Batch, Subject, subject_of},
    };

    fn service(cluster_ip: &str, labels: &str) -> Service {
        let yaml = format!(
            "{{metadata: {{name: web, namespace: shop, labels: {labels}}}, spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}}}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn policy(cidr: &str) -> NetworkPolicy {
        let yaml = format!(
            "{{metadata: {{name: db, namespace: shop}}, spec: {{ingress: [{{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]}}}}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn offer<K: convert::Convert>(ledger: &mut Ledger, object: &K) -> (Vec<String>, Vec<String>) {
        let mut batch = Batch::default();
        let (key, outcome) = convert::convert(object);
        ledger.offer(key, outcome, &mut batch);
        texts(&batch)
    }

    fn texts(batch: &Batch) -> (Vec<String>, Vec<String>) {
        let prefix = |subject: &Subject| {
            if matches!(subject, Subject::Unsupported(_)) {
                "unsupported of "
            } else if matches!(subject, Subject::Outside(_)) {
                "outside of "
            } else {
                ""
            }
        };
        let problems = batch
            .reports
            .iter()
            .map(|r| format!("{}{}: {}", prefix(&r.subject), r.subject, r.problems.join(" | ")));
        (batch.updates.iter().map(subject_of).collect(), problems.collect())
    }

    fn sent(update: &str) -> (Vec<String>, Vec<String>) {
        (vec![update.to_owned()], Vec::new())
    }

    #[test]
    fn only_what_differs_in_the_model_is_sent() {
        let mut ledger = Ledger::default();
        assert_eq!(offer(&mut ledger, &service("10.96.0.10", "{}")), sent("+Service shop/web"));
        assert_eq!(offer(&mut ledger, &service("10.96.0.10", "{touched: often}")), (vec![], vec![]));
        assert_eq!(offer(&mut ledger, &service("010.96.0.10", "{}")), (vec![], vec![]));
        assert_eq!(offer(&mut ledger, &service("10.96.0.11", "{}")), sent("+Service shop/web"));
        assert_eq!(offer(&mut ledger, &service("None", "{}")), sent("-Service shop/web"));
        assert_eq!(offer(&mut ledger, &service("None", "{}")), (vec![], vec![]));
    }

    #[test]
    fn a_good_version_stays_in_force_while_the_object_is_broken() {
        let mut ledger = Ledger::default();
        assert_eq!(offer(&mut ledger, &policy("10.0.0.0/8")), sent("+NetworkPolicy shop/db"));
        let (updates, problems) = offer(&mut ledger, &policy("10.0.0.0/99"));
        assert!(updates.is_empty(), "{updates:?}");
        assert!(problems[0].contains("cidr is \"10.0.0.0/99\""), "{problems:?}");
        assert!(problems[0].ends_with("until then the last good version stays in force"), "{problems:?}");
        let (updates, problems) = offer(&mut ledger, &policy("10.0.0.0/8"));
        assert!(updates.is_empty(), "{updates:?}");
        assert_eq!(problems, ["NetworkPolicy shop/db: "], "the report is cleared");
    }

    #[test]
    fn a_policy_that_was_never_good_fails_closed_until_it_is() {
        let mut ledger = Ledger::default();
        let (updates, problems) = offer(&mut ledger, &policy("10.0.0.0/99"));
        assert_eq!(updates, ["+NetworkPolicy shop/db"]);
        assert_eq!(problems.len(), 1);
        assert_eq!(offer(&mut ledger, &policy("10.0.0.0/8")).0, ["+NetworkPolicy shop/db"]);
    }

    #[test]
    fn what_is_not_carried_out_is_said_until_the_object_no_longer_asks_for_it() {
        let service = |spec: &str| -> Service {
            let yaml = format!(
                "{{metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]{spec}}}}}"
            );
            serde_saphyr::from_str(&yaml).unwrap()
        };
        let mut ledger = Ledger::default();
        let (updates, problems) = offer(&mut ledger, &service(", type: NodePort, sessionAffinity: ClientIP"));
        assert_eq!(updates, ["+Service shop/web"], "its cluster IP works");
        assert_eq!(problems.len(), 2, "one for what a kube-proxy could do, one for the rest: {problems:?}");
        assert!(!problems.iter().any(|problem| problem.contains("until then")), "{problems:?}");
        let (updates, problems) = offer(&mut ledger, &service(", type: NodePort"));
        assert!(updates.is_empty());
        assert_eq!(problems[0], "unsupported of Service shop/web: ", "cleared by itself");
        let (_, problems) = offer(&mut ledger, &service(""));
        assert_eq!(problems, ["outside of Service shop/web: "]);
        assert_eq!(offer(&mut ledger, &service("")), (vec![], vec![]));
        offer(&mut ledger, &service(", type: NodePort"));
        let mut batch = Batch::default();
        ledger.retain(&[].into(), &mut batch);
        assert_eq!(
            texts(&batch).1,
            ["outside of Service shop/web: "],
            "an object that is gone asks for nothing"
        );
    }

    #[test]
    fn an_object_that_is_wrong_in_a_thousand_places_is_a_few_sentences() {
        let endpoints = "{addresses: [x]}, ".repeat(1000);
        let yaml = format!(
            "{{metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, \
             endpoints: [{endpoints}]}}"
        );
        let slice: convert::EndpointSlice = serde_saphyr::from_str(&yaml).unwrap();
        let mut batch = Batch::default();
        let (key, outcome) = convert::convert(&slice);
        Ledger::default().offer(key, outcome, &mut batch);
        let problems = &batch.reports[0].problems;
        assert_eq!(problems.len(), super::SENTENCES + 1);
        assert_eq!(problems.last().unwrap(), "EndpointSlice shop/web-1: and 995 more like these");
    }

    #[test]
    fn what_a_complete_list_does_not_hold_is_gone() {
        let mut ledger = Ledger::default();
        offer(&mut ledger, &service("10.96.0.10", "{}"));
        offer(&mut ledger, &policy("10.0.0.0/99"));
        let mut batch = Batch::default();
        ledger.retain(&[convert::key_of(&service("10.96.0.10", "{}"))].into(), &mut batch);
        let gone = (vec!["-NetworkPolicy shop/db".to_owned()], vec!["NetworkPolicy shop/db: ".to_owned()]);
        assert_eq!(texts(&batch), gone);
        let mut batch = Batch::default();
        ledger.retain(&[].into(), &mut batch);
        assert_eq!(texts(&batch), sent("-Service shop/web"));
    }
}
