//! The CNI specification's own terms: versions, error codes, results.
mod error;
mod result;
mod version;

pub(crate) use error::{Code, Error};
pub(crate) use result::{AddResult, InterfaceResult, IpResult, RouteResult};
pub(crate) use version::Version;
