//! One function call per command: collect, then report.
use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use crate::{
    args::{Args, Command, ConntrackCommand, List},
    clock::Clock,
    names::Names,
    node::{Node, conntrack, counters, endpoint, policy, programs, service},
    report::{
        conntrack::FlowList, drops::DropReport, endpoint::EndpointList, explain::Explanation,
        health::HealthReport, policy::PolicyList, printed, service::ServiceList, status::StatusReport,
        why::WhyReport,
    },
    wait,
    why::{
        question::{self, Question},
        resolve,
        walk::{Walk, Walker},
    },
};

/// Runs the command and returns what to print, and the exit code.
pub(crate) fn run(args: &Args) -> Result<(String, ExitCode)> {
    let output = args.output;
    match &args.command {
        Command::Status { wait } => {
            let missing = wait.map_or_else(Vec::new, |seconds| {
                wait::until_applied(&args.runtime_dir, Duration::from_secs(seconds))
            });
            let node = Node::open(args.bpffs.clone())?;
            printed(&StatusReport::collect(&node, &args.runtime_dir, missing)?, output)
        }
        Command::Health { probe } => printed(&HealthReport::collect(*probe, &args.runtime_dir)?, output),
        Command::Service(List::List) => {
            let (node, names) = open(args)?;
            printed(&ServiceList::new(service::frontends(&node)?, &names), output)
        }
        Command::Endpoint(List::List) => {
            let (node, names) = open(args)?;
            let (endpoints, interfaces) = (endpoint::endpoints(&node)?, programs::interfaces(&node.dir)?);
            printed(&EndpointList::new(&endpoints, &names, &interfaces), output)
        }
        Command::Policy(List::List) => {
            let (node, names) = open(args)?;
            let (compiled, endpoints) = (policy::compiled(&node)?, endpoint::endpoints(&node)?);
            printed(&PolicyList::new(&compiled, &endpoints, &names), output)
        }
        Command::Conntrack(ConntrackCommand::List { pod, addr }) => {
            let (node, names) = open(args)?;
            let addresses = wanted_addresses(pod.as_deref(), *addr, &names)?;
            let entries = conntrack::entries(&node)?;
            printed(&FlowList::new(&entries, addresses.as_deref(), &names, Clock::read()), output)
        }
        Command::Drops => {
            let (node, names) = open(args)?;
            let (drops, denied) = (counters::drops(&node)?, counters::denied(&node)?);
            printed(&DropReport::new(&drops, &denied, &names, Clock::read()), output)
        }
        Command::Why { flow } => {
            let question = Question::parse(flow)?;
            let (node, names) = open(args)?;
            printed(&answer(&node, &names, &question)?, output)
        }
        Command::Explain { reason } => printed(&Explanation::of(reason.as_deref())?, output),
    }
}

/// The maps and their names; missing names are a warning.
fn open(args: &Args) -> Result<(Node, Names)> {
    let node = Node::open(args.bpffs.clone())?;
    let names = Names::of_now(&args.runtime_dir);
    if let Some(warning) = &names.warning {
        eprintln!("millrace: {warning}");
    }
    Ok((node, names))
}

fn answer(node: &Node, names: &Names, question: &Question) -> Result<WhyReport> {
    let flows = resolve::flows(question, names, &service::frontends(node)?)?;
    let walker = Walker { node, names, proto: question.proto, compiled: policy::compiled(node)? };
    let walks: Result<Vec<Walk>> = flows.iter().map(|flow| walker.walk(flow)).collect();
    Ok(WhyReport::new(question, walks?))
}

fn wanted_addresses(pod: Option<&str>, addr: Option<IpAddr>, names: &Names) -> Result<Option<Vec<IpAddr>>> {
    let Some(text) = pod else { return Ok(addr.map(|addr| vec![addr])) };
    let pod = question::pod(text)?;
    let mut addresses = names.addresses(&pod);
    if addresses.is_empty() {
        bail!("no pod {pod} is known on this node{}: use --addr", names.excuse());
    }
    addresses.retain(|known| addr.is_none_or(|addr| addr == *known));
    Ok(Some(addresses))
}
