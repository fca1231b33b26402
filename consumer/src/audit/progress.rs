//! The progress display of an audit: a bar on a terminal, periodic log lines elsewhere.

use std::time::{Duration, Instant};

use oplog_relay_runtime::status_line::StatusLine;

use crate::group::start::LogRange;

/// Interval between updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(250);
/// Interval between log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Number of records between two checks of the clock.
const RECORDS: u64 = 1024;

/// Progress, measured in offsets because their number is known before the records are read.
#[derive(Debug)]
pub(super) struct Progress {
    line: StatusLine,
    total: u64,
    /// Number of offsets in partitions that were read completely.
    before: u64,
    records: u64,
    begun: Instant,
    shown: Instant,
}

impl Progress {
    pub(super) fn of(partitions: &[LogRange]) -> Self {
        let line = StatusLine::new(true);
        line.update(format!("partitions to read: {}", partitions.len()));
        Self {
            line,
            total: partitions.iter().map(length).sum(),
            before: 0,
            records: 0,
            begun: Instant::now(),
            shown: Instant::now(),
        }
    }

    /// Notes that a record of a partition was read.
    pub(super) fn record(&mut self, range: &LogRange, offset: i64) {
        self.records += 1;
        if !self.records.is_multiple_of(RECORDS) {
            return;
        }
        let every = match self.line.is_visible() {
            true => BAR_INTERVAL,
            false => LOG_INTERVAL,
        };
        if self.shown.elapsed() >= every {
            let read = u64::try_from(offset - range.low).unwrap_or_default();
            self.show(range, self.before + read);
        }
    }

    /// Notes that a partition was read to its end.
    pub(super) fn partition(&mut self, range: &LogRange) {
        self.before += length(range);
        if self.line.is_visible() {
            self.show(range, self.before);
        }
    }

    fn show(&mut self, range: &LogRange, done: u64) {
        self.shown = Instant::now();
        let millis = self.begun.elapsed().as_millis().max(1);
        let per_second = u128::from(self.records) * 1000 / millis;
        let (topic, partition) = (&range.name.topic, range.name.partition);
        if self.line.is_visible() {
            let records = self.records;
            let text = format!("{topic}/{partition}: {records} records, {per_second}/s");
            self.line.advance(done, self.total.max(1), text);
        } else {
            let percent = done * 100 / self.total.max(1);
            let records = self.records;
            tracing::info!(topic, partition, percent, records, per_second, "reading");
        }
    }
}

fn length(range: &LogRange) -> u64 {
    u64::try_from(range.end - range.low).unwrap_or_default()
}
