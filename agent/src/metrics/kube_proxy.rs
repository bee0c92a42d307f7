//! kube-proxy's ports: its health, as load balancers and the cluster's tests ask for it, and its metrics.
use std::{collections::BTreeMap, fmt, iter::once, sync::Arc, time::SystemTime};

use agent_metrics as table;
use http::StatusCode;
use jiff::Timestamp;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use serde::Serialize;

use super::{
    negotiate::Format,
    process::unix,
    server::{Answer, Site},
    writer::{self, Writer},
};
use crate::vitals::{FAMILIES, Moment, ProxyReport, Vitals};

/// The zero of Go's time, which stands for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Names of the families, in the order of their numbers.
const NAMES: [&str; 2] = ["IPv4", "IPv6"];

/// Who translates services, where kube-proxy tells its mode.
const MODE: &str = "millrace";

/// The health port.
pub(super) struct ProxyHealth(Arc<Vitals>);

impl ProxyHealth {
    pub(super) const fn new(vitals: Arc<Vitals>) -> Self {
        Self(vitals)
    }
}

impl Site for ProxyHealth {
    fn get(&self, path: &str, _: Format) -> Option<Answer> {
        let is_livez = match path {
            "/healthz" => false,
            "/livez" => true,
            _ => return None,
        };
        let now = Moment::now();
        let report = self.0.proxy.report(now, self.0.pulse.last_beat());
        let is_eligible = self.0.pulse.last().is_some_and(|last| last.is_eligible);
        let answer = health(&report, (!is_livez).then_some(is_eligible), now.wall);
        self.0.proxy.answered(is_livez, answer.status == StatusCode::OK);
        Some(answer)
    }
}

/// kube-proxy's answer, field by field in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

/// The answer of `/healthz`, or without eligibility, which is none of its business, that of `/livez`.
fn health(report: &ProxyReport, is_eligible: Option<bool>, now: SystemTime) -> Answer {
    let is_well = report.is_healthy && is_eligible.unwrap_or(true);
    let status = report.families.iter().map(|(family, of)| {
        let body = FamilyBody { last_updated: written(of.updated), healthy: of.is_healthy };
        (NAMES[*family as usize], body)
    });
    let body = Body {
        // While all is well: now, as releases of kube-proxy did that ran all the time.
        last_updated: if is_well {
            written(now)
        } else {
            report.updated.map_or_else(|| NEVER.to_owned(), written)
        },
        current_time: written(now),
        node_eligible: is_eligible,
        healthy: report.is_healthy,
        status: status.collect(),
    };
    Answer {
        status: if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        content_type: "application/json",
        body: serde_json::to_string(&body).unwrap_or_default(),
    }
}

