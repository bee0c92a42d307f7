//! Pods whose objects are gone while their interfaces are still there.
use agent_core::{
    model::{policy::NetworkPolicy, workload::Pod},
    render::{EndpointStatus, endpoint_status},
    update::{Change, Update},
};
use dataplane_common::{
    maps::MapId,
    net::proto,
    policy::Direction::{Egress, Ingress},
};

use crate::lab::{
    Lab,
    objects::{
        a_pod, a_policy, endpoint_of, ingress, ip, local_pod, name, peers, pod, pods_of, policy, selecting,
        twin,
    },
};

const ADDR: &str = "10.1.0.1";
const PEER: &str = "10.1.0.2";

fn subject() -> Pod {
    a_pod("x/b", ADDR, "app=b")
}

fn peer(labels: &str) -> Pod {
    Pod { uid: "peer".into(), ..a_pod("x/a", PEER, labels) }
}

fn from_friends() -> Update {
    ingress("x/p", selecting("app=b"), vec![peers(vec![pods_of("x", selecting("role=friend"))])])
}

fn delete(pod: &str) -> Update {
    Update::Pod(Change::Delete(name(pod)))
}

fn delete_policy(policy: &str) -> Update {
    Update::NetworkPolicy(Change::Delete(name(policy)))
}

/// What the peer may do with the subject, in both families: ingress of the subject, then egress.
fn verdicts(lab: &Lab) -> (Option<bool>, Option<bool>) {
    let judge = |addr, peer| {
        let into = lab.maps.judge(Ingress, peer, addr, proto::TCP, 80);
        (into, lab.maps.judge(Egress, addr, peer, proto::TCP, 80))
    };
    let v4 = judge(ip(ADDR), ip(PEER));
    assert_eq!(v4, judge(twin(ip(ADDR)), twin(ip(PEER))));
    v4
}

const OPEN: (Option<bool>, Option<bool>) = (None, None);
const ALLOWED: (Option<bool>, Option<bool>) = (Some(true), None);
const DENIED: (Option<bool>, Option<bool>) = (Some(false), None);
const CLOSED: (Option<bool>, Option<bool>) = (Some(false), Some(false));

fn lab() -> Lab {
    let objects = [pod(peer("role=friend")), from_friends()];
    Lab::with(local_pod(&subject()).into_iter().chain(objects))
}

#[test]
fn its_policy_stays_and_follows_what_still_changes() {
    let mut lab = lab();
    assert_eq!(verdicts(&lab), ALLOWED);
    let before = lab.maps.clone();
    lab.apply(delete("x/b"));
    lab.tidy();
    assert_eq!(lab.maps.dump(MapId::ENDPOINTS_V4), before.dump(MapId::ENDPOINTS_V4));
    assert_eq!(verdicts(&lab), ALLOWED);

    // A peer that matches no more is cut, and comes back.
    let epoch = lab.maps.epoch();
    lab.apply(pod(peer("role=stranger")));
    assert_eq!(verdicts(&lab), DENIED);
    assert_ne!(lab.maps.epoch(), epoch, "established flows must be judged again");
    lab.apply(pod(peer("role=friend")));
    assert_eq!(verdicts(&lab), ALLOWED);

    // A policy that selects it by its last labels holds, one for other labels does not.
    let deny = |labels| NetworkPolicy { egress: Some(Vec::new()), ..a_policy("x/q", selecting(labels)) };
    lab.apply(policy(deny("app=other")));
    assert_eq!(verdicts(&lab), ALLOWED);
    lab.apply(policy(deny("app=b")));
    assert_eq!(verdicts(&lab), (Some(true), Some(false)));

    // What isolated it leaves it closed when it goes, as with the namespace.
    lab.apply(delete_policy("x/q"));
    assert_eq!(verdicts(&lab), (Some(true), Some(false)));
    lab.apply(Update::Namespace(Change::Delete("x".into())));
    lab.apply(delete_policy("x/p"));
    lab.tidy();
    assert_eq!(verdicts(&lab), CLOSED);

    // A policy that is there again counts; DEL ends it all.
    lab.apply(from_friends());
    assert_eq!(verdicts(&lab), (Some(true), Some(false)));
    lab.apply(Update::Endpoint(Change::Delete(endpoint_of(&subject()).attachment)));
    lab.tidy();
    assert_eq!(verdicts(&lab), OPEN);
    assert_eq!(lab.state.departed().len(), 0);
}

#[test]
fn without_a_policy_it_stays_as_open_as_it_was_until_one_selects_it() {
    let mut lab = Lab::with(local_pod(&subject()).into_iter().chain([pod(peer(""))]));
    lab.apply(delete("x/b"));
    assert_eq!(verdicts(&lab), OPEN);
    lab.apply(from_friends());
    assert_eq!(verdicts(&lab), DENIED);
    lab.apply(delete_policy("x/p"));
    assert_eq!(verdicts(&lab), DENIED);
    // The object is there again: its policies are what counts.
    lab.apply(pod(subject()));
    assert_eq!(verdicts(&lab), OPEN);
    assert_eq!(lab.state.departed().len(), 0);
}

