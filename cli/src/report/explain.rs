//! `millrace explain`.
use anyhow::{Result, anyhow};
use dataplane_common::verdict::DropReason;
use serde::Serialize;

use super::Report;

#[derive(Debug, Serialize)]
struct Explained {
    reason: &'static str,
    cause: &'static str,
    remedy: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Explanation(Vec<Explained>);

impl Explanation {
    /// Explains one reason, or all of them.
    pub(crate) fn of(reason: Option<&str>) -> Result<Self> {
        let wanted = |candidate: &&DropReason| reason.is_none_or(|reason| candidate.name() == reason);
        let explained: Vec<Explained> = DropReason::ALL
            .iter()
            .filter(wanted)
            .map(|reason| Explained { reason: reason.name(), cause: reason.cause(), remedy: reason.remedy() })
            .collect();
        match (explained.as_slice(), reason) {
            ([], Some(reason)) => {
                Err(anyhow!("there is no drop reason {reason:?}; `millrace explain` lists them all"))
            }
            _ => Ok(Self(explained)),
        }
    }
}

impl Report for Explanation {
    fn text(&self) -> String {
        let entry = |e: &Explained| format!("{}\n  {}\n  {}\n", e.reason, e.cause, e.remedy);
        self.0.iter().map(entry).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_explained_with_its_remedy() {
        let text = Explanation::of(Some("spoofed-mac")).unwrap().text();
        assert_eq!(
            text,
            "spoofed-mac\n  A pod sent from a link-layer address that is not its own.\n  \
             Do not change the MAC address of the pod's interface.\n"
        );
    }

    #[test]
    fn without_a_name_every_reason_is_explained() {
        assert_eq!(Explanation::of(None).unwrap().0.len(), DropReason::ALL.len());
    }

    #[test]
    fn an_unknown_reason_is_an_error_that_says_where_to_look() {
        let error = Explanation::of(Some("gremlins")).unwrap_err().to_string();
        assert_eq!(error, "there is no drop reason \"gremlins\"; `millrace explain` lists them all");
    }
}
