//! The pure oracle agrees with the policy table of the Kubernetes end-to-end suite: the table is checked without a
//! kernel, and so is the way from YAML to the model.
use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use agent_core::{
    oracle::{Subject, judge},
    state::ClusterState,
};
use agent_sources::{convert::Outcome, manifests::document};
use anyhow::{Context as _, Result, anyhow, bail};
use harness::{
    cluster::{ControlPlane, PodSpec, Protocol},
    policy_table::{self, Places, PodName, Row},
};

/// Addresses for the pods of a row, by their place in it.
struct Addresses(BTreeMap<PodName, [IpAddr; 2]>);

impl Addresses {
    fn of(row: &Row) -> Result<Self> {
        let address = |index: usize| -> Result<[IpAddr; 2]> {
            Ok([
                format!("10.244.{}.{}", index % 2 + 1, index + 10).parse()?,
                format!("fd00:10:244:{}::{index:x}", index % 2 + 1).parse()?,
            ])
        };
        row.pods
            .iter()
            .zip(1..)
            .map(|(pod, index)| Ok((pod.clone(), address(index)?)))
            .collect::<Result<_>>()
            .map(Self)
    }
}

impl Places for Addresses {
    fn namespace(&self, namespace: &str) -> String {
        namespace.to_owned()
    }

    fn address(&self, pod: &PodName, v6: bool) -> IpAddr {
        self.0[pod][usize::from(v6)]
    }
}

/// What a directory of manifests says.
fn state_of(directory: &Path) -> Result<ClusterState> {
    let mut state = ClusterState::default();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
        let parsed =
            document::parse(file, &fs::read_to_string(&path)?).map_err(|errors| anyhow!("{errors:?}"))?;
        for (key, outcome) in parsed.objects {
            let Outcome::Usable { model, skipped } = outcome else {
                bail!("{key} is not usable: {outcome:?}")
            };
            if !skipped.is_empty() {
                bail!("{key}: {skipped:?}");
            }
            state.apply(model.update);
        }
    }
    Ok(state)
}

#[test]
fn the_oracle_judges_every_cell_of_the_policy_table_as_the_suite_expects() -> Result<()> {
    let mut cells = 0;
    for row in policy_table::rows()? {
        let folder = tempfile::tempdir()?;
        let directory = folder.path().join("manifests");
        let control_plane = ControlPlane::default();
        control_plane.add_directory(&directory)?;
        let addresses = Addresses::of(&row)?;
        for namespace in ["x", "y", "z"] {
            control_plane.apply_namespace(namespace, &[])?;
        }
        for (pod, ips) in &addresses.0 {
            let mut spec = PodSpec::new(&pod.namespace, &pod.name).label("pod", &pod.name);
            for port in &row.ports {
                spec = spec.port(&port.name(), port.protocol, port.number);
            }
            control_plane.schedule_pod(&spec)?;
            control_plane.update_pod(&pod.namespace, &pod.name, |_, status| status.ips = ips.to_vec())?;
        }
        for (index, step) in row.steps.iter().enumerate() {
            for policy in &step.apply {
                control_plane.apply(&policy.object(&addresses)?)?;
            }
            for name in &step.delete {
                control_plane.delete("NetworkPolicy", "x", name)?;
            }
            for (namespace, labels) in &step.label_namespace {
                let labels: Vec<_> =
                    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                control_plane.apply_namespace(namespace, &labels)?;
            }
            for (pod, labels) in &step.label_pod {
                control_plane
                    .update_pod(&pod.namespace, &pod.name, |spec, _| spec.labels.extend(labels.clone()))?;
            }
            let state = state_of(&directory)?;
            for port in &row.ports {
                let blocked = row.blocked(step, *port)?;
                let protocol = match port.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                };
                for (from, to) in row.pairs() {
                    for v6 in [false, true] {
                        let [source, destination] =
                            [from, to].map(|pod| Subject::Address(addresses.address(pod, v6)));
                        let judgement = judge(&state, source, destination, protocol, port.number);
                        let expected = !blocked.contains(&(from.clone(), to.clone()));
                        assert_eq!(
                            judgement.is_allowed(),
                            expected,
                            "row {}, step {}: {from} > {to} {port}: {judgement:?}",
                            row.row,
                            index + 1
                        );
                        cells += 1;
                    }
                }
            }
        }
    }
    // A table that lost its rows must not pass: 43 specs over TCP and 3 over UDP, each step and pair in both families.
    assert_eq!((policy_table::rows()?.len(), cells), (46, 996));
    Ok(())
}
