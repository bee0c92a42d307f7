//! What the command says when it cannot do its work.
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use bpf_maps::{Map, Versions};
use dataplane_common::maps::{MapId, MapKind, MapSpec};

use crate::node::{Node, Ran};

/// Runs a command that must fail with one message, and returns it.
fn complaint(node: &Node, arguments: &[&str]) -> String {
    let ran = node.run(arguments);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn a_node_without_millrace_says_so() {
    let node = Node::bare();
    let expected = format!(
        "millrace: Millrace is not installed on this node: there are no maps in {}. Start the agent, or name its \
         bpffs with --bpffs\n",
        node.dir.maps_dir().display()
    );
    assert_eq!(complaint(&node, &["status"]), expected);
}

#[test]
fn a_directory_that_is_no_bpffs_is_named_with_the_remedy() {
    let node = Node::bare();
    let plain = node.runtime_dir();
    let plain = plain.display();
    let expected = format!("millrace: {plain} is not a bpffs: mount -t bpf bpf {plain}\n");
    assert_eq!(complaint(&node, &["status", "--bpffs", &plain.to_string()]), expected);
}

#[test]
fn maps_of_another_version_are_not_read() {
    let node = Node::with_database();
    let versions = Versions::current().to_entries();
    let conntrack = versions.iter().find(|(name, _)| name.starts_with(b"CT_EST_V4")).unwrap();
    node.write(MapId::META, &conntrack.0, &99_u32.to_ne_bytes());
    let said = complaint(&node, &["conntrack", "list"]);
    assert!(said.contains("CT_EST_V4 is of version 99") && said.contains("use the `millrace`"), "{said}");
    // The others are read.
    assert_eq!(node.run(&["why", "10.1.0.7 -> 10.1.0.9:5432"]).code, Some(0));
}

#[test]
fn maps_of_an_agent_that_knew_no_versions_are_not_read() {
    let node = Node::empty();
    let path = node.dir.map_path(MapId::META);
    fs::remove_file(&path).unwrap();
    let former = MapSpec {
        kind: MapKind::Array,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        flags: 0,
        ..MapId::META.spec()
    };
    let meta = Map::create(&former).unwrap();
    meta.pin(&path).unwrap();
    meta.update(&0_u32.to_ne_bytes(), &4_u32.to_ne_bytes()).unwrap();
    let said = complaint(&node, &["status"]);
    assert!(said.contains("are of ABI version 4"), "{said}");
}

#[test]
fn one_map_of_another_layout_does_not_hide_the_others() {
    let node = Node::with_database();
    let path = node.dir.map_path(MapId::CT_EST_V4);
    fs::remove_file(&path).unwrap();
    let other = MapSpec { value_size: 16, ..MapId::CT_EST_V4.spec() };
    Map::create(&other).unwrap().pin(&path).unwrap();
    let text = node.prints(&["status"]);
    assert!(text.contains("problem:   CT_EST_V4"), "{text}");
    assert!(text.contains("has value size 16, this version expects"), "{text}");
    assert!(text.contains("\nENDPOINTS_V4 "), "{text}");
    assert!(complaint(&node, &["conntrack", "list"]).contains("value size 16"));
    assert_eq!(node.run(&["why", "10.1.0.7 -> 10.1.0.9:5432"]).code, Some(0));
}

#[test]
fn without_root_the_command_says_that_it_needs_root() {
    let node = Node::with_database();
    // The binary and the temporary directory may be for root only: let everybody pass, as on a real node.
    let binary = node.temporary.path().join("millrace");
    fs::copy(env!("CARGO_BIN_EXE_millrace"), &binary).unwrap();
    fs::set_permissions(node.temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&binary);
    command.args(["status", "--bpffs"]).arg(node.dir.bpffs()).uid(65_534).gid(65_534);
    // A test beside this one may have forked while the copy was open for writing, and hold it for a moment.
    let output = (0..100)
        .find_map(|_| match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
                None
            }
            output => Some(output),
        })
        .expect("the copy is closed within a second");
    let ran: Ran = output.expect("run millrace").into();
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("run `millrace` as root"), "{}", ran.stderr);
}

#[test]
fn a_wrong_question_is_answered_with_the_right_form() {
    let node = Node::bare();
    let complaint = complaint(&node, &["why", "10.1.0.7", "-"]);
    assert!(complaint.contains("quote the flow"), "{complaint}");
}
