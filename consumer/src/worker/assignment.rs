//! Between the poll thread and the workers: tokens of assignments, and the workers' reports.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;
use tokio::sync::OwnedMutexGuard;

use crate::group::offsets::NextOffset;
use crate::worker::chunk::Chunk;

/// The right to write for a partition. Invalidated before the partition is given up; whoever
/// writes checks it before each write. Kafka fences members, not owners: this does.
#[derive(Debug, Clone)]
pub struct Token(Arc<AtomicBool>);

impl Default for Token {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Token {
    /// Whether the partition is still ours.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Takes the right away, for good.
    pub fn invalidate(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Tells a worker which record is the last one that a replay up to an end wants of its partition: only
/// the reader knows that none follows before the end. Clones are the same mark.
#[derive(Debug, Clone)]
pub struct StopOffset(Arc<AtomicI64>);

impl Default for StopOffset {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

impl StopOffset {
    /// Everything that is wanted was handed over, and lies before `next`. The first word counts.
    pub fn set(&self, next: NextOffset) {
        self.0.fetch_min(next.get(), Ordering::Relaxed);
    }

    /// Whether who has come to `next` has applied all that is wanted.
    #[must_use]
    pub fn is_behind(&self, next: NextOffset) -> bool {
        next.get() >= self.0.load(Ordering::Relaxed)
    }
}

/// Number of an assignment: a partition that comes back gets a new one.
pub type AssignmentNumber = u64;

/// What a worker reports to the poll thread.
#[derive(Debug)]
pub struct Report {
    /// Which assignment it is about.
    pub assignment: AssignmentNumber,
    /// What happened.
    pub event: ReportEvent,
}

/// What happened to a worker.
#[derive(Debug)]
pub enum ReportEvent {
    /// Everything before `next` is applied; `last` is the last entry among it, if any.
    Acknowledged {
        /// The next record to apply.
        next: NextOffset,
        /// The last entry applied.
        last: Option<EntryId>,
        /// Somebody waits for the commit of it.
        urgent: bool,
    },
    /// The worker waits at a barrier (true), or goes on.
    Holding(bool),
    /// A chunk is done with, applied or not: its memory is free again.
    Released {
        /// What its records cost.
        bytes: usize,
        /// The emptied buffers.
        chunk: Chunk,
    },
    /// The worker is gone and writes nothing more.
    Ended,
}

/// Reports on their way. Bounded by the chunks in flight, each of which brings two.
#[derive(Debug, Default)]
pub struct Reports {
    queue: Mutex<Vec<Report>>,
    arrived: Condvar,
}

impl Reports {
    /// Adds one.
    pub fn send(&self, assignment: AssignmentNumber, event: ReportEvent) {
        self.lock().push(Report { assignment, event });
        self.arrived.notify_one();
    }

    /// Takes all.
    #[must_use]
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until there is one.
    pub fn wait(&self, patience: Duration) {
        let waited = self
            .arrived
            .wait_timeout_while(self.lock(), patience, |queue| queue.is_empty());
        drop(waited);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        // Nothing can be left half done under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that waits for its turn looks that often whether it still has its partition.
const LOOK: Duration = Duration::from_millis(100);

/// One worker of a partition at a time: one that was not done when its partition went may still be
/// writing when that comes back.
#[derive(Debug, Default)]
pub struct PartitionLocks(Mutex<FxHashMap<(String, i32), Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl PartitionLocks {
    /// Waits until no worker has this partition; then it is the caller's until the guard is dropped.
    /// `None` if the partition is taken away before.
    pub async fn take(
        &self,
        topic: &str,
        partition: i32,
        token: &Token,
    ) -> Option<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = turns.entry((topic.to_owned(), partition)).or_default();
            Arc::clone(turn)
        };
        let mut waiting = Box::pin(turn.lock_owned());
        while token.is_valid() {
            if let Ok(guard) = tokio::time::timeout(LOOK, &mut waiting).await {
                return Some(guard);
            }
        }
        None
    }
}

/// Reports the end of a worker, however it ends.
#[derive(Debug)]
pub struct EndReport {
    /// Which assignment ends.
    pub assignment: AssignmentNumber,
    /// Where to report.
    pub reports: Arc<Reports>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        self.reports.send(self.assignment, ReportEvent::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_reported_also_by_a_panic() {
        let reports = Arc::new(Reports::default());
        let end = EndReport {
            assignment: 3,
            reports: Arc::clone(&reports),
        };
        let panicked = std::thread::spawn(move || {
            let _end = end;
            panic!("as a worker might");
        });
        assert!(panicked.join().is_err());
        reports.wait(Duration::from_secs(10));
        let taken = reports.take();
        assert!(matches!(
            taken[..],
            [Report {
                assignment: 3,
                event: ReportEvent::Ended
            }]
        ));
        assert!(reports.take().is_empty());
    }

    #[test]
    fn a_token_is_invalid_for_all_clones_and_for_good() {
        let token = Token::default();
        let clone = token.clone();
        assert!(clone.is_valid());
        token.invalidate();
        assert!(!clone.is_valid() && !token.is_valid());
    }

    #[tokio::test]
    async fn a_partition_has_one_worker_at_a_time() {
        use futures_util::FutureExt;

        let (turns, token, taken_away) = (
            PartitionLocks::default(),
            Token::default(),
            Token::default(),
        );
        let first = turns.take("cdc.a.b", 0, &token).await;
        assert!(first.is_some());
        let other = turns.take("cdc.a.b", 1, &token).now_or_never();
        assert!(other.flatten().is_some());
        let mut second = Box::pin(turns.take("cdc.a.b", 0, &token));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(turns.take("cdc.a.b", 0, &taken_away));
        assert!(third.as_mut().now_or_never().is_none());
        taken_away.invalidate();
        assert!(third.await.is_none());
        drop(first);
        assert!(second.await.is_some());
    }
}