/// A time as Go writes it in JSON.
fn written(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

/// The port of its metrics.
pub(super) struct ProxyMetrics(ProxyPage);

impl ProxyMetrics {
    pub(super) const fn new(vitals: Arc<Vitals>) -> Self {
        Self(ProxyPage(vitals))
    }
}

impl Site for ProxyMetrics {
    fn get(&self, path: &str, format: Format) -> Option<Answer> {
        match path {
            "/metrics" => Some(Answer {
                status: StatusCode::OK,
                content_type: format.content_type(),
                body: writer::page(&self.0, format),
            }),
            "/proxyMode" => Some(Answer::text(StatusCode::OK, MODE)),
            "/healthz" => Some(Answer::text(StatusCode::OK, "ok")),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct ProxyPage(Arc<Vitals>);

impl Collector for ProxyPage {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Writer(encoder);
        let proxy = &self.0.proxy;
        let labels = || NAMES.map(|name| [name]).into_iter();
        to.histogram(&table::SYNC_PROXY_RULES_DURATION, labels().zip(&proxy.sync))?;
        let times = proxy.times();
        let known = |which: usize| {
            labels().zip(times).filter_map(move |(label, times)| Some((label, unix(times[which]?))))
        };
        to.gauge(&table::SYNC_PROXY_RULES_LAST, known(0))?;
        to.gauge(&table::SYNC_PROXY_RULES_LAST_QUEUED, known(1))?;
        let [services, slices] = proxy.changes();
        to.counter(&table::ENDPOINT_CHANGES, once(([], slices.0)))?;
        to.gauge(&table::ENDPOINT_CHANGES_PENDING, once(([], slices.1)))?;
        to.counter(&table::SERVICE_CHANGES, once(([], services.0)))?;
        to.gauge(&table::SERVICE_CHANGES_PENDING, once(([], services.1)))?;
        to.histogram(&table::NETWORK_PROGRAMMING, labels().zip(&proxy.network_programming))?;
        let last = self.0.pulse.last().unwrap_or_default();
        let without_local = FAMILIES.map(|family| {
            ([NAMES[family as usize], "internal"], last.frontends_without_local[family as usize])
        });
        to.gauge(&table::SYNC_PROXY_RULES_NO_LOCAL_ENDPOINTS_TOTAL, without_local)?;
        to.counter(&table::PROXY_HEALTHZ, proxy.answers(false))?;
        to.counter(&table::PROXY_LIVEZ, proxy.answers(true))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2026-01-02T03:04:05.25Z
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_250)
    }

    fn vitals(is_eligible: bool) -> Arc<Vitals> {
        let vitals = Vitals::default();
        vitals.pulse.publish(crate::vitals::Snapshot { is_eligible, ..Default::default() });
        Arc::new(vitals)
    }

    #[test]
    fn the_answers_are_kube_proxys_byte_for_byte() {
        let vitals = vitals(true);
        let earlier = Moment { steady: std::time::Instant::now(), wall: now() - Duration::from_secs(7) };
        let report = || vitals.proxy.report(earlier, earlier.steady);
        let answer = health(&report(), Some(true), now());
        assert_eq!((answer.status, answer.content_type), (StatusCode::OK, "application/json"));
        assert_eq!(
            answer.body,
            "{\"lastUpdated\":\"2026-01-02T03:04:05.25Z\",\"currentTime\":\"2026-01-02T03:04:05.25Z\",\
             \"nodeEligible\":true,\"healthy\":true}"
        );
        vitals.proxy.updated(earlier);
        let answer = health(&report(), Some(false), now());
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            answer.body,
            "{\"lastUpdated\":\"2026-01-02T03:03:58.25Z\",\"currentTime\":\"2026-01-02T03:04:05.25Z\",\
             \"nodeEligible\":false,\"healthy\":true,\"status\":{\
             \"IPv4\":{\"lastUpdated\":\"2026-01-02T03:03:58.25Z\",\"healthy\":true},\
             \"IPv6\":{\"lastUpdated\":\"2026-01-02T03:03:58.25Z\",\"healthy\":true}}}"
        );
        let answer = health(&report(), None, now());
        assert_eq!(answer.status, StatusCode::OK, "livez has nothing to do with the node");
        assert!(!answer.body.contains("nodeEligible"), "{}", answer.body);
        vitals.proxy.queued(1, 0, earlier);
        let later = Moment { steady: earlier.steady + Duration::from_mins(1), wall: now() };
        let answer = health(&vitals.proxy.report(later, later.steady), None, now());
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.contains("\"healthy\":false,\"status\""), "{}", answer.body);
    }

    #[test]
    fn a_node_that_leaves_or_is_not_known_is_not_eligible() {
        let get = |vitals: &Arc<Vitals>, path| {
            ProxyHealth::new(Arc::clone(vitals))
                .get(path, Format::Prometheus)
                .map(|answer| answer.status.as_u16())
        };
        let (stays, leaves, starts) = (vitals(true), vitals(false), Arc::new(Vitals::default()));
        assert_eq!(
            [&stays, &leaves, &starts].map(|vitals| get(vitals, "/healthz")),
            [Some(200), Some(503), Some(503)]
        );
        assert_eq!([&stays, &leaves, &starts].map(|vitals| get(vitals, "/livez")), [Some(200); 3]);
        assert_eq!(get(&stays, "/"), None);
        assert_eq!(leaves.proxy.answers(false).map(|(_, count)| count).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(leaves.proxy.answers(true).map(|(_, count)| count).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn the_mode_is_told_and_the_page_is_kube_proxys() {
        let site = ProxyMetrics::new(vitals(true));
        let get = |path| site.get(path, Format::Prometheus).map(|answer| answer.body);
        assert_eq!(get("/proxyMode").as_deref(), Some("millrace"));
        assert_eq!(get("/healthz").as_deref(), Some("ok"));
        let page = get("/metrics").unwrap();
        for family in table::KUBE_PROXY {
            let never = family.name.ends_with("_timestamp_seconds");
            assert_eq!(page.contains(&format!("# TYPE {} ", family.name)), !never, "{}\n{page}", family.name);
        }
    }
}
