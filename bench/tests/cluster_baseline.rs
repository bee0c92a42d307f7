//! The generated rules of the baseline are those of the real kube-proxy.
use std::process::Command;

/// Runs the comparison, which prints a line for each kind of iptables and step.
fn compare(services: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["compare-rules", &services.to_string()])
        .output()
        .expect("run the bench");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.lines().filter(|line| line.ends_with("all equal")).count(), 4, "{said}");
}

#[test]
fn ten_services_have_the_rules_of_the_real_kube_proxy() {
    compare(10);
}

#[test]
fn a_thousand_services_have_the_rules_of_the_real_kube_proxy() {
    compare(1_000);
}
