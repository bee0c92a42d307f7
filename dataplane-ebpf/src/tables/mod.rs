//! The maps of both families by what they are for: one trait for each group. A stage's bound says which of them it may
//! read and write.
mod endpoints;
mod flows;
mod fragments;
mod policies;
mod routes;
mod services;
mod sockets;

pub(crate) use self::{
    endpoints::Endpoints, flows::Flows, fragments::Fragments, policies::Policies, routes::Routes,
    services::Services, sockets::Sockets,
};
