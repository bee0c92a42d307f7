use super::*;

#[track_caller]
fn caught(file: &str, text: &str, line: usize, part: &str) {
    let found = violations(file, text);
    assert!(
        found.iter().any(|violation| violation.line == line && violation.what.contains(part)),
        "{file}: no violation at line {line} that says {part:?}: {found:?}"
    );
}

#[track_caller]
fn clean(file: &str, text: &str) {
    assert_eq!(violations(file, text), [], "{file}");
}

#[test]
fn kube_is_a_dependency_of_the_sources_alone() {
    caught("agent/Cargo.toml", "[dependencies]\nkube = { workspace = true }", 2, "kube");
    caught("agent-sources/Cargo.toml", "[dependencies]\naya = { workspace = true }", 2, "aya");
    clean("agent-sources/Cargo.toml", "[dependencies]\nkube = { workspace = true }");
}

#[test]
fn strings_and_comments_are_no_code() {
    clean("agent/src/main.rs", "let a = \"x \\\" rtnetlink::y\"; // aya::z\nlet b = \"one \\\n aya::two\";");
    caught("agent/src/main.rs", "let c = '\"'; aya::f();", 1, "aya");
    caught("agent/src/main.rs", "let broken = \"\naya::f();", 2, "aya");
}

#[test]
fn aya_is_named_only_in_the_dataplane_module() {
    caught("agent/src/net/link.rs", "use aya;", 1, "aya");
    caught("agent/src/main.rs", "use {\n    aya::Ebpf,\n};", 2, "aya");
    clean("agent/src/dataplane/load.rs", "use aya::Ebpf;");
    clean("harness/src/lib.rs", "use aya::Ebpf;");
    clean("agent/src/reconcile.rs", "// aya::Ebpf is elsewhere\nlet a = \"aya\"; my_aya::x();");
}

#[test]
fn rtnetlink_is_named_only_in_the_net_module() {
    caught("agent/src/cni_server.rs", "    rtnetlink::new_connection()", 1, "rtnetlink");
    clean("agent/src/net/route.rs", "use rtnetlink::Handle;");
}

#[test]
fn the_environment_is_read_only_in_the_configuration() {
    caught("agent/src/telemetry.rs", "let x = std::env::var(\"A\");", 1, "env");
    caught("agent/src/telemetry.rs", "use std::env;", 1, "env");
    clean("agent/src/config.rs", "let x = std::env::var(\"A\");");
    clean("agent/src/main.rs", "let v = env!(\"CARGO_PKG_VERSION\");");
}

#[test]
fn only_tests_and_benchmarks_stand_on_the_harness() {
    caught("agent/src/main.rs", "use harness::packet;", 1, "harness");
    caught("cli/Cargo.toml", "[dev-dependencies]\nharness = { path = \"../harness\" }", 2, "harness");
    clean("tests/tests/prog_run.rs", "use harness::packet;");
}

#[test]
fn crates_depend_only_downwards() {
    caught("dataplane-common/Cargo.toml", "[dependencies]\nagent-core.workspace = true", 2, "agent-core");
    caught("agent-core/Cargo.toml", "[dependencies]\ntokio = { workspace = true }", 2, "tokio");
    caught("agent-core/Cargo.toml", "[target.'cfg(unix)'.dependencies]\naya = \"0\"", 2, "aya");
    caught("cni-plugin/Cargo.toml", "[dependencies]\nagent-core = { workspace = true }", 2, "agent-core");
    caught(
        "xtask/Cargo.toml",
        "[dependencies]\ndataplane-common = { workspace = true }",
        2,
        "dataplane-common",
    );
    clean("tests/Cargo.toml", "[dependencies]\nagent-core = { workspace = true }\naya = \"0\"");
    clean("cni-plugin/Cargo.toml", "[package]\nname = \"agent-core\"\n[dependencies]\nagent-api = \"0\"");
}

#[test]
fn the_pure_core_forbids_unsafe_code() {
    caught("agent-core/src/lib.rs", "pub mod model;", 0, "forbid");
    clean("agent-core/src/lib.rs", "#![forbid(unsafe_code)]");
}

#[test]
fn ebpf_modules_name_only_lower_layers() {
    caught("dataplane-ebpf/src/packet/l4.rs", "use crate::stage::nat;", 1, "stage");
    caught("dataplane-ebpf/src/maps.rs", "use crate::pipeline;", 1, "pipeline");
    caught("dataplane-ebpf/src/stage/nat.rs", "crate::pipeline::from_pod(ctx)", 1, "pipeline");
    caught("dataplane-ebpf/src/extra.rs", "use crate::maps;", 0, "layer");
    caught(
        "dataplane-ebpf/src/stage/nat.rs",
        "use crate::{\n    maps::{self, pipeline},\n    pipeline,\n};",
        3,
        "pipeline",
    );
    clean("dataplane-ebpf/src/pipeline/known.rs", "use crate::stage::nat;");
    clean("dataplane-ebpf/src/stage/nat.rs", "use crate::{maps::{self, pipeline}, observe};");
    clean("dataplane-ebpf/src/stage/nat.rs", "use crate::{maps, packet::Packet};");
    clean("dataplane-ebpf/src/observe.rs", "use crate::maps::COUNTERS;");
}

#[test]
fn stages_never_name_each_other() {
    caught("dataplane-ebpf/src/stage/nat.rs", "use crate::stage::policy::judge;", 1, "stage");
    caught("dataplane-ebpf/src/stage/nat.rs", "use super::policy::judge;", 1, "policy");
    clean("dataplane-ebpf/src/stage/nat.rs", "use super::Next;");
}

#[test]
fn a_hand_written_pod_is_caught() {
    caught("agent/src/dataplane/maps.rs", "unsafe impl aya::Pod for Key {}", 1, "Pod");
    clean("dataplane-common/src/abi.rs", "        unsafe impl Pod for $name {}");
}

#[test]
fn a_file_longer_than_the_limit_is_caught() {
    caught("cli/src/main.rs", &"x\n".repeat(LONGEST_FILE + 1), 0, "401 lines");
    clean("cli/src/main.rs", &"x\n".repeat(LONGEST_FILE));
}
