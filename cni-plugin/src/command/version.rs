//! VERSION: what the plugin speaks.
use serde_json::{Value, json};

use crate::spec::Version;

pub(crate) fn version() -> Value {
    json!({
        "cniVersion": Version::LATEST.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}
