//! Random clusters that change: the maps agree with the reference after every change, and in between no flow is
//! judged as neither the state before nor the state after would.
use std::net::IpAddr;

use agent_core::{
    model::{policy::NetworkPolicy, selector::Operator, workload::Pod},
    observed::Observed,
    oracle::{self, Subject},
    plan::{Action, Plan, plan},
    render::render_all,
    state::Changed,
    update::{Change, Update},
};
use dataplane_common::{maps::MapId, net::proto, policy::Direction};
use proptest::prelude::*;

use crate::lab::{
    Lab,
    kernel::Maps,
    objects::{
        a_pod, a_policy, endpoint_of, ingress, ip, local_pod, on, peers, pod, pods_of, policy, require,
        selecting, tcp, twin,
    },
    random::{Event, events, first_lists, pod_addrs},
};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A flow to be judged.
type Probe = (IpAddr, IpAddr, u8, u16);

/// From everywhere to everywhere: pods, a node, the world.
fn probes(ports: &[(u8, u16)]) -> Vec<Probe> {
    let mut addrs = pod_addrs();
    addrs.extend(["192.168.0.1", "8.8.8.8"].map(ip));
    let pairs =
        addrs.iter().flat_map(|from| addrs.iter().map(|to| (*from, *to))).filter(|(from, to)| from != to);
    let families = pairs.flat_map(|(from, to)| [(from, to), (twin(from), twin(to))]);
    families.flat_map(|(from, to)| ports.iter().map(move |(proto, port)| (from, to, *proto, *port))).collect()
}

/// What the reference says that this node must do; `None`: it has no say, or does not restrict.
fn expected(lab: &Lab, direction: Direction, (from, to, proto, port): Probe) -> Option<bool> {
    let judgement = oracle::judge(&lab.state, Subject::Address(from), Subject::Address(to), proto, port);
    let side = if direction == Direction::Ingress { judgement.ingress } else { judgement.egress };
    match side.outcome {
        oracle::Outcome::Allowed(_) if side.is_local => Some(true),
        oracle::Outcome::Denied(_) if side.is_local => Some(false),
        oracle::Outcome::Unknown => Some(false),
        oracle::Outcome::Allowed(_)
        | oracle::Outcome::Denied(_)
        | oracle::Outcome::NoSubject
        | oracle::Outcome::NotIsolated
        | oracle::Outcome::Exempt => None,
    }
}

fn judge(maps: &Maps, direction: Direction, (from, to, proto, port): Probe) -> Option<bool> {
    maps.judge(direction, from, to, proto, port)
}

fn assert_agreement(lab: &Lab) {
    let ports = [
        (proto::TCP, 80),
        (proto::TCP, 81),
        (proto::TCP, 8080),
        (proto::UDP, 80),
        (proto::SCTP, 80),
        (proto::ICMP, 0),
    ];
    for probe in probes(&ports) {
        for direction in DIRECTIONS {
            let (found, expected) = (judge(&lab.maps, direction, probe), expected(lab, direction, probe));
            assert_eq!(found, expected, "{direction:?} {probe:?}");
        }
    }
}

/// Whether nobody vouches any more for an address.
fn loses_its_class(plan: &Plan, addr: IpAddr) -> bool {
    let (map, key) = match addr {
        IpAddr::V4(addr) => (MapId::CLASSES_V4, addr.octets().to_vec()),
        IpAddr::V6(addr) => (MapId::CLASSES_V6, addr.octets().to_vec()),
    };
    plan.steps
        .iter()
        .any(|step| step.map == map && matches!(&step.action, Action::Delete(keys) if keys.contains(&key)))
}

