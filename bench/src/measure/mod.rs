//! What is read off the machine, and what is made of it.
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod statistics;
