//! Judges a new flow by the policy sets of the local pods at its ends. How the maps are built stands in
//! `dataplane_common::policy`.
use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::{
    policy::{CLASS_ANY, PolicyKey, SET_DENY_ALL},
    verdict::DropReason,
};

use crate::{
    flow::{Allowed, Scratch, Tuple},
    global::global,
    maps::{POLICIES, POLICY_EPOCH},
    tables::Policies,
};

/// The current policy epoch.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    POLICY_EPOCH.get(0).copied().unwrap_or(0)
}

/// Judges the flow `scratch.judged`: its original tuple, after service translation.
#[inline(always)]
pub(crate) fn judge<F: Policies>(
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    ingress_set: u32,
) -> Result<Allowed, DropReason> {
    // Before the rules: a change that comes in between raises it.
    scratch.epoch = epoch();
    let rules = rules_of::<F>(scratch, egress_set, ingress_set);
    let (egress_rule, ingress_rule) = halves(rules);
    if egress_rule == DENIED {
        scratch.denied_by = egress_set;
        return Err(DropReason::PolicyEgress);
    }
    if ingress_rule == DENIED {
        scratch.denied_by = ingress_set;
        return Err(DropReason::PolicyIngress);
    }
    Ok(Allowed { egress_rule, ingress_rule })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
const fn halves(rules: u64) -> (u32, u32) {
    (rules as u32, (rules >> 32) as u32)
}

/// In place of a rule: none allows.
const DENIED: u32 = u32::MAX;

global! {
    /// See [`allowing_rules`].
    fn rules_of(egress_set, ingress_set) -> u64 = allowing_rules, judge_v4, judge_v6
}

/// The rules that allow `scratch.judged`, egress in the lower half; [`DENIED`] where none does.
#[inline(always)]
fn allowing_rules<F: Policies>(scratch: &mut Scratch<F::Addr>, egress_set: u32, ingress_set: u32) -> u64 {
    let tuple = &scratch.judged;
    if tuple.source == tuple.destination {
        // A pod reaches itself, through a service too: the concept page exempts it.
        return 0;
    }
    let Some(egress_rule) = allowing_rule::<F>(egress_set, &tuple.destination, tuple) else {
        return u64::from(DENIED);
    };
    let ingress_rule = allowing_rule::<F>(ingress_set, &tuple.source, tuple).unwrap_or(DENIED);
    u64::from(egress_rule) | u64::from(ingress_rule) << 32
}

#[inline(always)]
fn allowing_rule<F: Policies>(set: u32, peer: &F::Addr, tuple: &Tuple<F::Addr>) -> Option<u32> {
    match set {
        0 => return Some(0),
        SET_DENY_ALL => return None,
        _ => {}
    }
    if let Some(rule) = rule(set, CLASS_ANY, tuple) {
        return Some(rule);
    }
    if let Some(rule) = F::pod_class(peer).and_then(|class| rule(set, class, tuple)) {
        return Some(rule);
    }
    F::cidr_class(peer).and_then(|class| rule(set, class, tuple))
}

/// The rule for one class. Every entry allows: deny rules need the value's verdict, and there are none yet.
#[inline(always)]
fn rule<A>(set: u32, class: u32, tuple: &Tuple<A>) -> Option<u32> {
    let key = PolicyKey::new(set, class, tuple.proto, tuple.destination_port);
    POLICIES.get(&Key::new(PolicyKey::FULL_BITS, key)).map(|value| value.rule)
}
