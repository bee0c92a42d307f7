//! Pieces of the machine that a topology is made of. Each is removed when its value is dropped.
pub mod binaries;
pub mod bpffs;
pub mod cgroup;
pub mod netns;
pub mod process;
pub mod run;
