//! Decides when a Kafka transaction is committed. The caller passes the current time, so the
//! decision is a pure function.
//!
//! When the stream is caught up, a transaction takes what arrives until the first of its records is
//! delivered, and is committed then. While the stream is catching up, a transaction stays open
//! longer, because a commit costs the broker time for each partition that the transaction writes to.

use std::time::{Duration, Instant};

/// Minimum interval at which the publisher checks deliveries when caught up.
const DELIVERY_CHECK: Duration = Duration::from_micros(250);
/// The interval is at least the time since the first record was sent, divided by this number, so that
/// waiting for a distant broker does not take thousands of checks.
const DELIVERY_CHECK_PART: u32 = 16;
/// Minimum duration of a transaction while catching up.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum duration for each partition that a transaction may write to, because each partition has to be
/// added to each transaction again.
const COMMIT_INTERVAL_EACH: Duration = Duration::from_millis(5);
/// Minimum duration of a transaction while catching up, as a multiple of the duration of the last
/// commit.
const COMMIT_COST_FACTOR: u32 = 10;
/// The transaction timeout divided by this is the maximum duration of a transaction while catching up.
const COMMIT_INTERVAL_PART: u32 = 4;
/// Interval at which a position is saved if it advances without records (no-ops, filtered entries).
const POSITION_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which the publisher serves delivery reports and reports liveness while it waits.
const TICK: Duration = Duration::from_millis(100);

/// The open Kafka transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionState {
    /// No record has been sent since the last commit.
    Closed,
    /// Records have been sent.
    Open {
        /// Time at which the first chunk with records was sent.
        since: Instant,
    },
}

/// The circumstances, other than the time, that a commit depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// True if the source has no further entries at the moment.
    pub(super) is_idle: bool,
    /// True if a record of the transaction is delivered. The coordinator has then added partitions to the
    /// transaction, and the delivery of the other records follows soon.
    pub(super) has_delivered: bool,
    /// True if the requested end is reached, or if the source has ended.
    pub(super) is_at_end: bool,
    /// Number of partitions that the transaction may write to.
    pub(super) partitions: u64,
    /// The transaction timeout of the producer.
    pub(super) timeout: Duration,
}

/// The schedule of commits.
#[derive(Debug)]
pub(super) struct Schedule {
    transaction: TransactionState,
    last_commit: Option<Instant>,
    /// Duration of the last commit.
    commit_took: Duration,
}

impl Schedule {
    /// Creates the schedule of a session that has committed nothing yet.
    pub(super) const fn new() -> Self {
        Self {
            transaction: TransactionState::Closed,
            last_commit: None,
            commit_took: Duration::ZERO,
        }
    }

    /// Notes that records were sent.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.transaction == TransactionState::Closed {
            self.transaction = TransactionState::Open { since: now };
        }
    }

    /// Notes a commit.
    pub(super) fn committed(&mut self, now: Instant, took: Duration) {
        self.transaction = TransactionState::Closed;
        self.last_commit = Some(now);
        self.commit_took = took;
    }

    /// Returns true if a position that is not saved yet is to be committed now.
    pub(super) fn is_due(&self, now: Instant, circumstances: &Circumstances) -> bool {
        if circumstances.is_at_end {
            return true;
        }
        let since_commit = self.last_commit.map(|last| now.duration_since(last));
        match self.transaction {
            TransactionState::Closed => since_commit.is_none_or(|since| since >= POSITION_INTERVAL),
            TransactionState::Open { since } => {
                let open_for = now.duration_since(since);
                (circumstances.is_idle && circumstances.has_delivered)
                    || open_for >= self.interval(circumstances)
            }
        }
    }

    /// Returns how long to wait for the next chunk: while the source is idle, until the next check of
    /// deliveries; otherwise until the open transaction is due, at most a tick.
    pub(super) fn patience(&self, now: Instant, circumstances: &Circumstances) -> Duration {
        let wait = match self.transaction {
            TransactionState::Closed => TICK,
            TransactionState::Open { since } if circumstances.is_idle => {
                DELIVERY_CHECK.max(now.duration_since(since) / DELIVERY_CHECK_PART)
            }
            TransactionState::Open { since } => self
                .interval(circumstances)
                .saturating_sub(now.duration_since(since)),
        };
        wait.min(TICK)
    }

    /// Returns how long a transaction lasts while catching up.
    fn interval(&self, circumstances: &Circumstances) -> Duration {
        let partitions = u32::try_from(circumstances.partitions).unwrap_or(u32::MAX);
        COMMIT_INTERVAL
            .max(COMMIT_INTERVAL_EACH.saturating_mul(partitions))
            .max(self.commit_took * COMMIT_COST_FACTOR)
            .min(circumstances.timeout / COMMIT_INTERVAL_PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn catching_up() -> Circumstances {
        Circumstances {
            is_idle: false,
            has_delivered: false,
            is_at_end: false,
            partitions: 4,
            timeout: millis(60_000),
        }
    }

    #[test]
    fn transactions_last_longer_where_commits_cost_more_up_to_a_part_of_their_timeout() {
        let interval = |partitions, last_commit, timeout| {
            let mut schedule = Schedule::new();
            schedule.committed(Instant::now(), millis(last_commit));
            schedule.interval(&Circumstances {
                partitions,
                timeout: millis(timeout),
                ..catching_up()
            })
        };
        assert_eq!(interval(4, 30, 60_000), millis(1000));
        assert_eq!(interval(4, 300, 60_000), millis(3000));
        assert_eq!(interval(800, 30, 60_000), millis(4000));
        assert_eq!(interval(u64::MAX, 0, 60_000), millis(15_000));
        assert_eq!(interval(0, 9000, 60_000), millis(15_000));
        assert_eq!(interval(0, 9000, 8000), millis(2000));
    }

    #[test]
    fn an_open_transaction_is_committed_when_the_source_has_no_further_entries() {
        let (mut schedule, begin) = (Schedule::new(), Instant::now());
        let idle = Circumstances {
            is_idle: true,
            ..catching_up()
        };
        let delivered = Circumstances {
            has_delivered: true,
            ..idle
        };
        schedule.committed(begin, millis(5));
        schedule.sent(begin + millis(2));
        assert!(!schedule.is_due(begin + millis(3), &idle));
        assert_eq!(schedule.patience(begin + millis(3), &idle), DELIVERY_CHECK);
        assert_eq!(schedule.patience(begin + millis(162), &idle), millis(10));
        assert!(schedule.is_due(begin + millis(3), &delivered));
        assert!(!schedule.is_due(begin + millis(900), &catching_up()));
        assert!(schedule.is_due(begin + millis(1002), &catching_up()));
    }

    #[test]
    fn a_position_without_records_is_saved_at_intervals_and_at_the_end() {
        let (mut schedule, begin) = (Schedule::new(), Instant::now());
        assert!(schedule.is_due(begin, &catching_up()), "nothing saved yet");
        schedule.committed(begin, millis(5));
        assert!(!schedule.is_due(begin + millis(4999), &catching_up()));
        assert!(schedule.is_due(begin + millis(5000), &catching_up()));
        let at_end = Circumstances {
            is_at_end: true,
            ..catching_up()
        };
        assert!(schedule.is_due(begin + millis(1), &at_end));
    }
}
