//! The cases. Each says what is measured, against what, and which target it has.
mod cni;
mod connections;
pub(crate) mod control;
mod kernel_memory;
mod memory;
mod packets;
mod policy;
mod policy_change;
mod programs;
mod restart;
mod round_trips;
mod throughput;

use anyhow::Result;

use crate::bench::Bench;

/// One case.
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) what: What,
}

/// How a case is measured.
pub(crate) enum What {
    Runs(fn(&mut Bench<'_>) -> Result<()>),
    /// It has its place; the product lacks what it measures.
    Needs(&'static str),
}

/// Every case, in the order of running: first those whose systems stay up for the next ones, last those that need the
/// machine for one system at a time.
pub(crate) const CASES: &[Case] = &[
    Case {
        id: "B1",
        title: "round trips over an established connection",
        what: What::Runs(round_trips::run),
    },
    Case { id: "B2", title: "connect, request, close", what: What::Runs(connections::rate) },
    Case { id: "B6", title: "connect alone", what: What::Runs(connections::connect) },
    Case { id: "B3", title: "the first packet of a flow, one way", what: What::Runs(packets::first_packet) },
    Case {
        id: "B15",
        title: "the first packet at most and fewest services",
        what: What::Runs(packets::flatness),
    },
    Case { id: "B4", title: "packets of established flows, one way", what: What::Runs(packets::established) },
    Case { id: "B18", title: "time of the programs", what: What::Runs(programs::run) },
    Case { id: "B13", title: "memory of the agent", what: What::Runs(memory::run) },
    Case { id: "B19", title: "throughput", what: What::Runs(throughput::run) },
    Case { id: "B17", title: "restarts of the agent under load", what: What::Runs(restart::run) },
    Case { id: "B9", title: "policies, by their number of peers", what: What::Runs(policy::run) },
    Case { id: "B14", title: "CNI ADD", what: What::Runs(cni::run) },
    Case { id: "B10", title: "a policy change until it is enforced", what: What::Runs(policy_change::run) },
    Case { id: "B7", title: "a change of a service until it is obeyed", what: What::Runs(control::change) },
    Case { id: "B8", title: "a start with everything there already", what: What::Runs(control::cold) },
    Case { id: "B12", title: "kernel memory of a service", what: What::Runs(kernel_memory::run) },
    Case { id: "B5", title: "NodePort and load balancer at XDP", what: What::Needs("XDP") },
    Case { id: "B11", title: "between nodes over an overlay", what: What::Needs("the VXLAN overlay") },
    Case { id: "B16", title: "flows that move when a backend leaves", what: What::Needs("Maglev") },
];
