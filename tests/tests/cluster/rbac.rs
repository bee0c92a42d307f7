//! The agent's `ClusterRole` holds what the agent needs and no more: each verb that is taken away is missed and named.
use std::{fs, time::Duration};

use agent_core::update::{Kind, Update};
use agent_sources::source::{self, Event, SourceConfig};
use anyhow::{Context as _, Result, bail, ensure};
use harness::kubernetes::{Cluster, Network, Options, Proxy, guard::Guard};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRole, PolicyRule},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::shared::own_name;

const MANIFEST: &str = include_str!("../../../deploy/manifests/millrace.yaml");
const ROLE: &str = "millrace";

/// More than the client's longest pause, and than the minute for which it keeps a token.
const PATIENCE: Duration = Duration::from_secs(100);

/// An API server with controllers and without nodes, and the agent's account in it.
struct Stage {
    cluster: Cluster,
    folder: tempfile::TempDir,
    _guard: Guard,
}

impl Stage {
    fn build(part: &str) -> Result<Self> {
        let name = own_name(part);
        let guard = Guard::set(&name)?;
        let options = Options { nodes: 0, proxy: Proxy::None, network: Network::None, ..Options::default() };
        let cluster = Cluster::start(&name, &options, &|step| eprintln!("{name}: {step}"))?;
        let wanted = ["kind: ServiceAccount", "kind: ClusterRole"];
        let is_wanted = |document: &&str| {
            wanted.iter().any(|kind| document.contains(kind)) && !document.contains("DaemonSet")
        };
        let documents: Vec<&str> = MANIFEST.split("\n---\n").filter(is_wanted).collect();
        cluster.api().apply_yaml(&documents.join("\n---\n"))?;
        Ok(Self { cluster, folder: tempfile::tempdir().context("a folder")?, _guard: guard })
    }