/// Carries out a plan and looks at the maps after every single write.
fn carry_out_watched(lab: &mut Lab, plan: &Plan) {
    let probes = probes(&[(proto::TCP, 80), (proto::UDP, 8080)]);
    let sides = || probes.iter().flat_map(|probe| DIRECTIONS.map(|direction| (direction, *probe)));
    let verdicts = |maps: &Maps| -> Vec<Option<bool>> {
        sides().map(|(direction, probe)| judge(maps, direction, probe)).collect()
    };
    let before = verdicts(&lab.maps);
    let epoch = lab.maps.epoch();
    let mut seen = Vec::new();
    lab.carry_out_watched(plan, |maps| seen.push((verdicts(maps), maps.epoch())));
    let Some((after, last_epoch)) = seen.last().cloned() else { return };
    let allows = |verdict: Option<bool>| verdict != Some(false);
    // A peer that nobody vouches for any more is a stranger from the first moment.
    let departs = |(from, to, ..): Probe| [from, to].into_iter().any(|addr| loses_its_class(plan, addr));
    for (index, (now, _)) in seen.iter().enumerate() {
        for ((number, side), now) in sides().enumerate().zip(now) {
            let (before, after) = (before[number], after[number]);
            let known = [allows(before), allows(after)].contains(&allows(*now));
            assert!(
                known || (!allows(*now) && departs(side.1)),
                "write {index} of {plan:#?}: {side:?} {before:?} -> {now:?} -> {after:?}"
            );
        }
    }
    let revoked = |now: &[Option<bool>], later: &[Option<bool>]| {
        now.iter().zip(later).any(|(now, later)| allows(*now) && !allows(*later))
    };
    assert_eq!(last_epoch % 2, 0, "no revocation is left open");
    if revoked(&before, &after) {
        assert_ne!(epoch, last_epoch, "established flows must be judged again");
        let settled = seen.iter().position(|(_, epoch)| *epoch == last_epoch).expect("the last one has it");
        assert!(!revoked(&seen[settled].0, &after), "the epoch is raised after the last revocation");
    }
}

fn assert_restart_is_silent(lab: &Lab) {
    let mut lab = lab.clone();
    lab.tidy();
    let observed = Observed::from_dump(|map| lab.maps.dump(map));
    assert_eq!(
        plan(&render_all(&lab.state, &lab.config), &observed).steps,
        [],
        "everything is as rendered anew"
    );
    let updates = lab.state.pods().cloned().map(|pod| Update::Pod(Change::Apply(pod)));
    let updates =
        updates.chain(lab.state.policies().cloned().map(|it| Update::NetworkPolicy(Change::Apply(it))));
    let updates =
        updates.chain(lab.state.namespaces().cloned().map(|it| Update::Namespace(Change::Apply(it))));
    let updates = updates.chain(lab.state.endpoints().cloned().map(|it| Update::Endpoint(Change::Apply(it))));
    let departed = lab.state.departed().cloned();
    let (_, plan) = Lab::resuming(lab.maps.clone(), updates.collect::<Vec<_>>(), departed);
    assert_eq!(plan.steps, [], "a new agent finds the maps right");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_maps_agree_with_the_reference_after_and_during_every_change(first in first_lists(), events in events()) {
        let mut lab = Lab::with(first);
        assert_agreement(&lab);
        for event in events {
            let changed = match event {
                Event::Update(update) => lab.state.apply(*update),
                Event::Tidy => lab.state.tidy(),
            };
            let plan = lab.plan(&changed);
            carry_out_watched(&mut lab, &plan);
            lab.rest();
            assert_agreement(&lab);
        }
        assert_restart_is_silent(&lab);
    }

    #[test]
    fn changes_that_are_brought_together_end_where_single_ones_do(first in first_lists(), events in events()) {
        let mut lab = Lab::with(first);
        let mut changed = Changed::default();
        for event in events {
            changed.extend(match event {
                Event::Update(update) => lab.state.apply(*update),
                Event::Tidy => lab.state.tidy(),
            });
        }
        lab.bring(&changed);
        assert_agreement(&lab);
        assert_restart_is_silent(&lab);
    }
}

fn client_and_server() -> (Lab, Probe) {
    let (client, server) =
        (a_pod("x/client", "10.1.0.1", "app=a tier=1"), a_pod("x/server", "10.1.0.2", "app=b"));
    let lab = Lab::with(local_pod(&client).into_iter().chain(local_pod(&server)).chain([from("app=a")]));
    (lab, (ip("10.1.0.1"), ip("10.1.0.2"), proto::TCP, 80))
}

fn from(selector: &str) -> Update {
    let rules = vec![peers(vec![pods_of("x", selecting(selector))])];
    policy(NetworkPolicy { ingress: Some(rules), ..a_policy("x/p", selecting("app=b")) })
}

#[test]
fn a_flow_that_the_old_and_the_new_policy_allow_is_never_denied() {
    let (mut lab, probe) = client_and_server();
    let changed = lab.state.apply(from("tier=1"));
    let plan = lab.plan(&changed);
    let mut writes = 0;
    lab.carry_out_watched(&plan, |maps| {
        writes += 1;
        assert_eq!(judge(maps, Direction::Ingress, probe), Some(true));
    });
    assert!(writes >= 4, "entries, classes, an endpoint, the epoch: {plan:#?}");
    let changed = lab.state.tidy();
    let plan = lab.plan(&changed);
    lab.carry_out_watched(&plan, |maps| assert_eq!(judge(maps, Direction::Ingress, probe), Some(true)));
    assert!(!plan.steps.is_empty(), "tidying drops the old set");
}

