//! Errors as CNI wants them: a code for the runtime, a message and details for people.
use serde_json::{Value, json};

use super::Version;

/// What the runtime can do about an error. Below 100: the specification's own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    /// The message names the variable.
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    /// The message names the field.
    InvalidConfig = 7,
    TryAgain = 11,
    /// STATUS: the plugin cannot serve ADD.
    NotReady = 50,
    /// The kernel refused a change to the network.
    Network = 100,
    /// The agent failed, or speaks another version.
    Agent = 101,
    /// CHECK: the interface is not as ADD left it.
    CheckFailed = 102,
}

/// An error of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: Code,
    /// Names the object and says what to do.
    pub(crate) message: String,
    /// The causes.
    pub(crate) details: String,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds the cause, and the causes of the cause, to the details.
    pub(crate) fn because(mut self, cause: &dyn std::error::Error) -> Self {
        let mut cause = Some(cause);
        while let Some(error) = cause {
            self = self.and(&error.to_string());
            cause = error.source();
        }
        self
    }

    /// Adds a sentence to the details.
    pub(crate) fn and(mut self, detail: &str) -> Self {
        if !self.details.is_empty() {
            self.details.push_str(": ");
        }
        self.details.push_str(detail);
        self
    }

    pub(crate) fn to_json(&self, version: Version) -> Value {
        json!({
            "cniVersion": version.as_str(),
            "code": self.code as u32,
            "msg": self.message,
            "details": self.details,
        })
    }
}
