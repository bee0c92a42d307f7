//! Tests with real interfaces, real agents and real connections: several nodes on one machine, no cluster.
mod cluster_ip;
mod expect;
mod fabric;
mod pod_to_pod;
mod policy;
mod policy_table;
