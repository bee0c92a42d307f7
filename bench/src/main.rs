//! Benchmarks of Millrace beside kube-proxy and plain routing: `cargo xtask bench` builds and runs this.
#![expect(dead_code, reason = "the skeleton: cases follow")]
mod baseline;
mod load;
mod measure;
mod options;
mod system;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::{
    options::{Options, Role},
    system::{Hygiene, Kind, Setup, services::ServiceSet},
};

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.role {
        Some(Role::Client { .. }) => load::client::run(),
        Some(Role::Server { number, addr, .. }) => load::server::serve(*number, *addr),
        None => bench(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(_options: &Options) -> Result<()> {
    for kind in [Kind::Loopback, Kind::Plain, Kind::Millrace] {
        let setup =
            Setup { kind, services: ServiceSet { count: 10 }, hygiene: Hygiene::Clean, policy_peers: Some(0) };
        let begun = std::time::Instant::now();
        let system = system::build(setup)?;
        println!("{kind} {:?} {:?} {:?}", begun.elapsed(), system.target(0), system.footprint()?);
    }
    Ok(())
}
