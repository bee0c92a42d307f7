//! An agent that remembers nothing starts on maps of an earlier run.
use agent_core::{
    model::Protocol,
    observed::Observed,
    plan::Action,
    table::Table,
    update::{Change, Update},
};
use dataplane_common::maps::MapId;

use crate::lab::{
    Lab,
    objects::{
        a_pod, a_policy, a_service, a_slice, block, container_port, egress, endpoint_of, ingress, local_pod,
        named, namespace, node, on, peers, pod, pods_of, pods_where, ready, selecting, service, slice, tcp,
    },
};

/// A bit of everything.
fn objects() -> Vec<Update> {
    let mut database = a_pod("shop/db", "10.1.0.1", "app=database");
    database.ports.push(container_port("sql", Protocol::Tcp, 5432));
    let web = a_pod("shop/web", "10.1.0.2", "app=web");
    let mut updates = vec![
        namespace("shop", "team=a"),
        namespace("other", ""),
        node("node-1", &["192.168.0.1", "fd01::1"], &["10.1.0.0/24"]),
        node("node-2", &["192.168.0.2", "fd01::2"], &["10.2.0.0/24", "fd00::2:0/112"]),
        service(a_service("shop/db", "10.96.0.1", 5432)),
        slice(a_slice("shop/db-1", "db", 5432, vec![ready("10.1.0.1"), ready("10.2.0.9")])),
        service(a_service("shop/none", "10.96.0.2", 80)),
        pod(a_pod("shop/api", "10.2.0.3", "app=my-api")),
        pod(a_pod("other/api", "10.2.0.4", "app=my-api")),
        ingress(
            "shop/db",
            selecting("app=database"),
            vec![
                on(peers(vec![pods_of("shop", selecting("app=my-api"))]), vec![named("sql")]),
                peers(vec![block("10.0.0.0/8", &["10.2.0.0/16"])]),
            ],
        ),
        egress(
            "shop/web",
            selecting("app=web"),
            vec![on(
                peers(vec![pods_where(selecting("team=a"), selecting(""))]),
                vec![named("sql"), tcp(53)],
            )],
        ),
    ];
    updates.extend(local_pod(&database));
    updates.extend(local_pod(&web));
    updates
}

#[test]
fn maps_that_are_right_are_not_written() {
    let lab = Lab::with(objects());
    assert!(lab.maps.len(MapId::POLICIES) > 0 && lab.maps.len(MapId::BACKENDS_V4) > 0);
    let (_, plan) = Lab::starting_on(lab.maps, objects());
    assert_eq!(plan.steps, []);
}

#[test]
fn the_order_of_the_first_lists_does_not_matter() {
    let lab = Lab::with(objects());
    let (_, plan) = Lab::starting_on(lab.maps, objects().into_iter().rev());
    assert_eq!(plan.steps, []);
}

#[test]
fn maps_that_were_brought_here_step_by_step_are_right_too() {
    let mut lab = Lab::with([]);
    for update in objects() {
        lab.apply(update);
    }
    // A detour that leaves nothing behind.
    lab.apply(ingress(
        "shop/db",
        selecting("app=database"),
        vec![peers(vec![pods_of("other", selecting(""))])],
    ));
    for update in objects() {
        lab.apply(update);
    }
    lab.tidy();
    let (_, plan) = Lab::starting_on(lab.maps, objects());
    assert_eq!(plan.steps, []);
}

#[test]
fn what_the_state_does_not_know_is_pruned_only_when_in_sync() {
    let lab = Lab::with(objects());
    let (lab, plan) = Lab::starting_on(lab.maps, []);
    assert!(
        plan.steps
            .iter()
            .all(|step| matches!(step.action, Action::Delete(_)) || step.map == MapId::POLICY_EPOCH)
    );
    let mut lab = lab;
    lab.carry_out(&plan);
    let left: usize = Table::every_map().map(|map| lab.maps.len(map)).sum();
    assert_eq!(left, lab.maps.len(MapId::BACKENDS_V4) + lab.maps.len(MapId::BACKENDS_V6));
}

#[test]
fn nothing_is_rendered_before_every_kind_is_in_sync() {
    let mut state = agent_core::state::ClusterState::default();
    for update in objects() {
        assert!(state.apply(update).is_empty());
    }
    for kind in agent_core::update::Kind::ALL.into_iter().skip(1) {
        assert!(state.apply(Update::Synced(kind)).is_empty());
    }
    let config = agent_core::render::NodeConfig::default();
    assert_eq!(agent_core::render::render_all(&state, &config), agent_core::render::Desired::default());
    assert_eq!(state.waiting_for().collect::<Vec<_>>(), [agent_core::update::Kind::Service]);
    assert!(state.apply(Update::Synced(agent_core::update::Kind::Service)).everything);
}

