//! A real cluster: API server, kubelets, containers. One cluster serves all tests of this target that only use it;
//! a test that takes one apart makes its own.
mod alone;
mod bad_input;
mod disruption;
mod families;
mod interrupted;
mod reference;
mod shared;
