//! The link between the poll thread and the workers: tokens of assignments, and reports of workers.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;
use tokio::sync::OwnedMutexGuard;

use crate::group::offsets::NextOffset;
use crate::topic_partition::TopicPartition;
use crate::worker::chunk::Chunk;

/// The right to write for a partition. It is invalidated before the partition is given up, and checked
/// before each write. Kafka fences members of a group, but not their writes to other systems.
#[derive(Debug, Clone)]
pub struct Token {
    own: Arc<AtomicBool>,
    /// The token that this one depends on.
    parent: Option<Box<Token>>,
}

impl Default for Token {
    fn default() -> Self {
        Self {
            own: Arc::new(AtomicBool::new(true)),
            parent: None,
        }
    }
}

impl Token {
    /// Returns true if this member still owns the partition.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let parent = self.parent.as_ref();
        self.own.load(Ordering::Acquire) && parent.is_none_or(|parent| parent.is_valid())
    }

    /// Returns a token that becomes invalid with this one, and that can be invalidated alone: to stop a
    /// part of the writes of a partition that this member still owns.
    #[must_use]
    pub fn dependent(&self) -> Self {
        Self {
            own: Arc::new(AtomicBool::new(true)),
            parent: Some(Box::new(self.clone())),
        }
    }

    /// Revokes the right permanently.
    pub fn invalidate(&self) {
        self.own.store(false, Ordering::Release);
    }
}

/// The offset up to which a worker with `--until-caught-up` applies records. Only the poll thread
/// sets it, because only that thread knows that no record follows before the end. Clones refer to
/// the same offset.
#[derive(Debug, Clone)]
pub struct StopOffset(Arc<AtomicI64>);

impl Default for StopOffset {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

impl StopOffset {
    /// Sets the offset: every record up to the end is in a chunk for the worker and lies before
    /// `next`. The lowest offset counts.
    pub fn set(&self, next: NextOffset) {
        self.0.fetch_min(next.get(), Ordering::Relaxed);
    }

    /// Returns true if a worker that has reached `next` has applied every record up to the stop offset.
    #[must_use]
    pub fn is_reached(&self, next: NextOffset) -> bool {
        next.get() >= self.0.load(Ordering::Relaxed)
    }
}

/// The number of an assignment. A partition that is assigned again gets a new number.
pub type AssignmentNumber = u64;

/// A report of a worker to the poll thread.
#[derive(Debug)]
pub struct Report {
    /// The assignment of the worker.
    pub assignment: AssignmentNumber,
    /// The event.
    pub event: ReportEvent,
}

/// An event of a worker.
#[derive(Debug)]
pub enum ReportEvent {
    /// Everything before `next` was applied.
    Acknowledged {
        /// The next record to apply.
        next: NextOffset,
        /// The last entry applied, if it is known.
        last: Option<EntryId>,
        /// True if other workers wait for this offset to be committed.
        urgent: bool,
    },
    /// The worker waits at a barrier (true), or continues (false).
    Holding(bool),
    /// A chunk is no longer used, applied or not, so its memory is free.
    Released {
        /// The cost of its records.
        bytes: usize,
        /// The emptied buffers.
        chunk: Chunk,
    },
    /// The worker has ended and writes nothing more.
    Ended,
}

/// The queue of reports. It needs no limit of its own: the number of chunks in flight is limited,
/// and the reports of each are few.
#[derive(Debug, Default)]
pub struct Reports {
    queue: Mutex<Vec<Report>>,
    arrived: Condvar,
}

impl Reports {
    /// Adds a report.
    pub fn send(&self, assignment: AssignmentNumber, event: ReportEvent) {
        self.lock().push(Report { assignment, event });
        self.arrived.notify_one();
    }

    /// Takes all reports.
    #[must_use]
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until there is a report, at most for the given time.
    pub fn wait(&self, patience: Duration) {
        let waited = self
            .arrived
            .wait_timeout_while(self.lock(), patience, |queue| queue.is_empty());
        drop(waited);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        // A panic under this lock cannot leave the queue half written, so a poisoned lock is usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Interval at which a worker that waits for a lock checks whether it still has its partition.
const TOKEN_CHECK: Duration = Duration::from_millis(100);

/// Locks that let a partition have one worker at a time. A worker that did not finish before its
/// partition was revoked may still be writing when the partition is assigned again.
#[derive(Debug, Default)]
pub struct PartitionLocks(Mutex<FxHashMap<TopicPartition, PartitionLock>>);

type PartitionLock = Arc<tokio::sync::Mutex<()>>;

impl PartitionLocks {
    /// Waits until no worker has this partition, and locks it until the guard is dropped. Returns
    /// `None` if the partition is revoked first.
    pub async fn take(
        &self,
        topic: &str,
        partition: i32,
        token: &Token,
    ) -> Option<OwnedMutexGuard<()>> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let topic = topic.to_owned();
            let lock = locks
                .entry(TopicPartition { topic, partition })
                .or_default();
            Arc::clone(lock)
        };
        let mut waiting = Box::pin(lock.lock_owned());
        while token.is_valid() {
            if let Ok(guard) = tokio::time::timeout(TOKEN_CHECK, &mut waiting).await {
                return Some(guard);
            }
        }
        None
    }
}

/// A guard that reports the end of a worker, including one that panics.
#[derive(Debug)]
pub struct EndReport {
    /// The assignment that ends.
    pub assignment: AssignmentNumber,
    /// The queue of reports.
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
    fn the_end_of_a_worker_is_reported_even_after_a_panic() {
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
    fn a_token_stays_invalid_in_all_clones() {
        let token = Token::default();
        let clone = token.clone();
        assert!(clone.is_valid());
        token.invalidate();
        assert!(!clone.is_valid() && !token.is_valid());
    }

    #[tokio::test]
    async fn a_partition_has_one_worker_at_a_time() {
        use futures_util::FutureExt;

        let (locks, token, revoked) = (
            PartitionLocks::default(),
            Token::default(),
            Token::default(),
        );
        let first = locks.take("cdc.a.b", 0, &token).await;
        assert!(first.is_some());
        let other = locks.take("cdc.a.b", 1, &token).now_or_never();
        assert!(other.flatten().is_some());
        let mut second = Box::pin(locks.take("cdc.a.b", 0, &token));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(locks.take("cdc.a.b", 0, &revoked));
        assert!(third.as_mut().now_or_never().is_none());
        revoked.invalidate();
        assert!(third.await.is_none());
        drop(first);
        assert!(second.await.is_some());
    }
}
