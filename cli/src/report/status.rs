//! `millrace status`.
use std::{fmt::Write as _, path::Path, process::ExitCode, time::Duration};

use agent_api::{Program, Status};
use anyhow::Result;
use dataplane_common::maps::{MapId, MapKind};
use serde::Serialize;

use super::Report;
use crate::{
    agent::{self, Agent},
    clock::spoken,
    node::{
        Node,
        programs::{self, LoadedProgram},
        service,
    },
    table::{Table, counted, grouped, joined},
};

/// How full a map is.
#[derive(Debug, Serialize)]
pub(crate) struct MapUse {
    name: &'static str,
    version: u32,
    entries: u64,
    max_entries: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    agent: Agent,
    policy_epoch: u32,
    programs: Vec<LoadedProgram>,
    maps: Vec<MapUse>,
    /// What could not be read, a sentence each.
    problems: Vec<String>,
    /// What was waited for in vain, a sentence each.
    missing: Vec<String>,
}

impl StatusReport {
    pub(crate) fn collect(node: &Node, runtime_dir: &Path, missing: Vec<String>) -> Result<Self> {
        let agent = agent::ask(runtime_dir);
        let (mut programs, mut problems) = programs::attached(&node.dir)?;
        if let Agent::Running(status) = &agent {
            complete(&mut programs, &status.programs);
        }
        if programs.iter().any(|program| program.verified_instructions.is_none()) {
            problems.push(
                "the number of verified instructions is shown with CAP_SYS_ADMIN, or while the agent runs"
                    .to_owned(),
            );
        }
        let mut maps = Vec::new();
        for &id in MapId::ALL {
            match map_use(node, id) {
                Ok(used) => maps.extend(used),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let policy_epoch = node.number(MapId::POLICY_EPOCH).unwrap_or_default();
        Ok(Self { agent, policy_epoch, programs, maps, problems, missing })
    }
}

/// Takes from the agent what the kernel does not show to this user, and what has no pin: filters.
fn complete(programs: &mut Vec<LoadedProgram>, known: &[Program]) {
    for program in programs.iter_mut().filter(|program| program.verified_instructions.is_none()) {
        let known = known.iter().find(|known| known.name == program.name);
        program.verified_instructions = known.map(|known| known.verified_instructions);
    }
    let pinned: Vec<String> = programs.iter().map(|program| program.name.clone()).collect();
    let filters = known.iter().filter(|known| !known.attached_to.is_empty() && !pinned.contains(&known.name));
    programs.extend(filters.map(|known| LoadedProgram {
        name: known.name.clone(),
        verified_instructions: Some(known.verified_instructions),
        attached_to: known.attached_to.clone(),
    }));
    programs.sort_by(|one, other| one.name.cmp(&other.name));
}

/// `None` for `META`, which says what the others are, for the arrays of numbers, which are always full, and for what belongs to
/// sockets, which nobody can count.
fn map_use(node: &Node, id: MapId) -> Result<Option<MapUse>> {
    let spec = id.spec();
    let entries = match (id, spec.kind) {
        (MapId::BACKENDS_V4 | MapId::BACKENDS_V6, _) => service::used_slots(node, id)?,
        (MapId::META, _) | (_, MapKind::Array | MapKind::PerCpuArray | MapKind::SkStorage) => {
            return Ok(None);
        }
        (_, MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie) => node.map(id)?.count()? as u64,
    };
    let max_entries = node.map(id)?.info().max_entries;
    Ok(Some(MapUse { name: spec.name, version: spec.version, entries, max_entries }))
}

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut text = match &self.agent {
            Agent::Running(status) => running(status),
            Agent::NotRunning => {
                "agent:     not running; the programs in the kernel go on without it\n".to_owned()
            }
            Agent::Unclear { reason } => format!("agent:     gives no status: {reason}\n"),
        };
        let _infallible = writeln!(text, "maps:      policy epoch {}", self.policy_epoch);
        for problem in &self.problems {
            let _infallible = writeln!(text, "problem:   {problem}");
        }
        for sentence in &self.missing {
            let _infallible = writeln!(text, "missing:   {sentence}");
        }
        let mut programs = Table::new(&["PROGRAM", ">VERIFIED", "ATTACHED TO"]);
        for program in &self.programs {
            let verified = program.verified_instructions;
            let verified = verified.map_or_else(|| "?".to_owned(), |count| grouped(count.into()));
            programs.row([program.name.clone(), verified, joined(&program.attached_to)]);
        }
        let mut maps = Table::new(&["MAP", ">ENTRIES", ">MAX", ">USED"]);
        for map in &self.maps {
            let percent = map.entries * 100 / u64::from(map.max_entries.max(1));
            let cells = [grouped(map.entries), grouped(map.max_entries.into()), format!("{percent}%")];
            let [entries, max, used] = cells;
            maps.row([map.name.to_owned(), entries, max, used]);
        }
        format!("{text}\n{}\n{}", programs.text("no programs are attached"), maps.text("no maps"))
    }

