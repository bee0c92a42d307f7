//! What the command says when it cannot do what it is asked: one error, with the remedy.
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    kubernetes::down,
    machine::binaries::{binary, copy_program},
};

use crate::shared::{own_name, reference};

/// The one line of error of a command that fails.
fn error_of(command: &mut Command) -> Result<String> {
    let output = command.output().context("run `cluster`")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it succeeded: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(errors.len() == 1, "not one error: {stderr}");
    Ok(errors[0].to_owned())
}

fn cluster() -> Result<Command> {
    Ok(Command::new(binary("cluster")?))
}

#[test]
fn a_name_that_is_up_is_not_made_again() -> Result<()> {
    let name = reference().name().to_string();
    let error = error_of(cluster()?.args(["up", "--name", &name]))?;
    assert!(error.contains(&format!("cluster {name} is up already")), "{error}");
    assert!(error.contains(&format!("cluster down --name {name}")), "{error}");
    Ok(())
}

#[test]
fn an_unknown_node_is_named_with_those_that_are_there() -> Result<()> {
    let name = reference().name().to_string();
    let error = error_of(cluster()?.args(["enter", "--name", &name, "node-9", "true"]))?;
    assert!(error.contains("no node \"node-9\"; it has: node-1, node-2"), "{error}");
    let error = error_of(cluster()?.args(["logs", "--name", &name, "node-1.etcd"]))?;
    assert!(error.contains("no program \"node-1.etcd\"; it has: control.etcd,"), "{error}");
    Ok(())
}

#[test]
fn a_cluster_that_is_not_there_is_no_place_to_enter() -> Result<()> {
    let name = own_name("absent").to_string();
    for command in ["status", "kubeconfig", "kubectl", "logs"] {
        let error = error_of(cluster()?.args([command, "--name", &name]))?;
        assert!(error.contains(&format!("there is no cluster {name}")), "{command}: {error}");
    }
    let output = cluster()?.args(["down", "--name", &name]).output().context("run `cluster down`")?;
    assert!(output.status.success(), "taking down what is gone is success");
    Ok(())
}

#[test]
fn missing_components_and_missing_rights_are_named_before_anything_is_made() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder")?;
    let copy = folder.path().join("debug/cluster");
    fs::create_dir(folder.path().join("debug")).context("a folder of programs")?;
    copy_program(&binary("cluster")?, &copy)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
    let name = own_name("nothing");

    let error = error_of(Command::new(&copy).args(["up", "--name", &name.to_string()]))?;
    assert!(error.contains("cluster/bin does not exist: `cargo xtask cluster build`"), "{error}");

    let nobody = 65534;
    let error =
        error_of(Command::new(&copy).args(["up", "--name", &name.to_string()]).uid(nobody).gid(nobody))?;
    assert!(error.contains("run as root"), "{error}");
    assert!(!Path::new(&name.folder()).exists());
    assert!(!down::present()?.contains(&name));
    Ok(())
}
