//! Processes that speak from inside a pod: servers that say who they are, clients that say what happened, load.
//!
//! `netprobe` (`harness/src/bin/netprobe.rs`) runs in the pod and obeys commands from its standard input, one line
//! of JSON each ([`wire`]); [`client::Probe`] is the other end, in the test.
pub mod client;
pub mod connect;
pub mod dns;
pub mod frames;
pub mod held;
pub mod load;
pub mod serve;
pub mod watch;
pub mod wire;
pub mod worker;
