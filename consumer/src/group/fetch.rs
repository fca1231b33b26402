//! The size of fetches.
//!
//! A broker counts the bytes of a fetch as they are stored, which is compressed, and librdkafka
//! decompresses a whole reply before it compares its queue with the limit. The memory for a fetch
//! is therefore its size multiplied by the compression ratio, which can be several thousand for
//! similar records. librdkafka takes the fetch size when a client is created and cannot change it
//! later. The member therefore starts with fetches that suit the records that it reads first
//! ([`super::probe`]). If later records turn out to be compressed much more, it leaves the group
//! and joins it again with smaller fetches.

use oplog_relay_runtime::kafka::limit_fetch;
use rdkafka::ClientConfig;
use rdkafka::statistics::Statistics;

/// The decompressed records of one fetch may use 1/`SHARE` of the budget, and at least `MIN_ROOM`.
const SHARE: usize = 4;
const MIN_ROOM: usize = 16 << 20;
/// A fetch requests at most 1/`MAX_SHARE` of the budget, within the limits of `MAX_BYTES`.
const MAX_SHARE: usize = 64;
const MAX_BYTES: (usize, usize) = (1 << 20, 50 << 20);
/// The smallest fetch. A reply has at least one batch, however large that is.
const MIN_BYTES: usize = 4 << 10;
/// The factor by which a fetch may exceed the right size before the member joins again.
const TOLERANCE: usize = 2;
/// One partition may fill 1/`PARTITION_SHARE` of a fetch, and at least `MIN_OF_PARTITION`.
const PARTITION_SHARE: usize = 4;
const MIN_OF_PARTITION: usize = 128 << 10;

/// The number of stored bytes that a fetch requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FetchSize(usize);

impl FetchSize {
    /// The fetch size for the first records, whose compression ratio is not known.
    pub(super) const PROBE: Self = Self(16 << 10);

    /// Returns the size for records of the given compression ratio and a budget (`--queue-bytes`).
    pub(super) fn of_ratio(ratio: u64, queue_bytes: usize) -> Self {
        let room = (queue_bytes / SHARE).max(MIN_ROOM);
        let most = (queue_bytes / MAX_SHARE).clamp(MAX_BYTES.0, MAX_BYTES.1);
        let ratio = usize::try_from(ratio).unwrap_or(usize::MAX).max(1);
        Self((room / ratio).clamp(MIN_BYTES, most))
    }

    /// Returns the smaller size that records of this ratio need, if the current size is much too large
    /// for them.
    pub(super) fn shrunk(self, ratio: u64, queue_bytes: usize) -> Option<Self> {
        let needed = Self::of_ratio(ratio, queue_bytes);
        (self.0 > needed.0 * TOLERANCE).then_some(needed)
    }

    /// Sets the size in the configuration of a client.
    pub(super) fn set(self, client: &mut ClientConfig) {
        let of_partition = (self.0 / PARTITION_SHARE).max(MIN_OF_PARTITION);
        limit_fetch(client, self.0, of_partition.min(self.0));
    }

    pub(super) const fn bytes(self) -> usize {
        self.0
    }
}

/// Counts of what a client has received so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Bytes received from brokers.
    wire: u64,
    /// Bytes of records, decompressed.
    records: u64,
}

impl Received {
    #[cfg(test)]
    pub(super) const fn new(wire: u64, records: u64) -> Self {
        Self { wire, records }
    }

    /// Reads the counts from librdkafka's statistics.
    pub(super) fn of(statistics: &Statistics) -> Self {
        Self {
            wire: u64::try_from(statistics.rx_bytes).unwrap_or_default(),
            records: u64::try_from(statistics.rxmsg_bytes).unwrap_or_default(),
        }
    }

    /// Returns the bytes of records received since `earlier`. The counts of removed partitions are
    /// missing.
    pub(super) const fn records_since(self, earlier: Self) -> u64 {
        self.records.saturating_sub(earlier.records)
    }

    /// Returns the compression ratio of the records received since `earlier`; `None` for fewer than
    /// `least` bytes of records. Replies contain more than records, so the ratio of a few bytes is
    /// meaningless.
    pub(super) const fn ratio_since(self, earlier: Self, least: u64) -> Option<u64> {
        let (wire, records) = (
            self.wire.saturating_sub(earlier.wire),
            self.records_since(earlier),
        );
        if records < least || wire == 0 {
            return None;
        }
        Some(records / wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 64 << 20;

    #[test]
    fn a_fetch_shrinks_with_the_ratio_down_to_a_minimum() {
        let bytes = |ratio| FetchSize::of_ratio(ratio, BUDGET).bytes();
        assert_eq!(bytes(0), 1 << 20);
        assert_eq!(bytes(16), 1 << 20);
        assert_eq!(bytes(256), 64 << 10);
        assert_eq!(bytes(4096), 4 << 10);
        assert_eq!(bytes(u64::MAX), 4 << 10);
        // The records of a fetch fit their share of the budget at any ratio.
        for ratio in 1..4096 {
            let decompressed = bytes(ratio) * usize::try_from(ratio).unwrap();
            assert!(decompressed <= BUDGET / SHARE, "{ratio}");
        }
        // A small budget does not cause tiny fetches. A large one allows fetches that suit a
        // distant broker.
        assert_eq!(FetchSize::of_ratio(4, 1 << 20).bytes(), 1 << 20);
        assert_eq!(FetchSize::of_ratio(4, 1 << 30).bytes(), 16 << 20);
    }

    #[test]
    fn only_a_fetch_that_is_much_too_large_is_shrunk() {
        let usual = FetchSize::of_ratio(3, BUDGET);
        assert_eq!(usual.shrunk(30, BUDGET), None);
        let small = usual.shrunk(300, BUDGET).unwrap();
        assert_eq!(small, FetchSize::of_ratio(300, BUDGET));
        assert_eq!(small.shrunk(300, BUDGET), None);
        assert_eq!(small.shrunk(3, BUDGET), None);
    }

    #[test]
    fn the_ratio_covers_only_bytes_received_since_the_earlier_counts() {
        let earlier = Received::new(1_000_000, 50);
        let now = Received::new(1_000_100, 30_050);
        assert_eq!(now.ratio_since(earlier, 30_000), Some(300));
        assert_eq!(now.ratio_since(earlier, 30_001), None);
        assert_eq!(earlier.ratio_since(now, 1), None);
    }
}
