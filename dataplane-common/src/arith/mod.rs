//! Pure packet arithmetic, tested on the host and used by the programs.
pub mod csum;
pub mod hash;
pub mod search;
