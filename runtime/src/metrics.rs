//! Metrics that every program has, and the registration of others.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, exponential_buckets,
};

/// Registers a metric and returns it, so that a struct of metrics can be built in one expression.
///
/// # Errors
/// An error if a metric with this name and these labels is registered already.
pub fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Registers `<prefix>_build_info`, the constant 1 with the versions of the program and of
/// librdkafka as labels.
///
/// # Errors
/// An error if the metric is registered already, or the prefix is not valid in a metric name.
pub fn register_build_info(
    registry: &Registry,
    prefix: &str,
    version: &str,
) -> prometheus::Result<()> {
    let opts = Opts::new(
        format!("{prefix}_build_info"),
        "Always 1. The labels version and librdkafka have the versions of the program and of \
         librdkafka.",
    );
    let gauge = registered(
        registry,
        IntGaugeVec::new(opts, &["version", "librdkafka"])?,
    )?;
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    gauge.with_label_values(&[version, &librdkafka]).set(1);
    Ok(())
}

/// The upper bound of the first bucket, in seconds. Each further bound is [`BUCKET_FACTOR`] times
/// the bound before it.
const FIRST_BUCKET: f64 = 0.000_2;
const BUCKET_FACTOR: f64 = 1.5;
const BUCKETS: usize = 28;

/// One histogram for each part of an entry's path through a program, with the label `part`.
#[derive(Debug)]
pub struct PartHistograms(HistogramVec);

impl PartHistograms {
    /// Registers the histograms.
    ///
    /// # Errors
    /// An error if the metric is registered already, or its name is not valid.
    pub fn register(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Self> {
        let options = HistogramOpts::new(name, help);
        let buckets = exponential_buckets(FIRST_BUCKET, BUCKET_FACTOR, BUCKETS)?;
        let histograms = HistogramVec::new(options.buckets(buckets), &["part"])?;
        registered(registry, histograms).map(Self)
    }

    /// Returns the histogram of a part.
    #[must_use]
    pub fn part(&self, name: &str) -> Histogram {
        self.0.with_label_values(&[name])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    #[test]
    fn build_info_names_both_versions_and_is_there_once() {
        let registry = Registry::new();
        register_build_info(&registry, "oplog_producer", "1.2.3").unwrap();
        let text = TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        assert!(text.contains("oplog_producer_build_info{librdkafka=\""));
        assert!(text.contains("version=\"1.2.3\"} 1"));
        assert!(register_build_info(&registry, "oplog_producer", "1.2.3").is_err());
    }
}
