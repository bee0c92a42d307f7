//! An agent whose maps have another layout than those of the agent before: nobody notices but the log.
use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bpf_maps::{Map, MillraceDir, Versions};
use dataplane_common::{
    maps::MapId,
    verdict::{Hook, Outcome},
};
use harness::{
    eventually::{PATIENCE, holds},
    kernel,
    stage::Stage,
    topology::{AgentOptions, Node},
};

/// Has the next agent take some maps for those of another version.
fn say_another_version(node: &Node, maps: &[MapId]) -> Result<()> {
    let meta = Map::open(&MillraceDir::new(node.bpffs()).map_path(MapId::META))?;
    for map in maps {
        let name = map.spec().name.as_bytes();
        let entries = Versions::current().to_entries();
        let entry = entries.iter().find(|(key, _)| key.starts_with(name) && key[name.len()] == 0);
        meta.update(&entry.context("META does not name it")?.0, &99_u32.to_ne_bytes())?;
    }
    Ok(())
}

fn with_room_for(flows: u32) -> AgentOptions {
    AgentOptions { arguments: vec!["--max-flows".into(), flows.to_string()], ..AgentOptions::default() }
}

/// The kernel's numbers of the maps, in the order of their names; fails where one is pinned that has had its time.
fn pinned(node: &Node) -> Result<Vec<u32>> {
    let dir = MillraceDir::new(node.bpffs());
    for entry in fs::read_dir(dir.maps_dir())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(!name.contains(':'), "{name} is left");
    }
    MapId::ALL.iter().map(|map| Ok(Map::open(&dir.map_path(*map))?.info().id)).collect()
}

/// How many packets two hooks have passed or delivered.
fn counted(node: &Node) -> Result<u64> {
    let maps = node.maps();
    let counts = [(Hook::FromPod, Outcome::Delivered), (Hook::FromPod, Outcome::Forwarded)];
    counts.iter().map(|(hook, outcome)| maps.outcomes(*hook, *outcome)).sum()
}

const RENDERED: &[MapId] = &[MapId::FRONTENDS_V4, MapId::ENDPOINTS_V6];

#[test]
fn maps_of_another_layout_are_replaced_under_load() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.begin_load()?;
    for (round, (flows, other)) in
        [(65_536, &[][..]), (65_536, RENDERED), (262_144, RENDERED), (4_096, &[][..])]
            .into_iter()
            .cycle()
            .take(8)
            .enumerate()
    {
        let node = stage.topology.node(round % 2);
        let (before, packets) = (pinned(node)?, counted(node)?);
        ensure!(node.stop_agent()?.success(), "{}", node.log());
        say_another_version(node, other)?;
        node.spawn_agent(&with_room_for(flows))?;
        node.await_agent()?;
        holds("the former maps are gone", PATIENCE, || pinned(node).is_ok())?;
        ensure!(counted(node)? >= packets, "round {round}: the counters went back");
        let after = pinned(node)?;
        let replaced = |map: MapId| {
            let place = MapId::ALL.iter().position(|id| *id == map);
            place.is_some_and(|place| before[place] != after[place])
        };
        for map in MapId::ALL {
            let is_rendered = map.keeping().is_none();
            let is_other = matches!(map, MapId::META | MapId::CT_EST_V4 | MapId::CT_EST_V6);
            let is_expected = if is_rendered { !other.is_empty() } else { is_other };
            ensure!(replaced(*map) == is_expected, "round {round}: {map:?}");
        }
        let room = Map::open(&MillraceDir::new(node.bpffs()).map_path(MapId::CT_EST_V6))?;
        assert_eq!(room.info().max_entries, flows, "round {round}");
    }
    let report = stage.end_load()?;
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(report.answered_long_lived > 500 && report.denied > 50, "{report:?}");
    stage.topology.close()
}

#[test]
fn an_agent_that_is_killed_while_it_replaces_maps_loses_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.begin_load()?;
    let node = stage.topology.node(0);
    for kill in 0..24_u64 {
        node.kill_agent()?;
        let flows = if kill % 2 == 0 { 65_536 } else { 131_072 };
        say_another_version(node, RENDERED)?;
        node.spawn_agent(&with_room_for(flows))?;
        // From its first steps to long after its last.
        thread::sleep(Duration::from_millis(100 + kill * 40));
        node.kill_agent()?;
        node.spawn_agent(&with_room_for(flows))?;
        node.await_agent()?;
        holds(format!("kill {kill}: the former maps are gone"), PATIENCE, || pinned(node).is_ok())?;
    }
    let report = stage.end_load()?;
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(report.answered_long_lived > 500 && report.denied > 50, "{report:?}");
    stage.topology.close()
}
