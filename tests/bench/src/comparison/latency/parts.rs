//! Where the time goes: the histograms that the programs export.

use std::collections::BTreeMap;

use oplog_relay_kit::http_status::metrics;

/// The names of the histograms of the producer and the consumer.
const NAMES: [&str; 2] = [
    "oplog_producer_latency_seconds",
    "oplog_consumer_latency_seconds",
];

/// The observations of one part of the way of an entry.
#[derive(Debug, Clone, Default)]
struct Part {
    /// Number of observations up to each bound, in the order of the bounds.
    buckets: Vec<Bucket>,
    sum: f64,
    count: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The upper bound in seconds.
    bound: f64,
    count: f64,
}

/// All parts, by program and name.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<String, Part>);

impl Parts {
    /// Reads the histograms of the producer and the consumer from their HTTP ports.
    pub(super) fn read(ports: [u16; 2]) -> Parts {
        let mut parts = Parts::default();
        for (port, name) in ports.into_iter().zip(NAMES) {
            for line in metrics(port).unwrap_or_default().lines() {
                parts.take(name, line);
            }
        }
        parts
    }

    /// Adds one line of the exposition format, if it belongs to the histogram.
    fn take(&mut self, name: &str, line: &str) {
        let Some((labels, value)) = line
            .strip_prefix(name)
            .and_then(|rest| rest.rsplit_once(' '))
        else {
            return;
        };
        let label = |label: &str| {
            let (_, rest) = labels.split_once(&format!("{label}=\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let (Some(part), Ok(value)) = (label("part"), value.parse::<f64>()) else {
            return;
        };
        let program = name.trim_end_matches("_latency_seconds");
        let part = self.0.entry(format!("{program} {part}")).or_default();
        if labels.starts_with("_sum") {
            part.sum = value;
        } else if labels.starts_with("_count") {
            part.count = value;
        } else if let Some(bound) = label("le") {
            part.buckets.push(Bucket {
                bound: bound.parse().unwrap_or(f64::INFINITY),
                count: value,
            });
        }
    }

    /// Returns what was observed after an earlier read.
    pub(super) fn since(mut self, before: &Parts) -> Parts {
        for (name, part) in &mut self.0 {
            let Some(earlier) = before.0.get(name) else {
                continue;
            };
            part.sum -= earlier.sum;
            part.count -= earlier.count;
            for (bucket, earlier) in part.buckets.iter_mut().zip(&earlier.buckets) {
                bucket.count -= earlier.count;
            }
        }
        self
    }

    /// Formats the parts.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(name, part): (&String, &Part)| {
            let mean = part.sum / part.count * 1000.0;
            format!(
                "  {name:<30} mean {mean:>6.2} ms, p50 within {:>6.2} ms, p99 within {:>6.2} ms",
                part.quantile(0.5) * 1000.0,
                part.quantile(0.99) * 1000.0
            )
        };
        self.0.iter().map(line).collect()
    }
}

impl Part {
    /// Returns the upper bound, in seconds, of the bucket that contains this quantile.
    fn quantile(&self, quantile: f64) -> f64 {
        let reached = |bucket: &&Bucket| bucket.count >= self.count * quantile;
        self.buckets
            .iter()
            .find(reached)
            .map_or(f64::NAN, |bucket| bucket.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_and_compared_with_an_earlier_one() {
        let read = |counts: [u32; 2], sum: f64| {
            let mut parts = Parts::default();
            let [low, all] = counts;
            let name = NAMES[0];
            for line in [
                format!("{name}_bucket{{part=\"queue\",le=\"0.1\"}} {low}"),
                format!("{name}_bucket{{part=\"queue\",le=\"+Inf\"}} {all}"),
                format!("{name}_sum{{part=\"queue\"}} {sum}"),
                format!("{name}_count{{part=\"queue\"}} {all}"),
                "other 5".to_owned(),
            ] {
                parts.take(name, &line);
            }
            parts
        };
        let parts = read([9, 10], 3.0).since(&read([4, 5], 1.0));
        let lines = parts.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("oplog_producer queue"), "{lines:?}");
        assert!(
            lines[0].contains("mean 400.00 ms, p50 within 100.00 ms"),
            "{lines:?}"
        );
    }
}
