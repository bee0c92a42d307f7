//! What an agent costs while nothing happens.
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::kubernetes::millrace::{NAME, NAMESPACE};
use k8s_openapi::api::apps::v1::DaemonSet;

use crate::{own::alone, stage::Stage};

/// Long enough for each kind of housekeeping, and a readiness probe or three.
const WATCHED: Duration = Duration::from_secs(31);

/// At rest it takes a part of the processor that it asks for, at most one of so many: what it asks is for work.
const RESTING: u128 = 10;

/// What the DaemonSet asks of the node for each agent, in bytes and in thousandths of a processor.
struct Requests {
    memory: u64,
    processor: u64,
}

#[test]
fn an_agent_at_rest_stays_within_what_it_asks_of_its_node() -> Result<()> {
    alone(|cluster| {
        drop(Stage::set(cluster)?);
        let set = cluster.api().namespaced::<DaemonSet>(NAMESPACE).get(NAME)?;
        let requests = requests(&set)?;
        let agents = cluster.wait_for_other_agents(&BTreeMap::new())?;
        let processes: Vec<u32> =
            agents.values().map(|agent| cluster.process_of(agent)).collect::<Result<_>>()?;
        let before: Vec<Duration> =
            processes.iter().map(|process| processor_time(*process)).collect::<Result<_>>()?;
        let begun = Instant::now();
        // Nothing is waited for: this is what is measured.
        std::thread::sleep(WATCHED);
        let took = begun.elapsed();
        for ((node, process), before) in agents.keys().zip(&processes).zip(before) {
            let memory = resident(*process)?;
            let used = processor_time(*process)?.checked_sub(before).context("a clock that goes on")?;
            let thousandths = used.as_micros() * 1000 / took.as_micros();
            println!(
                "agent of {node} at rest: {} KiB resident; {used:.0?} of a processor in {took:.0?}, {thousandths} m",
                memory >> 10
            );
            ensure!(memory <= requests.memory, "{memory} bytes, {} are asked for", requests.memory);
            ensure!(
                thousandths * RESTING <= requests.processor.into(),
                "{thousandths} m of a processor at rest, {} m are asked for",
                requests.processor
            );
        }
        Ok(())
    })
}

fn requests(set: &DaemonSet) -> Result<Requests> {
    let pod = set.spec.template.spec.as_ref();
    let container = pod.and_then(|pod| pod.containers.first()).context("a DaemonSet has a container")?;
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let quantity = |name: &str, unit: &str| -> Result<u64> {
        let quantity = requests.and_then(|requests| requests.get(name));
        let quantity = &quantity.with_context(|| format!("the DaemonSet asks for no {name}"))?.0;
        let number = quantity.strip_suffix(unit).and_then(|number| number.parse().ok());
        number.with_context(|| format!("{name}: {quantity} is no number of {unit}"))
    };
    Ok(Requests { memory: quantity("memory", "Mi")? << 20, processor: quantity("cpu", "m")? })
}

/// The memory of a process that is resident, in bytes.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("the agent ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.context("a process has memory")? << 10)
}

/// The time that a process has spent on processors: its own and the system's, in ticks of which a second has 100
/// (proc(5), fields 14 and 15).
fn processor_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the agent ended")?;
    let fields = stat.rsplit_once(')').context("a name in brackets")?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
