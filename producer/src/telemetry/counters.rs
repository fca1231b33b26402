//! Counters and gauges of one subject each.

use oplog_relay_runtime::metrics::registered;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::names::opts;
use crate::encode::chunk::TransactionCounts;

/// Whether this instance follows the source, and the sessions in which it did.
#[derive(Debug)]
pub(super) struct TurnMetrics {
    pub(super) active: IntGauge,
    pub(super) sessions: IntCounter,
}

impl TurnMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let active = opts(
            "active",
            "1 while this instance follows the source, 0 while it stands by or has ended.",
        );
        let sessions = opts(
            "sessions_total",
            "Sessions opened. A retry after a failure opens another one.",
        );
        Ok(Self {
            active: registered(registry, IntGauge::with_opts(active)?)?,
            sessions: registered(registry, IntCounter::with_opts(sessions)?)?,
        })
    }
}

/// Counters of the documents that full syncs have read.
#[derive(Debug)]
pub(super) struct CopyCounters {
    pub(super) documents: IntCounter,
    pub(super) bytes: IntCounter,
}

impl CopyCounters {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let documents = opts(
            "full_sync_documents_total",
            "Documents that a full sync has read and handed to Kafka.",
        );
        let bytes = opts(
            "full_sync_bytes_total",
            "Bytes of the documents that a full sync has read and handed to Kafka.",
        );
        Ok(Self {
            documents: registered(registry, IntCounter::with_opts(documents)?)?,
            bytes: registered(registry, IntCounter::with_opts(bytes)?)?,
        })
    }
}

/// Counters of the documents that were looked up.
#[derive(Debug)]
pub(super) struct LookupCounters {
    pub(super) found: IntCounter,
    pub(super) gone: IntCounter,
    pub(super) found_before: IntCounter,
    pub(super) missing_before: IntCounter,
}

impl LookupCounters {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let lookups = opts(
            "lookups_total",
            "Changes whose document was looked up on the source, by result: found or gone (the \
             document of an update), found_before or missing_before (the document before a change).",
        );
        let lookups = registered(registry, IntCounterVec::new(lookups, &["result"])?)?;
        Ok(Self {
            found: lookups.with_label_values(&["found"]),
            gone: lookups.with_label_values(&["gone"]),
            found_before: lookups.with_label_values(&["found_before"]),
            missing_before: lookups.with_label_values(&["missing_before"]),
        })
    }
}

/// Counters of the source's transactions, by outcome.
#[derive(Debug)]
pub(super) struct TransactionCounters {
    pub(super) by_outcome: IntCounterVec,
    pub(super) operations: IntCounter,
}

impl TransactionCounters {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ended = opts(
            "transactions_total",
            "Transactions of the source that ended, by outcome: committed, aborted (by an \
             abortTransaction, after a part of the transaction was logged) or incomplete (skipped, \
             because it began before the stream or in a gap, and its first entries are gone).",
        );
        let operations = opts(
            "transaction_operations_total",
            "Operations unpacked from applyOps entries.",
        );
        let operations = IntCounter::with_opts(operations)?;
        Ok(Self {
            by_outcome: registered(registry, IntCounterVec::new(ended, &["outcome"])?)?,
            operations: registered(registry, operations)?,
        })
    }

    pub(super) fn add(&self, counts: TransactionCounts) {
        // All fields are named, so a new one does not compile until it is counted.
        let TransactionCounts {
            committed,
            aborted,
            incomplete,
            operations,
        } = counts;
        for (outcome, count) in [
            ("committed", committed),
            ("aborted", aborted),
            ("incomplete", incomplete),
        ] {
            self.by_outcome.with_label_values(&[outcome]).inc_by(count);
        }
        self.operations.inc_by(operations);
    }
}