    fn exit_code(&self) -> ExitCode {
        if self.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn running(status: &Status) -> String {
    let uptime = spoken(Duration::from_secs(status.uptime_seconds));
    let in_sync = match status.waiting_for.as_slice() {
        [] => "in sync".to_owned(),
        kinds => format!("waiting for {}", kinds.join(", ")),
    };
    let objects = [(status.pods, "pod"), (status.services, "service"), (status.policies, "policy")];
    let objects = objects.map(|(count, noun)| counted(count, noun)).join(", ");
    let [median, p99, largest] = status.programming_us.map(milliseconds);
    let mut text = format!(
        "node:      {}\n\
         agent:     running, version {}, process {}, for {uptime}\n\
         source:    {}, {in_sync}\n\
         services:  translated by {}\n\
         objects:   {objects}, at revision {}\n\
         writes:    {} written and {} deleted since the start\n\
         latency:   change to maps {median} median, {p99} p99, {largest} largest\n",
        status.node_name,
        status.agent_version,
        status.pid,
        status.source,
        if status.services_by.is_empty() { "millrace" } else { &status.services_by },
        status.revision,
        counted(status.map_writes, "map entry"),
        grouped(status.map_deletes),
    );
    for problem in &status.problems {
        let _infallible = writeln!(text, "problem:   {problem}");
    }
    text
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(agent: Agent) -> StatusReport {
        StatusReport {
            agent,
            policy_epoch: 4,
            programs: vec![LoadedProgram {
                name: "from_pod".into(),
                verified_instructions: Some(4_321),
                attached_to: vec!["mra".into(), "mrb".into()],
            }],
            maps: vec![
                MapUse { name: "ENDPOINTS_V4", version: 1, entries: 2, max_entries: 4_096 },
                MapUse { name: "CT_EST_V4", version: 2, entries: 262_144, max_entries: 524_288 },
            ],
            problems: vec![],
            missing: vec![],
        }
    }

    const TABLES: &str = "\
PROGRAM   VERIFIED  ATTACHED TO
from_pod     4,321  mra, mrb

MAP           ENTRIES      MAX  USED
ENDPOINTS_V4        2    4,096    0%
CT_EST_V4     262,144  524,288   50%
";

    #[test]
    fn a_dead_agent_is_said_so_and_the_maps_are_still_shown() {
        let expected = format!(
            "agent:     not running; the programs in the kernel go on without it\n\
             maps:      policy epoch 4\n\n{TABLES}"
        );
        assert_eq!(report(Agent::NotRunning).text(), expected);
    }

    #[test]
    fn a_running_agent_tells_what_it_does() {
        let status = Status {
            node_name: "node-a".into(),
            agent_version: "0.1.0".into(),
            pid: 77,
            uptime_seconds: 192,
            source: "manifests /m".into(),
            services_by: "both".into(),
            waiting_for: vec!["Pod".into()],
            revision: 42,
            map_writes: 1_200,
            map_deletes: 3,
            pods: 12,
            services: 1,
            policies: 2,
            programming_us: [1_250, 3_000, 12_345],
            problems: vec![
                "NetworkPolicy default/x: spec.ingress[0].from[0].ipBlock.cidr: not an address".into(),
            ],
            ..Status::default()
        };
        let expected = format!(
            "node:      node-a\n\
             agent:     running, version 0.1.0, process 77, for 3m 12s\n\
             source:    manifests /m, waiting for Pod\n\
             services:  translated by both\n\
             objects:   12 pods, 1 service, 2 policies, at revision 42\n\
             writes:    1,200 map entries written and 3 deleted since the start\n\
             latency:   change to maps 1.2 ms median, 3.0 ms p99, 12.3 ms largest\n\
             problem:   NetworkPolicy default/x: spec.ingress[0].from[0].ipBlock.cidr: not an address\n\
             maps:      policy epoch 4\n\n{TABLES}"
        );
        assert_eq!(report(Agent::Running(Box::new(status))).text(), expected);
    }

    #[test]
    fn counts_that_the_kernel_hides_come_from_the_agent() {
        let hidden = |name: &str| LoadedProgram { name: name.into(), ..LoadedProgram::default() };
        let mut programs = vec![hidden("from_pod"), hidden("to_pod")];
        let known = Program { name: "to_pod".into(), verified_instructions: 9, attached_to: vec![] };
        complete(&mut programs, &[known]);
        let counts: Vec<_> = programs.iter().map(|program| program.verified_instructions).collect();
        assert_eq!(counts, [None, Some(9)]);
    }

    #[test]
    fn programs_without_pins_come_from_the_agent() {
        let of_sockets = LoadedProgram { name: "connect4".into(), ..LoadedProgram::default() };
        let known = |name: &str, attached_to: &[&str]| Program {
            name: name.into(),
            verified_instructions: 9,
            attached_to: attached_to.iter().map(|place| (*place).into()).collect(),
        };
        let mut programs = vec![of_sockets];
        complete(
            &mut programs,
            &[known("clock", &[]), known("connect4", &["/c"]), known("from_pod", &["mra"])],
        );
        let shown: Vec<_> =
            programs.iter().map(|program| (program.name.as_str(), program.attached_to.join(" "))).collect();
        assert_eq!(shown, [("connect4", String::new()), ("from_pod", "mra".to_owned())]);
    }

    #[test]
    fn the_state_of_the_agent_is_a_word_in_json() {
        let json = serde_json::to_value(report(Agent::NotRunning)).unwrap();
        assert_eq!(json["agent"]["state"], "not-running");
        assert_eq!(json["maps"][1]["entries"], 262_144);
    }
}
