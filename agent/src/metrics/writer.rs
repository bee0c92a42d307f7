//! Writing a page: families as the table has them, samples as they were read.
use std::{fmt, fmt::Write as _};

use agent_metrics::{Family, Kind};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric as _, NoLabelSet,
        prometheus_text, text,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::Registry,
};

use super::negotiate::Format;

/// Writes the families of one page.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

/// The samples of a family: values of its labels, in their order, and what was measured.
pub(super) type Sample<'a, const N: usize, V> = ([&'a str; N], V);

impl Writer<'_> {
    pub(super) fn counter<'a, const N: usize, V: EncodeCounterValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = Sample<'a, N, V>>,
    ) -> fmt::Result {
        self.family(family, Kind::Counter, samples, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    pub(super) fn gauge<'a, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = Sample<'a, N, V>>,
    ) -> fmt::Result {
        self.family(family, Kind::Gauge, samples, |mut encoder, value| encoder.encode_gauge(&value))
    }

    pub(super) fn histogram<'a, 'h, const N: usize>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = Sample<'a, N, &'h Histogram>>,
    ) -> fmt::Result {
        self.family(family, Kind::Histogram, samples, |encoder, histogram| histogram.encode(encoder))
    }

    /// A family without samples is left out.
    fn family<'a, const N: usize, V>(
        &mut self,
        family: &Family,
        kind: Kind,
        samples: impl IntoIterator<Item = Sample<'a, N, V>>,
        encode: impl Fn(prometheus_client::encoding::MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        debug_assert_eq!((family.kind, family.labels.len()), (kind, N), "{}", family.name);
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let (name, of) = match kind {
            // The encoder puts it behind the name.
            Kind::Counter => (family.name.trim_end_matches("_total"), MetricType::Counter),
            Kind::Gauge => (family.name, MetricType::Gauge),
            Kind::Histogram => (family.name, MetricType::Histogram),
        };
        let mut encoder = self.0.encode_descriptor(name, family.help, None, of)?;
        for (values, value) in samples {
            let labels: Vec<(&str, &str)> =
                family.labels.iter().map(|label| label.name).zip(values).collect();
            encode(encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// A page in a format. What cannot be written is left out of it, and said in a comment.
pub(super) fn page(collector: &(impl Collector + Clone), format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector.clone()));
    let mut page = String::new();
    let written = match format {
        Format::Prometheus => prometheus_text::encode(&mut page, &registry),
        Format::OpenMetrics => text::encode(&mut page, &registry),
    };
    if written.is_err() {
        // Writing to memory does not fail.
        let _impossible = writeln!(page, "# the rest of this page cannot be written");
    }
    page
}
