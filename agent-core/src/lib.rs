//! The control plane's decisions, without a single effect: Kubernetes-shaped objects in, map entries out.
//!
//! `Update` → [`state::ClusterState`] → [`render`] → [`plan`]. The same policy and service logic is the map
//! compiler, the test oracle ([`oracle`]) and the explainer behind `millrace why`.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod dump;
pub mod entry;
pub mod explain;
pub mod ids;
pub mod model;
pub mod observed;
pub mod oracle;
pub mod plan;
pub mod problem;
pub mod render;
pub mod state;
pub mod table;
pub mod text;
pub mod update;
