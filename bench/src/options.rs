//! The command line.
use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::system::Kind;

/// Measures Millrace beside kube-proxy and plain veth routing, in interleaved rounds on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,

    /// Cases to run, as in B2 [default: all]
    #[arg(value_name = "CASE")]
    pub(crate) cases: Vec<String>,

    /// List the cases and end
    #[arg(long)]
    pub(crate) list: bool,

    /// Every case once, briefly: shapes and invariants are checked, times are not
    #[arg(long)]
    pub(crate) quick: bool,

    /// Interleaved rounds [default: 11; with --quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: Option<u32>,

    /// Length of a slice of load, in seconds [default: 2; with --quick: 0.2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,

    /// Numbers of services [default: 10,1000,10000,50000; with --quick: 10,1000]
    #[arg(long, value_name = "N,N…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=60_000))]
    sizes: Vec<u32>,

    /// What to measure [default: all that can run here]
    #[arg(long, value_name = "SYSTEM,…", value_delimiter = ',', value_parser = kind)]
    pub(crate) systems: Vec<Kind>,

    /// Also load the sizes that take a system many minutes
    #[arg(long)]
    pub(crate) patient: bool,

    /// Where the raw data, the table and the plots go [default: target/bench/TIME]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// What this process is, when it is not the one that measures.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// A client, inside of a pod
    #[command(hide = true)]
    Client { mark: String },
    /// A server, inside of a pod
    #[command(hide = true)]
    Server { number: u8, addr: std::net::Ipv4Addr, mark: String },
    /// Hold the rules of the baseline against those of the real kube-proxy, with this many services
    CompareRules { services: usize },
}

impl Options {
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 11 })
    }

    pub(crate) fn lasting(&self) -> Duration {
        self.seconds.unwrap_or(if self.quick { Duration::from_millis(200) } else { Duration::from_secs(2) })
    }

    /// Numbers of services, ascending.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let default: &[u32] = if self.quick { &[10, 1000] } else { &[10, 1000, 10_000, 50_000] };
        let chosen = if self.sizes.is_empty() { default } else { &self.sizes };
        let mut sizes: Vec<usize> = chosen.iter().map(|size| *size as usize).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.05..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("between 0.05 and 600".to_owned())
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("known are {}", known()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["bench"].iter().chain(arguments))
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_are_sorted_and_unique() {
        let options = parse(&["--sizes", "1000,10,10"]).expect("valid");
        assert_eq!(options.sizes(), [10, 1000]);
        assert!(parse(&["--sizes", "0"]).is_err());
        assert!(parse(&["--sizes", "60001"]).is_err());
    }

    #[test]
    fn an_unknown_system_is_refused_with_those_that_are_known() {
        let error = parse(&["--systems", "ipvs"]).expect_err("unknown").to_string();
        assert!(error.contains("ipvs") && error.contains("iptables-legacy"), "{error}");
        let options = parse(&["--systems", "plain,millrace"]).expect("known");
        assert_eq!(options.systems, [Kind::Plain, Kind::Millrace]);
    }

    #[test]
    fn quick_is_brief_unless_told_otherwise() {
        let options = parse(&["--quick", "--rounds", "5", "B2"]).expect("valid");
        assert_eq!((options.rounds(), options.lasting()), (5, Duration::from_millis(200)));
        assert_eq!(options.cases, ["B2"]);
    }
}
