//! The chart renders the objects of the plain manifest, and puts values where they belong.
use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use harness::kubernetes::programs::Programs;
use serde_json::Value;

const MANIFEST: &str = include_str!("../../../deploy/manifests/millrace.yaml");

/// The objects of a YAML text, ordered by kind and name.
fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---").map(|document| {
        serde_saphyr::from_str(document.trim_start_matches('-')).with_context(|| document.to_owned())
    });
    let mut objects: Vec<Value> = documents.collect::<Result<_>>()?;
    objects.retain(|object| !object.is_null());
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    Ok(objects)
}

fn rendered(options: &[&str]) -> Result<Vec<Value>> {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/millrace");
    let mut helm = Command::new(Programs::find()?.path("helm")?);
    helm.args(["template", "millrace"]).arg(chart).args(["--namespace", "kube-system"]).args(options);
    let output = helm.output().context("run helm")?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout)?)
}

fn find<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

#[test]
fn the_chart_renders_the_objects_of_the_plain_manifest() -> Result<()> {
    let (plain, rendered) = (objects(MANIFEST)?, rendered(&[])?);
    assert_eq!(plain.len(), 5);
    for (plain, rendered) in plain.iter().zip(&rendered) {
        assert_eq!(plain, rendered);
    }
    assert_eq!(plain.len(), rendered.len());
    Ok(())
}

#[test]
fn values_reach_the_objects() -> Result<()> {
    let objects = rendered(&[
        "--set=apiServer=https://192.0.2.10:6443",
        "--set=settings.MILLRACE_SERVICES=kube-proxy",
        "--set=image.tag=9.9.9",
        "--set=metrics.port=9999",
        "--set=paths.cniBin=/var/lib/cni/bin",
        "--set=securityContext.seLinuxOptions.type=spc_t",
    ])?;
    let settings = &find(&objects, "ConfigMap")?["data"];
    assert_eq!(settings["MILLRACE_API_SERVER"], "https://192.0.2.10:6443");
    assert_eq!(settings["MILLRACE_SERVICES"], "kube-proxy");
    let pod = &find(&objects, "DaemonSet")?["spec"]["template"]["spec"];
    let agent = &pod["containers"][0];
    assert_eq!(settings["MILLRACE_METRICS_ADDRESS"], ":9999");
    assert_eq!(agent["ports"][0]["containerPort"], 9999);
    assert_eq!(agent["image"], "localhost/millrace/millrace:9.9.9");
    assert_eq!(agent["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    assert_eq!(agent["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert_eq!(pod["initContainers"][0]["env"][0]["value"], "/var/lib/cni/bin");
    assert_eq!(pod["initContainers"][0]["volumeMounts"][0]["mountPath"], "/var/lib/cni/bin");
    Ok(())
}

#[test]
fn metrics_can_be_turned_off() -> Result<()> {
    let objects = rendered(&["--set=metrics.port=0"])?;
    assert_eq!(find(&objects, "ConfigMap")?["data"]["MILLRACE_METRICS_ADDRESS"], "none");
    let agent = &find(&objects, "DaemonSet")?["spec"]["template"]["spec"]["containers"][0];
    assert!(agent.get("ports").is_none(), "{agent}");
    Ok(())
}
