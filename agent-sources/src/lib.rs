//! Where cluster objects come from: the Kubernetes API ([`watch`]) or a directory of manifests ([`manifests`]),
//! behind one interface ([`source`]). Both share the parsing ([`convert`]) and the memory of what was sent
//! ([`ledger`]). The only module that imports `kube`.
pub mod convert;
pub mod ledger;
pub mod manifests;
pub mod open_problems;
pub mod pulse;
pub mod source;
pub mod watch;