#[test]
fn an_update_that_changes_nothing_makes_nothing_dirty() {
    let mut lab = Lab::with(objects());
    let revision = lab.state.revision();
    for update in objects() {
        assert!(lab.state.apply(update).is_empty());
    }
    assert_eq!(lab.state.revision(), revision);
}

#[test]
fn an_entry_that_makes_no_sense_is_pruned() {
    let mut lab = Lab::with(objects());
    let key = [&200_u32.to_ne_bytes()[..], &[10, 0, 0, 0]].concat();
    lab.maps.upsert(MapId::CIDRS_V4, &key, &7_u32.to_ne_bytes());
    let (mut lab, plan) = Lab::starting_on(lab.maps, objects());
    assert_eq!(plan.deletes(), 1);
    lab.carry_out(&plan);
    let (_, plan) = Lab::starting_on(lab.maps, objects());
    assert_eq!(plan.steps, []);
}

#[test]
fn frontends_that_share_slots_get_their_own() {
    let mut lab = Lab::with(objects());
    lab.apply(service(a_service("shop/twin", "10.96.0.7", 80)));
    lab.apply(slice(a_slice("shop/twin-1", "twin", 8080, vec![ready("10.2.0.9")])));
    // The twin's frontend is made to point into the range of the database.
    let frontend = lab.maps.dump(MapId::FRONTENDS_V4);
    let of = |port: u16| {
        let found =
            |key: &[u8]| agent_core::entry::Frontend::from_bytes(key).is_some_and(|key| key.port == port);
        frontend.iter().find(|(key, value)| found(key) && value[8] > 0).cloned().unwrap()
    };
    let ((twin, mut value), (_, database)) = (of(80), of(5432));
    value[4..8].copy_from_slice(&database[4..8]);
    lab.maps.upsert(MapId::FRONTENDS_V4, &twin, &value);
    let everything = objects().into_iter().chain([
        service(a_service("shop/twin", "10.96.0.7", 80)),
        slice(a_slice("shop/twin-1", "twin", 8080, vec![ready("10.2.0.9")])),
    ]);
    let lab = Lab::on(lab.maps, everything.clone());
    for (addr, port) in [("10.96.0.7", 80), ("10.96.0.1", 5432)] {
        let addr = crate::lab::objects::ip(addr);
        let expected = agent_core::oracle::resolve(&lab.state, crate::lab::NODE, addr, port, 6);
        assert_eq!(lab.maps.choice(addr, port, 6), expected);
    }
    let (_, plan) = Lab::starting_on(lab.maps, everything);
    assert_eq!(plan.steps, []);
}

#[test]
fn an_interrupted_revocation_is_finished() {
    let mut lab = Lab::with(objects());
    let changed = lab.state.apply(policy_that_denies());
    let mut plan = lab.plan(&changed);
    let last_epoch = plan.steps.iter().rposition(|step| step.map == MapId::POLICY_EPOCH).unwrap();
    plan.steps.truncate(last_epoch);
    lab.carry_out(&plan);
    assert_eq!(
        lab.maps.epoch() % 2,
        1,
        "the agent died before it said that established flows are to be judged"
    );
    let before = lab.maps.epoch();
    let lab = Lab::on(lab.maps, objects().into_iter().chain([policy_that_denies()]));
    assert_eq!(lab.maps.epoch(), before + 1);
}

fn policy_that_denies() -> Update {
    let policy = a_policy("shop/deny", selecting(""));
    crate::lab::objects::policy(agent_core::model::policy::NetworkPolicy {
        egress: Some(Vec::new()),
        ..policy
    })
}

#[test]
fn an_endpoint_counts_as_programmed_only_with_its_present_interface() {
    let web = a_pod("shop/web", "10.1.0.2", "app=web");
    let mut lab = Lab::with(local_pod(&web));
    let mut endpoint = endpoint_of(&web);
    assert!(lab.observed.has_endpoint(&endpoint));
    endpoint.host_ifindex += 1;
    assert!(!lab.observed.has_endpoint(&endpoint));
    lab.apply(Update::Endpoint(Change::Apply(endpoint.clone())));
    assert!(lab.observed.has_endpoint(&endpoint));
    assert!(Observed::from_dump(|map| lab.maps.dump(map)).has_endpoint(&endpoint));
}
