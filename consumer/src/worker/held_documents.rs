//! Documents of a partition that are held for a long time, and indexes that are suspended because
//! of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::PartitionWorker;
use crate::error::ConsumerError;
use crate::group::offsets::NextOffset;
use crate::replay::held_documents::error::HeldError;
use crate::replay::{MongoSink, UNRESOLVED};
use crate::worker::applied::{Applied, SinkError};
use crate::worker::batch::Batch;
use crate::worker::chunk::Chunk;

/// Interval between attempts. The cause of a refusal may disappear without any entry in the topics.
const PAUSE: Duration = Duration::from_secs(5);
/// Number of attempts that a replay with `--until-caught-up` makes after it has applied all records
/// up to the end. Other partitions may not have reached the end yet.
const LAST_ATTEMPTS: u32 = 4;
/// Number of attempts for each log line.
const ATTEMPTS_PER_LOG_LINE: u32 = 12;

/// The attempts to write the documents that are held.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// The offset of the first record whose document is held.
    since: i64,
    attempted: Instant,
    attempts: u32,
    /// Number of attempts after all records up to the end were applied.
    last_attempts: u32,
}

impl Attempts {
    fn new(since: i64) -> Self {
        Self {
            since,
            attempted: Instant::now(),
            attempts: 0,
            last_attempts: 0,
        }
    }

    /// Returns the rest of the pause before the next attempt.
    fn left(&self) -> Duration {
        PAUSE.saturating_sub(self.attempted.elapsed())
    }

    /// Counts an attempt. Returns true if it is to be logged.
    fn count(&mut self, is_last: bool) -> bool {
        self.attempted = Instant::now();
        self.last_attempts += u32::from(is_last);
        self.attempts += 1;
        self.attempts % ATTEMPTS_PER_LOG_LINE == 1
    }
}

impl PartitionWorker {
    /// Returns the next chunk; `None` when the queue is closed or the partition was revoked. While
    /// it waits, it tries to write the held documents of the partition again. `reached` is the
    /// offset up to which records were applied.
    ///
    /// # Errors
    /// Returns [`HeldError::AtEnd`] if documents are still held after the last attempt at the end,
    /// or the error of an attempt.
    pub(crate) async fn next_chunk(
        &mut self,
        reached: Option<NextOffset>,
    ) -> Result<Option<Chunk>, ConsumerError> {
        let context = Arc::clone(&self.context);
        let Some(target) = context.target() else {
            return Ok(self.assignment.chunks.recv().await);
        };
        loop {
            let (topic, partition) = (&self.assignment.topic, self.assignment.partition);
            let Some(since) = target.held_since(topic, partition) else {
                self.attempts = None;
                if !target.has_suspended(topic, partition) {
                    return Ok(self.assignment.chunks.recv().await);
                }
                match timeout(PAUSE, self.assignment.chunks.recv()).await {
                    Ok(chunk) => return Ok(chunk),
                    // No record has arrived during the pause, so all entries that were read again
                    // are applied.
                    Err(_) => {
                        let token = &self.assignment.token;
                        let restored = target.restore_due(topic, partition, None, token);
                        if restored.await? == Applied::Abandoned {
                            return Ok(None);
                        }
                        continue;
                    }
                }
            };
            // If another record is now the first whose document is held, there was progress.
            let attempts = self.attempts.take().filter(|it| it.since == since);
            let left = self
                .attempts
                .insert(attempts.unwrap_or_else(|| Attempts::new(since)))
                .left();
            if !left.is_zero() {
                match timeout(left, self.assignment.chunks.recv()).await {
                    Ok(chunk) => return Ok(chunk),
                    Err(_) => continue,
                }
            }
            if self.attempt(target, since, reached).await? == Applied::Abandoned {
                return Ok(None);
            }
        }
    }

    /// Tries to write the held documents, and gives them up after the last attempt.
    async fn attempt(
        &mut self,
        target: &MongoSink,
        since: i64,
        reached: Option<NextOffset>,
    ) -> Result<Applied, ConsumerError> {
        let is_last =
            reached.is_some_and(|reached| self.assignment.stop_offset.is_reached(reached));
        let position = self.assignment.position(since);
        let attempts = self.attempts.get_or_insert_with(|| Attempts::new(since));
        if attempts.count(is_last) {
            tracing::warn!(
                since = %position,
                "an index of the target refuses a document; committed offsets stay before its \
                 record: {UNRESOLVED}"
            );
        }
        let gives_up = attempts.last_attempts >= LAST_ATTEMPTS;
        if self.try_held(target).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        if gives_up && self.give_up(target).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        if let Some(reached) = reached {
            self.acknowledge(reached, None, false);
        }
        Ok(Applied::Done)
    }

    async fn try_held(&self, target: &MongoSink) -> Result<Applied, ConsumerError> {
        let topic = self.context.topics.get(&self.assignment.topic).await?;
        let nothing = Batch {
            topic: &self.assignment.topic,
            partition: self.assignment.partition,
            source: &topic.source,
            entries: &[],
        };
        match target.apply(&nothing, &self.assignment.token).await {
            Ok(Applied::Done) => {
                self.context
                    .post_refused(&self.assignment, &topic, &nothing)
                    .await
            }
            Ok(Applied::Abandoned) => Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => Err(error),
            // The batch has no entries that could fail.
            Err(SinkError::Entry(error)) => Err(self.assignment.unplayable(-1, error)),
        }
    }

    /// Makes dead letters of the documents that are still held, or stops.
    async fn give_up(&self, target: &MongoSink) -> Result<Applied, ConsumerError> {
        let (topic, partition) = (&self.assignment.topic, self.assignment.partition);
        let described = self.context.topics.get(topic).await?;
        let posted = self
            .context
            .post_held(target, &self.assignment, &described)
            .await?;
        match target.first_held(topic, partition) {
            Some(first) if posted == Applied::Done => Err(HeldError::AtEnd {
                position: self.assignment.position(first.offset),
                refusal: first.refusal,
            }
            .into()),
            _ => Ok(posted),
        }
    }
}
