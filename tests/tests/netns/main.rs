//! Tests with real interfaces, real agents and real connections: several nodes on one machine, no cluster.
mod fabric;
