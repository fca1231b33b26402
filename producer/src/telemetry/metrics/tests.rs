use oplog_relay_core::position::Timestamp;

use super::*;
use crate::encode::chunk::{Counts, TransactionCounts};

#[test]
fn lag_and_position_are_those_of_the_checkpoint_until_something_is_committed() {
    let metrics = Metrics::new().unwrap();
    assert!(metrics.lag.get().is_nan());
    assert!(metrics.status("rs0")["lag_seconds"].is_null());
    metrics.resumed(None);
    assert_eq!(metrics.lag_seconds(), None);

    let now = u32::try_from(now_ms() / 1000).unwrap();
    let position = Position {
        ts: Timestamp::new(now - 3600, 1),
        term: 1,
        ord: 0,
    };
    metrics.resumed(Some(position));
    assert_eq!(metrics.position(), Some(position));
    assert!(metrics.lag_seconds().unwrap() >= 3600.0);
    assert!(metrics.lag.get() >= 3600.0);
    // A commit that only repeats the position does not change the lag.
    metrics.committed(position, 0, false, Duration::ZERO);
    assert!(metrics.lag_seconds().unwrap() >= 3600.0);

    metrics.caught_up();
    assert_eq!(metrics.lag_seconds(), Some(0.0));
    // After the session has ended, it is unknown whether the source has further entries.
    metrics.interrupted();
    assert!(!metrics.caught_up.load(Ordering::Relaxed));
    assert!(metrics.lag_seconds().unwrap() < 3600.0);
}

#[test]
fn transactions_are_counted_by_outcome() {
    let metrics = Metrics::new().unwrap();
    let transactions = TransactionCounts {
        committed: 4,
        aborted: 3,
        incomplete: 2,
        operations: 9,
    };
    let chunk = Chunk {
        counts: Counts {
            transactions,
            ..Counts::default()
        },
        ..Chunk::default()
    };
    metrics.sent(&chunk, 0);
    let of = |outcome| {
        let ended = &metrics.transactions.by_outcome;
        ended.with_label_values(&[outcome]).get()
    };
    assert_eq!(["committed", "aborted", "incomplete"].map(of), [4, 3, 2]);
    assert_eq!(metrics.transactions.operations.get(), 9);
}
