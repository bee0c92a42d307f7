//! The plugin as a runtime calls it: the real binary, real network namespaces, and a fake agent behind the socket
//! that hands out fixed addresses and programs nothing. Needs root.
mod add;
mod agent_away;
mod bad_input;
mod check_gc_status;
mod del;
mod fake_agent;
mod node;
