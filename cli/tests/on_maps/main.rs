//! The real command on real pinned maps. Needs root.
mod catalog;
mod listing;
mod node;
mod refusal;
mod why;