#[test]
fn a_peer_that_matches_no_more_raises_the_epoch_though_no_entry_goes() {
    let (mut lab, probe) = client_and_server();
    let second = a_pod("x/second", "10.1.0.3", "app=a tier=1");
    lab.apply(ingress(
        "x/q",
        selecting("app=b"),
        vec![on(peers(vec![pods_of("x", selecting("tier=1"))]), vec![tcp(81)])],
    ));
    lab.apply(pod(a_pod("x/third", "10.1.0.4", "tier=1")));
    lab.apply(pod(second.clone()));
    lab.tidy();
    // Its classes stay in use by the first client and by the third pod.
    let delete = Update::Pod(Change::Delete(crate::lab::objects::name("x/second")));
    let steps = [
        (pod(a_pod("x/second", "10.1.0.3", "tier=1")), true),
        // Another class may match less: nobody looks closer.
        (pod(second.clone()), true),
        (pod(a_pod("x/second", "10.1.0.3", "app=c")), true),
        // A first class can only match more than none.
        (pod(second), false),
        (delete, true),
    ];
    for (update, raises) in steps {
        let before = lab.maps.epoch();
        let plan = lab.apply(update);
        assert!(plan.steps.iter().all(|step| step.map != MapId::POLICIES), "{plan:#?}");
        assert_eq!(lab.maps.epoch() != before, raises, "{plan:#?}");
    }
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), Some(true));
}

#[test]
fn deleting_the_last_policy_lifts_isolation_and_leaves_nothing_behind() {
    let (mut lab, probe) = client_and_server();
    lab.apply(Update::NetworkPolicy(Change::Delete(crate::lab::objects::name("x/p"))));
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), None);
    lab.tidy();
    for map in [MapId::POLICIES, MapId::CLASSES_V4, MapId::CLASSES_V6, MapId::CIDRS_V4] {
        assert_eq!(lab.maps.len(map), 0, "{}", map.spec().name);
    }
}

/// A pod of the same name takes over: its interface opens in the same change that makes a stranger of the other one.
#[test]
fn a_peer_that_departs_does_not_pass_a_policy_that_comes_with_its_departure() {
    let before = a_pod("x/b", "10.1.0.3", "app=a");
    let after = a_pod("x/b", "10.1.0.6", "app=b");
    let [_, early] = local_pod(&after);
    let friend = pod(a_pod("x/friend", "10.1.0.7", "app=a"));
    let isolated = local_pod(&a_pod("x/isolated", "10.1.0.1", "app=b"));
    let first = local_pod(&before).into_iter().chain(isolated).chain([early, friend, from("app=a")]);
    let mut lab = Lab::with(first);
    let probe = (ip("10.1.0.3"), ip("10.1.0.6"), proto::TCP, 80);
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), Some(false), "closed until its pod is known");
    let changed = lab.state.apply(pod(after));
    let plan = lab.plan(&changed);
    let mut writes = 0;
    lab.carry_out_watched(&plan, |maps| {
        writes += 1;
        assert_eq!(judge(maps, Direction::Ingress, probe), Some(false), "write {writes} of {plan:#?}");
    });
    let from_friend = (ip("10.1.0.7"), probe.1, probe.2, probe.3);
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_friend), Some(true), "it is open to its peers");
}

fn translated(lab: &Lab) -> Vec<u8> {
    lab.maps
        .entries(MapId::ENDPOINTS_V4)
        .map(|(_, value)| agent_core::entry::endpoint_value(value).unwrap().translated)
        .collect()
}

#[test]
fn a_replaced_endpoint_never_promises_that_it_was_not_translated() {
    let (mut lab, _) = client_and_server();
    assert_eq!(translated(&lab), [0, 0]);
    lab.apply(Update::NetworkPolicy(Change::Delete(crate::lab::objects::name("x/p"))));
    assert_eq!(translated(&lab), [0, 1]);
    // What the programs set is not a difference.
    lab.tidy();
    let (key, mut value) = lab.maps.dump(MapId::ENDPOINTS_V4)[0].clone();
    value[24] = 1;
    lab.maps.upsert(MapId::ENDPOINTS_V4, &key, &value);
    let observed = Observed::from_dump(|map| lab.maps.dump(map));
    assert_eq!(translated(&lab), [1, 1]);
    assert_eq!(plan(&render_all(&lab.state, &lab.config), &observed).steps, []);
}

