//! The agent's view of the node's network, in network namespaces of the tests' own. Needs root.
mod firewall;
mod namespace;
mod pod_interfaces;
mod routes;
mod sockets;
mod uplink;
