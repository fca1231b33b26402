//! The bytes that wait for the publisher.

use prometheus::IntGauge;

/// Encoded bytes that wait for the publisher. Dropping this value removes them from the gauge, also when
/// their session has failed.
#[derive(Debug)]
pub struct QueuedBytes {
    gauge: IntGauge,
    bytes: i64,
}

impl QueuedBytes {
    /// Adds the bytes to the gauge.
    pub(super) fn add(gauge: &IntGauge, bytes: usize) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        gauge.add(bytes);
        let gauge = gauge.clone();
        Self { gauge, bytes }
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}
