//! The contract between the eBPF programs and user space: map keys and values, verdicts, drop reasons and the
//! packet arithmetic both sides need.
//!
//! Rules of the ABI:
//! - every type is declared once, with `abi!`, which proves its size and that it holds no padding;
//! - addresses and ports are in network byte order, and say so in their type;
//! - a number that reaches a map (a drop reason, a hook, a flag) is never reused for another meaning;
//! - a change of a map's layout or meaning raises the version in its row of [`maps`].
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a call that is not inlined costs the eBPF programs a subprogram each"
)]

#[macro_use]
mod abi;
pub mod arith;
pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod fragment;
pub mod maps;
pub mod net;
pub mod policy;
pub mod route;
pub mod service;
pub mod socket;
pub mod verdict;
