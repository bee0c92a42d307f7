//! A real cluster: API server, kubelets, containers. One cluster serves all tests of this target that only use it;
//! a test that takes one apart makes its own.
mod alone;
mod bad_input;
mod chart;
mod disruption;
mod families;
mod first_packet;
mod ground;
mod install;
mod interrupted;
mod latency;
mod policy;
mod probes;
mod rbac;
mod reference;
mod rolling;
mod services;
mod shared;
