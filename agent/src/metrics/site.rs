//! The agent's own port: metrics, and whether it lives and is ready.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{
    health,
    negotiate::Format,
    page::AgentPage,
    server::{Answer, Site},
    writer,
};
use crate::vitals::Vitals;

/// Whoever asks again within this gets the same page: what a page costs, nobody can make the node pay often.
const FRESH: Duration = Duration::from_millis(100);

/// The site.
pub(super) struct AgentSite {
    vitals: Arc<Vitals>,
    page: AgentPage,
    /// The last page of each format, and when it was written.
    written: Mutex<[Option<(Instant, String)>; Format::ALL.len()]>,
}

impl AgentSite {
    pub(super) fn new(vitals: Arc<Vitals>, page: AgentPage) -> Self {
        Self { vitals, page, written: Mutex::default() }
    }

    fn metrics(&self, format: Format) -> Answer {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut written[format as usize];
        let now = Instant::now();
        let body = match last {
            Some((at, page)) if now.duration_since(*at) < FRESH => page.clone(),
            _ => {
                let page = writer::page(&self.page, format);
                self.page.scraped(now.elapsed());
                last.insert((now, page)).1.clone()
            }
        };
        Answer { status: StatusCode::OK, content_type: format.content_type(), body }
    }
}

impl Site for AgentSite {
    fn get(&self, path: &str, format: Format) -> Option<Answer> {
        let age = self.vitals.pulse.last_beat().elapsed();
        match path {
            "/metrics" => Some(self.metrics(format)),
            "/livez" => Some(verdict(health::unlive(age).as_slice())),
            "/readyz" => Some(verdict(&health::unmet(age, self.vitals.pulse.last().as_deref()))),
            _ => None,
        }
    }
}

fn verdict(unmet: &[String]) -> Answer {
    if unmet.is_empty() {
        return Answer::text(StatusCode::OK, "ok");
    }
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, unmet.join("\n") + "\n")
}
