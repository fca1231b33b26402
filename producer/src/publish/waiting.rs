//! Waits for deliveries: while too many bytes are in flight, and before a commit.

use std::time::{Duration, Instant};

use super::{Publisher, REQUEST_TIMEOUT};
use crate::error::ProducerError;

/// Pause between two checks of outstanding deliveries.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);
/// The same during the first [`SOON`] of a wait.
const SHORT_PAUSE: Duration = Duration::from_micros(200);
/// Time in which the records of a small transaction are delivered.
const SOON: Duration = Duration::from_millis(10);
/// Bounds of the limit of bytes that are sent but not delivered: enough to keep broker and client
/// busy, few enough that a commit does not wait long and that records are still in the processor's
/// cache when they are compressed. The client's own limit is not sufficient: it has to admit one
/// record of the largest size, and does not include its bookkeeping for each record.
const OUTSTANDING_BYTES: std::ops::RangeInclusive<u64> = 8 << 20..=48 << 20;
/// That limit per partition, in bytes: a request contains the records of one partition, and five
/// requests are in flight.
const OUTSTANDING_EACH: u64 = 256 << 10;

impl Publisher {
    /// Checks deliveries, and waits while too many bytes are outstanding.
    pub(crate) fn hold_back(&mut self) -> Result<(), ProducerError> {
        (self.unpolled, self.unpolled_bytes) = (0, 0);
        self.poll(Duration::ZERO)?;
        let each = self.sent.each();
        let most = self.allowed_in_flight();
        let begun = Instant::now();
        let mut least = i32::MAX;
        loop {
            let waiting = self.in_flight();
            if u64::try_from(waiting).unwrap_or_default() * each <= most {
                break;
            }
            if waiting < least {
                least = waiting;
                self.health.beat();
            }
            if begun.elapsed() > self.transaction_timeout {
                return Err(ProducerError::kafka(
                    "sending",
                    "too many records were still undelivered after the transaction timeout",
                ));
            }
            // Only failures are reported, and waiting less than two milliseconds for one makes the
            // client's poll spin.
            std::thread::sleep(DRAIN_PAUSE);
            self.poll(Duration::ZERO)?;
        }
        let delivered = self.newly_delivered();
        self.pace.delivered(delivered, begun.elapsed());
        Ok(())
    }

    /// Returns the number of bytes that may be in flight.
    pub(super) fn allowed_in_flight(&self) -> u64 {
        (self.known.partitions() * OUTSTANDING_EACH)
            .clamp(*OUTSTANDING_BYTES.start(), *OUTSTANDING_BYTES.end())
            .min(self.pace.bytes())
    }

    /// Returns the number of bytes that were delivered since the last call, estimated from the number of
    /// records in flight.
    fn newly_delivered(&mut self) -> u64 {
        let waiting = u64::try_from(self.in_flight()).unwrap_or_default() * self.sent.each();
        let delivered = self.sent.bytes.saturating_sub(waiting);
        let newly = delivered.saturating_sub(self.sent.delivered);
        self.sent.delivered = delivered.max(self.sent.delivered);
        newly
    }

    /// Waits until every record is delivered. The client's own flush checks deliveries only every 100
    /// ms, which would be most of the cost of a commit.
    pub(crate) fn drain(&mut self) -> Result<(), ProducerError> {
        // A slow or throttled broker still makes progress, so only a stall counts as a failure.
        let begun = Instant::now();
        let (mut least, mut moved) = (i32::MAX, begun);
        loop {
            self.poll(Duration::ZERO)?;
            let waiting = self.in_flight();
            if waiting == 0 {
                self.known.delivered();
                let delivered = self.newly_delivered();
                self.pace.drained(delivered, begun.elapsed());
                return Ok(());
            }
            if waiting < least {
                (least, moved) = (waiting, Instant::now());
                self.health.beat();
            }
            if moved.elapsed() > REQUEST_TIMEOUT {
                let reason = format!("{waiting} records were not delivered in time");
                return Err(ProducerError::kafka("waiting for deliveries", reason));
            }
            std::thread::sleep(match begun.elapsed() < SOON {
                true => SHORT_PAUSE,
                false => DRAIN_PAUSE,
            });
        }
    }
}
