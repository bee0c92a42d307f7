//! A real cluster: API server, kubelets, containers. One cluster serves all tests of this target that only use it;
//! a test that takes one apart makes its own.
mod bad_input;
mod interrupted;
mod reference;
mod shared;
