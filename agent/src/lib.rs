//! The node agent: from Kubernetes objects to eBPF maps, and from the CNI socket to attached programs.
mod backoff;
mod cni_bin;
mod cni_conf;
pub mod cni_server;
pub mod config;
pub mod dataplane;
pub mod health;
pub mod ipam;
mod metrics;
pub mod net;
pub mod reconcile;
mod report;
mod run;
pub mod telemetry;
mod uninstall;
mod vitals;

pub use self::run::run;
