//! A real cluster: API server, kubelets, containers. One cluster serves all tests of this target that only use it;
//! a test that takes one apart makes its own.
mod agent;
mod api_server;
mod bad_input;
mod bad_nodes;
mod interrupted;
mod node;
mod own;
mod proxy_switch;
mod reference;
mod rest;
mod scale;
mod shared;
mod stage;