#[test]
fn another_pod_of_its_name_is_not_it() {
    for uid_is_known in [true, false] {
        let mut lab = lab();
        let mut endpoint = endpoint_of(&subject());
        if !uid_is_known {
            // The runtime did not say which pod of the name it is.
            endpoint.pod_uid = String::new();
            lab.apply(Update::Endpoint(Change::Apply(endpoint.clone())));
        }
        let successor = Pod { uid: "successor".into(), ..a_pod("x/b", "10.1.0.9", "app=other role=friend") };
        lab.apply(pod(successor.clone()));
        assert_eq!(verdicts(&lab), ALLOWED, "the labels of the successor are not its own");
        let [object, interface] = local_pod(&successor);
        lab.apply(object);
        lab.apply(interface);
        assert_eq!(
            endpoint_status(&lab.state, &endpoint_of(&successor).attachment),
            EndpointStatus::Rendered
        );
        assert_eq!(lab.maps.judge(Ingress, ip(PEER), ip("10.1.0.9"), proto::TCP, 80), None);
        // And it is no peer by them.
        let friends =
            ingress("x/a", selecting("role=friend"), vec![peers(vec![pods_of("x", selecting("app=other"))])]);
        lab.apply(Update::Endpoint(Change::Apply(endpoint_of(&peer("")))));
        lab.apply(friends);
        assert_eq!(lab.maps.judge(Ingress, ip("10.1.0.9"), ip(PEER), proto::TCP, 80), Some(true));
        assert_eq!(lab.maps.judge(Ingress, ip(ADDR), ip(PEER), proto::TCP, 80), Some(false));
        lab.apply(Update::Endpoint(Change::Delete(endpoint.attachment.clone())));
        assert_eq!(verdicts(&lab), OPEN);
    }
}

#[test]
fn a_restarted_agent_remembers_it_or_closes_it() {
    let mut lab = lab();
    lab.apply(delete("x/b"));
    let endpoint = || Update::Endpoint(Change::Apply(endpoint_of(&subject())));
    let left = || [endpoint(), pod(peer("role=friend")), from_friends()];

    let departed: Vec<_> = lab.state.departed().cloned().collect();
    let (resumed, plan) = Lab::resuming(lab.maps.clone(), left(), departed.clone());
    assert_eq!(plan.steps, [], "nothing has changed");
    assert_eq!(verdicts(&resumed), ALLOWED);
    // The policy went meanwhile.
    let (mut resumed, plan) = Lab::resuming(lab.maps.clone(), [endpoint(), pod(peer(""))], departed.clone());
    resumed.carry_out(&plan);
    assert_eq!(verdicts(&resumed), DENIED);
    // The object came back meanwhile.
    let objects = left().into_iter().chain([pod(subject())]);
    let (resumed, _) = Lab::resuming(lab.maps.clone(), objects, departed);
    assert_eq!((verdicts(&resumed), resumed.state.departed().len()), (ALLOWED, 0));

    let mut forgetful = Lab::on(lab.maps.clone(), left());
    assert_eq!(verdicts(&forgetful), CLOSED);
    let problems = forgetful.problem_texts();
    assert!(problems.len() == 1 && problems[0].contains("Pod x/b: its object is gone"), "{problems:?}");
    assert!(problems[0].contains("only this node reaches it"), "{problems:?}");
    // It stays closed whatever comes but the pod itself.
    forgetful.apply(pod(Pod { uid: "successor".into(), ..subject() }));
    forgetful.apply(delete_policy("x/p"));
    assert_eq!(verdicts(&forgetful), CLOSED);
    forgetful.apply(pod(subject()));
    assert_eq!(verdicts(&forgetful), OPEN);
    assert_eq!(forgetful.problem_texts(), [""; 0]);
}

#[test]
fn it_is_said_once_for_both_families_until_del_and_not_of_a_pod_that_is_being_added() {
    let mut lab = lab();
    let late = a_pod("x/late", "10.1.0.3", "");
    let [object, interface] = local_pod(&late);
    lab.apply(interface);
    assert_eq!(lab.problem_texts(), [""; 0]);
    assert_eq!(endpoint_status(&lab.state, &endpoint_of(&late).attachment), EndpointStatus::WaitingForPod);
    lab.apply(object);
    lab.apply(delete("x/b"));
    let problems = lab.problem_texts();
    assert!(problems.len() == 1 && problems[0].contains("by its last labels"), "{problems:?}");
    lab.apply(Update::Endpoint(Change::Delete(endpoint_of(&subject()).attachment)));
    assert_eq!(lab.problem_texts(), [""; 0]);
}
