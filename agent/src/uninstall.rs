//! Removing everything of Millrace from a node: the opposite of all that an agent and its CNI plugin ever did there.
use std::{fs, io, path::Path};

use anyhow::{Result, bail};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cni_bin, cni_conf,
    config::{Config, Then},
    dataplane, ipam,
    net::{
        Netlink,
        route::Scope,
        sysctl::{self, Sysctls},
    },
    telemetry::chain,
};

/// What names begin with in the runtime and the state directory. Nothing else is deleted: a directory may have been
/// named by mistake.
const RUNTIME_FILES: [&str; 3] = [agent_api::SOCKET_NAME, agent_api::SERVED_NAME, "catalog.json"];
const STATE_FILES: [&str; 6] =
    ["leases.json", "departed.json", "pending-detach", "manifests", "services", sysctl::RECORD];

/// Removes what is there. What is gone already is no error, and what fails does not keep the rest.
pub(crate) fn uninstall(config: &Config, cut_off_pods: bool, then: Then) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        remove(config, cut_off_pods).await?;
        if then == Then::Wait {
            tracing::info!("waiting to be stopped");
            terminate.recv().await;
        }
        Ok(())
    })
}

async fn remove(config: &Config, cut_off_pods: bool) -> Result<()> {
    // The agent of this node must be stopped: it would make everything anew.
    let pins = dataplane::claim(&config.bpffs)?;
    let netlink = Netlink::open()?;
    let pods = netlink.pod_interfaces().await?;
    if !pods.is_empty() && !cut_off_pods {
        let names: Vec<String> = pods.iter().map(shown).collect();
        bail!(
            "pods use Millrace on this node: {}; drain the node and delete those that stay (of DaemonSets), or give \
             --cut-off-pods to delete their interfaces",
            names.join(", ")
        );
    }

    let mut left: Vec<String> = Vec::new();
    let mut done = |what: &str, result: Result<bool, String>| match result {
        Ok(true) => tracing::info!("removed {what}"),
        Ok(false) => tracing::info!("there is no {what}"),
        Err(error) => left.push(error),
    };
    // First the file that makes the runtime call the plugin: no pod begins any more.
    if let Some(dir) = &config.cni_conf_dir {
        done("CNI configuration", cni_conf::remove(dir).map_err(|error| chain(&error)));
    }
    for pod in &pods {
        let deleted = netlink.delete_link(pod.host_ifindex, &pod.host_ifname).await;
        done(
            &format!("interface of pod {}", shown(pod)),
            deleted.map(|()| true).map_err(|error| chain(&error)),
        );
    }
    let (pinned, errors) = pins.remove();
    let failed: Vec<String> = errors.iter().map(|error| chain(error)).collect();
    let pins_left = if failed.is_empty() { Ok(pinned > 0) } else { Err(failed.join("; ")) };
    done("programs and maps in the kernel", pins_left);
    let routes = netlink.sync_node_routes(&[], &Scope::All).await;
    let routes = routes.map_err(|error| chain(&error)).and_then(|report| {
        let failed: Vec<String> = report.errors.iter().map(|error| chain(error)).collect();
        if failed.is_empty() { Ok(report.removed > 0) } else { Err(failed.join("; ")) }
    });
    done("routes to other nodes", routes);
    done("CNI plugin", cni_bin::remove(&config.cni_bin_dir).map_err(|error| chain(&error)));
    for restored in Sysctls::at(&config.proc_sys, &config.state_dir).restore() {
        match restored {
            Ok(sentence) => tracing::info!("{sentence}"),
            // It hinders nobody, and trying again would not help.
            Err(error) => tracing::warn!("{}", chain(&error)),
        }
    }
    done("files of the agent", delete(&config.runtime_dir, &RUNTIME_FILES));
    done("leases and copies", delete(&config.state_dir, &STATE_FILES));
    if !left.is_empty() {
        bail!("not everything could be removed, so run it again: {}", left.join("; "));
    }
    tracing::info!("nothing of Millrace is left on this node");
    Ok(())
}

fn shown(pod: &ipam::Survivor) -> String {
    let name = pod.label.as_ref().and_then(|label| label.pod.as_ref());
    name.map_or_else(|| pod.host_ifname.clone(), |pod| format!("{}/{}", pod.namespace, pod.name))
}

/// Deletes what is ours in a directory. `false`: there was nothing.
fn delete(dir: &Path, stems: &[&str]) -> Result<bool, String> {
    let failed = |error: io::Error| format!("cannot remove what is in {}: {error}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(failed)?,
    };
    let mut found = false;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if stems.iter().any(|stem| name.starts_with(stem)) {
            let deleted = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            deleted.map_err(failed)?;
            found = true;
        }
    }
    Ok(found)
}
