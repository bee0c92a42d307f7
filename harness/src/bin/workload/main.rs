//! The program in the images of test pods. It is built static, because it is all that an image holds.
mod ask;
mod http;
mod init;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use harness::probe::{serve::Server, wire::Transport, worker::obey};

#[derive(Parser)]
#[command(name = "workload", about = "Serves and asks from inside a test pod")]
enum Command {
    /// Hold a pod's namespaces
    Pause,
    /// Serve until asked to end
    Serve(ServeOptions),
    /// Ask a server once, and print what became of it
    Ask(ask::Options),
    /// Print the addresses of a name
    Resolve { name: String },
    /// Carry out the orders on standard input
    Obey { name: String },
    /// Become ready, or unready, over HTTP
    Ready {
        #[command(subcommand)]
        state: Ready,
    },
}

#[derive(Subcommand)]
enum Ready {
    /// Answer 200
    Yes,
    /// Answer 503
    No,
}

#[derive(clap::Args)]
struct ServeOptions {
    /// What to answer; the host name if it is not given
    #[arg(long)]
    name: Option<String>,
    /// Ports to answer lines on
    #[arg(long)]
    tcp: Vec<u16>,
    /// Ports to answer datagrams on
    #[arg(long)]
    udp: Vec<u16>,
    /// Ports to answer HTTP requests on: 200 when ready, 503 when not
    #[arg(long)]
    http: Vec<u16>,
    /// Go on serving for this many seconds after being asked to end
    #[arg(long, default_value_t = 0)]
    drain: u64,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Pause => init::wait_for_end(),
        Command::Serve(options) => serve(&options),
        Command::Ask(options) => ask::ask(&options),
        Command::Resolve { name } => resolve(&name),
        Command::Obey { name } => {
            obey(&name, std::io::stdin().lock(), std::io::stdout().lock(), || ());
            Ok(())
        }
        Command::Ready { state } => http::set_ready(matches!(state, Ready::Yes)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &ServeOptions) -> Result<()> {
    init::take_over()?;
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = options.name.as_deref().unwrap_or(host_name.trim());
    let mut servers = Vec::new();
    for (transport, ports) in [(Transport::Tcp, &options.tcp), (Transport::Udp, &options.udp)] {
        for port in ports {
            let server = Server::start(name, transport, *port);
            servers.push(server.with_context(|| format!("serve {transport:?} on port {port}"))?);
        }
    }
    for port in &options.http {
        http::serve(name, *port).with_context(|| format!("serve HTTP on port {port}"))?;
    }
    init::wait_for_end()?;
    std::thread::sleep(Duration::from_secs(options.drain));
    drop(servers);
    Ok(())
}

fn resolve(name: &str) -> Result<()> {
    for address in ask::addresses(&format!("{name}:0"))? {
        println!("{}", SocketAddr::ip(&address));
    }
    Ok(())
}
