//! The control plane as a whole: objects in, map bytes out, judged by a small model of the programs.
mod capacity;
mod departed;
mod golden;
mod lab;
mod names;
mod netns;
mod oracle;
mod restart;
mod routes;
mod scale;
mod selectors;
mod services;
mod transitions;
