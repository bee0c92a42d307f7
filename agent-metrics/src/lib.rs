//! The metrics of the agent: one row for each, which the agent writes its pages by and `docs/reference/metrics.md` is made of.
//!
//! Labels have values that the code knows, never ones that somebody can make: that bounds the number of series.
mod agent;
mod kube_proxy;

pub use self::{agent::*, kube_proxy::*};

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the agent or the node starts again.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As the exposition formats spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label, and which values it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    /// For people.
    pub values: &'static str,
}

/// A metric: all series of one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// As it is scraped; that of a counter ends in `_total`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [Label],
    /// One sentence.
    pub help: &'static str,
}

/// Declares the metrics of one page, as statics and as a list.
macro_rules! families {
    (
        $(#[doc = $page_doc:literal])+
        $all:ident {
            $($id:ident: $kind:ident $name:literal $({ $($label:ident: $values:literal),+ })?, $help:literal;)+
        }
    ) => {
        $(
            #[doc = $help]
            pub static $id: crate::Family = crate::Family {
                name: $name,
                kind: crate::Kind::$kind,
                labels: &[$($(crate::Label { name: stringify!($label), values: $values }),+)?],
                help: $help,
            };
        )+

        $(#[doc = $page_doc])+
        pub static $all: &[&crate::Family] = &[$(&$id),+];
    };
}
use families;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every() -> impl Iterator<Item = &'static Family> {
        AGENT.iter().chain(KUBE_PROXY).copied()
    }

    #[test]
    fn no_name_is_used_twice() {
        let names: BTreeSet<&str> = every().map(|family| family.name).collect();
        assert_eq!(names.len(), every().count());
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for family in every() {
            let is_part = |part: &str| {
                !part.is_empty()
                    && part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
            };
            assert!(family.name.split('_').all(is_part), "{}", family.name);
            assert!(family.labels.iter().all(|label| label.name.split('_').all(is_part)), "{}", family.name);
            let counts = family.name.ends_with("_total");
            // kube-proxy has a gauge of such a name.
            let is_theirs = *family == SYNC_PROXY_RULES_NO_LOCAL_ENDPOINTS_TOTAL;
            assert_eq!(counts && !is_theirs, family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }
}
