//! A real cluster: API server, kubelets, containers. One cluster serves all tests of this target that only use it;
//! a test that takes one apart makes its own.
mod alone;
mod bad_input;
mod chart;
mod disruption;
mod families;
mod install;
mod interrupted;
mod rbac;
mod reference;
mod shared;