#[test]
fn an_endpoint_waits_for_its_pod_and_follows_its_uid() {
    let web = a_pod("x/web", "10.1.0.1", "app=a");
    let [_, endpoint] = local_pod(&web);
    let mut lab = Lab::with([endpoint]);
    let probe = (ip("10.1.0.9"), ip("10.1.0.1"), proto::TCP, 80);
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), Some(false), "fail closed");
    // The pod of that name is still the one before.
    lab.apply(pod(Pod { uid: "older".into(), ..web.clone() }));
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), Some(false));
    lab.apply(pod(web));
    assert_eq!(judge(&lab.maps, Direction::Ingress, probe), None);
    assert_eq!(translated(&lab), [0], "no flow of the pod was translated while it was closed");
}

#[test]
fn the_address_of_an_endpoint_counts_before_the_source_knows_it() {
    let (mut lab, probe) = client_and_server();
    let late = a_pod("x/late", "10.1.0.3", "app=a");
    let [_, endpoint] = local_pod(&late);
    let unaddressed = |uid: &str| pod(Pod { uid: uid.into(), ips: Vec::new(), ..late.clone() });
    lab.apply(endpoint);
    lab.apply(unaddressed("older"));
    let from_late = (ip("10.1.0.3"), probe.1, probe.2, probe.3);
    assert_eq!(
        judge(&lab.maps, Direction::Ingress, from_late),
        Some(false),
        "the interface is another pod's"
    );
    lab.apply(unaddressed(&late.uid));
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_late), Some(true));
}

#[test]
fn a_static_pods_interface_is_its_mirrors() {
    let (mut lab, probe) = client_and_server();
    let mirror = a_pod("x/late", "10.1.0.3", "app=a");
    let [_, endpoint] = local_pod(&Pod { uid: "hash".into(), ..mirror.clone() });
    let mirrored = |uids: &[&str]| {
        let static_uids = uids.iter().map(|&uid| uid.into()).collect();
        pod(Pod { ips: Vec::new(), static_uids, ..mirror.clone() })
    };
    lab.apply(endpoint);
    let from_pod = (ip("10.1.0.3"), probe.1, probe.2, probe.3);
    for (uids, is_its_own) in [(&[][..], false), (&["other"], false), (&["hash"], true), (&["newer"], false)]
    {
        lab.apply(mirrored(uids));
        assert_eq!(judge(&lab.maps, Direction::Ingress, from_pod), Some(is_its_own), "{uids:?}");
        assert_restart_is_silent(&lab);
    }
}

#[test]
fn an_address_in_use_again_belongs_to_the_pod_that_runs() {
    let (mut lab, probe) = client_and_server();
    let job = a_pod("x/a-job", "10.1.0.3", "app=a");
    lab.apply(pod(job.clone()));
    let from_job = (ip("10.1.0.3"), probe.1, probe.2, probe.3);
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_job), Some(true));
    lab.apply(pod(Pod { completed: true, ..job }));
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_job), Some(false));
    lab.apply(pod(a_pod("x/stranger", "10.1.0.3", "app=c")));
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_job), Some(false));
    lab.apply(pod(a_pod("x/friend", "10.1.0.3", "app=a")));
    lab.apply(Update::Pod(Change::Delete(crate::lab::objects::name("x/stranger"))));
    assert_eq!(judge(&lab.maps, Direction::Ingress, from_job), Some(true));
}

#[test]
fn a_set_that_is_used_again_has_the_entries_of_classes_that_appeared_meanwhile() {
    let endpoint = |pod: &Pod| Update::Endpoint(Change::Apply(endpoint_of(pod)));
    let first = a_pod("x/b", "10.1.0.1", "");
    let second = a_pod("x/b", "10.1.0.6", "app=b");
    let holder = a_pod("x/a", "10.1.0.1", "app=a tier=1");
    let mut lab =
        Lab::with([pod(first.clone()), endpoint(&first), endpoint(&second), endpoint(&holder), pod(holder)]);
    // The addresses are another endpoint's as well: the set is not rendered with them.
    lab.apply(endpoint(&a_pod("y/a", "10.1.0.6", "")));
    lab.apply(endpoint(&a_pod("y/a", "10.1.0.1", "")));
    let rules = vec![peers(vec![pods_of("x", selecting("app=b"))])];
    let without_tier = require("tier", Operator::DoesNotExist);
    lab.apply(policy(NetworkPolicy { ingress: Some(rules), ..a_policy("x/p", without_tier) }));
    // The set loses its last pod, and a class appears.
    lab.apply(pod(a_pod("x/b", "10.1.0.1", "app=b tier=2")));
    lab.apply(pod(second));
    assert_restart_is_silent(&lab);
}