    fn token(&self) -> Result<String> {
        let output = self.cluster.kubectl()?.args(["create", "token", ROLE, "-n", "kube-system"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The kubeconfig of this user at this API server.
    fn source(&self, user: Value) -> Result<SourceConfig> {
        let admin = fs::read_to_string(self.cluster.plane().kubeconfig())?;
        let mut kubeconfig: Value = serde_saphyr::from_str(&admin).context("read a kubeconfig")?;
        kubeconfig["users"][0]["user"] = user;
        let path = self.folder.path().join("kubeconfig");
        fs::write(&path, kubeconfig.to_string())?;
        Ok(SourceConfig::Kubeconfig(path))
    }

    /// Runs the agent's source until every kind has come or a problem was said, and returns the problem.
    fn first_problem(&self, source: &SourceConfig) -> Result<Option<String>> {
        let (sender, mut events) = mpsc::channel::<Event>(16);
        let listen = async {
            let mut waiting = Kind::ALL.len();
            let mut quiet = PATIENCE;
            loop {
                let Ok(event) = timeout(quiet, events.recv()).await else {
                    // Lists prove little of watches: those that fail do so at once.
                    if waiting == 0 {
                        return Ok(None);
                    }
                    bail!("{waiting} kinds did not come, and nothing was said about it");
                };
                let event = event.context("the source ended")?;
                if let Some(problem) =
                    event.batch.reports.into_iter().flat_map(|report| report.problems).next()
                {
                    return Ok(Some(problem));
                }
                let synced = event.batch.updates.iter().filter(|update| matches!(update, Update::Synced(_)));
                waiting -= synced.count();
                if waiting == 0 {
                    quiet = Duration::from_secs(10);
                }
            }
        };
        self.cluster.api().run(async {
            tokio::select! {
                ended = source::run(source, sender) => bail!("the source ended: {ended:?}"),
                problem = listen => problem,
            }
        })
    }

    /// Changes the role and waits until the API server judges by all of it: its authorizer learns of roles by a watch
    /// of its own.
    fn set_rules(&self, whole: &[PolicyRule], rules: &[PolicyRule]) -> Result<()> {
        let all = self.cluster.api().cluster_wide::<ClusterRole>();
        all.patch(ROLE, &json!({ "rules": rules }))?;
        for (whole, left) in whole.iter().zip(rules) {
            for verb in &whole.verbs {
                harness::eventually::eventually("the API server judges by the role", PATIENCE, || {
                    let (judged, wanted) = (self.may(verb, whole)?, left.verbs.contains(verb));
                    ensure!(judged == wanted, "{verb} on {:?}: {judged}", whole.resources);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Whether the API server lets the agent's account do this with what one rule names.
    fn may(&self, verb: &str, rule: &PolicyRule) -> Result<bool> {
        let first = |names: &Option<Vec<String>>| names.as_ref().and_then(|names| names.first().cloned());
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: first(&rule.api_groups),
            resource: first(&rule.resources),
            ..ResourceAttributes::default()
        };
        let user = Some(format!("system:serviceaccount:kube-system:{ROLE}"));
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user,
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let review = self.cluster.api().cluster_wide::<SubjectAccessReview>().create(&review)?;
        Ok(review.status.context("a review without a result")?.allowed)
    }
}

/// One rule for each resource.
fn taken_apart(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let one = |rule: PolicyRule| {
        let resources = rule.resources.clone().unwrap_or_default();
        resources
            .into_iter()
            .map(move |resource| PolicyRule { resources: Some(vec![resource]), ..rule.clone() })
    };
    rules.into_iter().flat_map(one).collect()
}

#[test]
fn each_verb_that_is_taken_away_is_missed_and_named() -> Result<()> {
    let stage = Stage::build("rbac")?;
    let source = stage.source(json!({ "token": stage.token()? }))?;
    assert_eq!(stage.first_problem(&source)?, None, "the whole role is enough");

    let role = stage.cluster.api().cluster_wide::<ClusterRole>().get(ROLE)?;
    let rules = taken_apart(role.rules.unwrap_or_default());
    let mut tried = 0;
    for (index, rule) in rules.iter().enumerate() {
        for verb in &rule.verbs {
            let mut lesser = rules.clone();
            lesser[index].verbs.retain(|kept| kept != verb);
            stage.set_rules(&rules, &lesser)?;
            let (group, resource) = (
                rule.api_groups.as_ref().map(|groups| groups[0].as_str()),
                rule.resources.as_ref().map(|it| it[0].as_str()),
            );
            let resource = resource.context("a rule without a resource")?;
            let full = match group {
                None | Some("") => resource.to_owned(),
                Some(group) => format!("{resource}.{group}"),
            };
            let problem = stage.first_problem(&source)?;
            let problem = problem.with_context(|| format!("nobody misses {verb} on {full}"))?;
            for words in [format!("cannot {verb} "), format!("grant the verbs list and watch on {full} in")] {
                assert!(problem.contains(&words), "without {verb} on {full}: {problem}");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 2 * Kind::ALL.len());
    stage.cluster.down()
}

#[test]
fn a_token_that_is_not_accepted_is_named_and_its_successor_is_read_from_its_file() -> Result<()> {
    let stage = Stage::build("token")?;
    let token = stage.token()?;
    let file = stage.folder.path().join("token");
    fs::write(&file, "expired")?;
    let source = stage.source(json!({ "tokenFile": file }))?;
    let problem = stage.first_problem(&source)?.context("nobody minds a token that is none")?;
    assert!(problem.contains("(401)") && problem.contains("renew the token"), "{problem}");

    // A kubelet writes another token into the file of a running agent.
    let (sender, mut events) = mpsc::channel::<Event>(16);
    let rotated = async {
        let mut waiting = Kind::ALL.len();
        let mut problems = 0;
        while waiting > 0 {
            let event = timeout(PATIENCE, events.recv()).await.context("the new token is not used")?;
            let batch = event.context("the source ended")?.batch;
            if problems == 0 {
                fs::write(&file, &token)?;
            }
            problems += batch.reports.len();
            waiting -= batch.updates.iter().filter(|update| matches!(update, Update::Synced(_))).count();
        }
        ensure!(problems > 0, "the wrong token was not tried");
        Ok(())
    };
    stage.cluster.api().run(async {
        tokio::select! {
            ended = source::run(&source, sender) => bail!("the source ended: {ended:?}"),
            result = rotated => result,
        }
    })?;

    // The account is gone, and with it every token of it.
    stage.cluster.api().namespaced::<ServiceAccount>("kube-system").delete(ROLE)?;
    let source = stage.source(json!({ "token": token }))?;
    let problem = stage.first_problem_within_cache(&source)?;
    assert!(problem.contains("(401)"), "{problem}");
    stage.cluster.down()
}

impl Stage {
    /// The API server remembers for some seconds that a token was good.
    fn first_problem_within_cache(&self, source: &SourceConfig) -> Result<String> {
        harness::eventually::eventually("a token of nobody is refused", PATIENCE, || {
            self.first_problem(source)?.context("it is accepted")
        })
    }
}
