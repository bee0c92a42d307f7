//! The benchmarks: a program of the crate `bench`, with everything it measures built beside it.
use std::ffi::OsString;

use anyhow::Result;

use crate::{build, build_ebpf, cluster, command, debian, machine, workspace};

/// What to measure.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Cases and options of the benchmarks: `cargo xtask bench --help` explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Options {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(Into::into).collect() }
    }
}

/// Programs that the benchmarks call.
const NEEDED: &[debian::Needed] = &[
    debian::Needed { program: "ip", package: "iproute2", why: "network namespaces and links" },
    debian::Needed { program: "iperf3", package: "iperf3", why: "throughput" },
    debian::Needed { program: "wrk", package: "wrk", why: "HTTP requests" },
    debian::Needed { program: "conntrack", package: "conntrack", why: "first packets through kube-proxy" },
    debian::Needed { program: "iptables", package: "iptables", why: "the rules of kube-proxy" },
    debian::Needed { program: "ipset", package: "ipset", why: "policies as other programs make them" },
    debian::Needed { program: "nft", package: "nftables", why: "the rules of kube-proxy" },
    debian::Needed { program: "ipset", package: "ipset", why: "peers of policies beside kube-proxy" },
    debian::Needed { program: "openssl", package: "openssl", why: "the keys of kube-proxy's API server" },
];

/// Every case once, as a test of the benchmarks themselves.
pub(crate) fn quick() -> Result<()> {
    let output = workspace::target().join("bench/quick");
    bench(&Options { arguments: vec!["--quick".into(), "--output".into(), output.into()] })
}

/// Builds everything and runs the benchmarks. A quick run judges no times, so it takes the builds of the tests.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let has = |name: &str| options.arguments.iter().any(|argument| argument == name);
    let only_tells = has("--help") || has("-h") || has("--list");
    if !only_tells {
        machine::require_ebpf("the benchmarks")?;
        debian::ensure(NEEDED)?;
        if measures_kube_proxy(&options.arguments) {
            cluster::build()?;
        }
    }
    build_ebpf::build_bench()?;
    let profile = if has("--quick") || only_tells { "debug" } else { "release" };
    build::for_benchmarks(profile == "release")?;
    command::run(command::program(workspace::target().join(profile).join("bench")).args(&options.arguments))
}

/// Whether kube-proxy, and an API server to feed it, are among what is measured: unless `--systems` says otherwise.
fn measures_kube_proxy(arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let chosen = words.iter().enumerate().find_map(|(at, word)| {
        word.strip_prefix("--systems=")
            .or_else(|| (word == "--systems").then(|| words.get(at + 1).map(AsRef::as_ref))?)
    });
    chosen.is_none_or(|systems| systems.contains("tables"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_is_built_only_when_it_is_measured() {
        let measures =
            |words: &[&str]| measures_kube_proxy(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(measures(&["--quick"]) && measures(&["--systems", "plain,iptables-nft"]));
        assert!(
            !measures(&["B2", "--systems=plain,millrace"]) && !measures(&["--systems", "millrace", "B2"])
        );
    }
}
