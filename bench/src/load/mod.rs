//! Load: a client and a server process per pod, both of this binary, that do as they are told on standard input.
pub(crate) mod client;
pub(crate) mod driver;
pub(crate) mod server;
pub(crate) mod wire;
