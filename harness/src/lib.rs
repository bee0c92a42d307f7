//! What the test tiers and the demo share: packets, a cluster of network namespaces on one machine, processes
//! that speak from inside it, and polling.
#![expect(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a test library: every function reports what went wrong, and a panic is a failed test"
)]
pub mod cluster;
pub mod eventually;
pub mod kernel;
pub mod kubernetes;
pub mod machine;
pub mod packet;
pub mod policy_table;
pub mod probe;
pub mod program;
pub mod stage;
pub mod topology;
