//! The two text formats of metrics, and who wants which.
use http::{HeaderMap, header::ACCEPT};

/// A format of a page of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// What everybody reads: Prometheus' own, version 0.0.4.
    Prometheus,
    /// `OpenMetrics` 1.0.
    OpenMetrics,
}

impl Format {
    pub(super) const ALL: [Self; 2] = [Self::Prometheus, Self::OpenMetrics];

    /// What a client can read. Prometheus asks for `OpenMetrics`.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let wants = |value: &http::HeaderValue| {
            value.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        };
        if headers.get_all(ACCEPT).iter().any(wants) { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}
