//! Tests with real interfaces, real agents and real connections: several nodes on one machine, no cluster.
mod bad_input;
mod beside_kube_proxy;
mod cluster_ip;
mod cni;
mod expect;
mod fabric;
mod firewall;
mod hooks;
mod host_firewall;
mod install;
mod new_pods;
mod pod_to_pod;
mod policy;
mod policy_table;
mod restart;
mod second_interface;
mod spoofing;
