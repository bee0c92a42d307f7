//! The benchmarks: a program of the crate `bench`, with everything it measures built beside it.
use std::ffi::OsString;

use anyhow::Result;

use crate::{build, build_ebpf, command, debian, machine, workspace};

/// What to measure.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Cases and options of the benchmarks: `cargo xtask bench --help` explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
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

/// Builds everything and runs the benchmarks. A quick run judges no times, so it takes the builds of the tests.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let has = |name: &str| options.arguments.iter().any(|argument| argument == name);
    let only_tells = has("--help") || has("-h") || has("--list");
    if !only_tells {
        machine::require_ebpf("the benchmarks")?;
        debian::ensure(NEEDED)?;
    }
    build_ebpf::build_bench()?;
    let profile = if has("--quick") || only_tells { "debug" } else { "release" };
    build::for_benchmarks(profile == "release")?;
    command::run(command::program(workspace::target().join(profile).join("bench")).args(&options.arguments))
}
