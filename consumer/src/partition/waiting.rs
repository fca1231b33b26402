//! A partition in which nothing comes while documents of it are held.

use std::time::Duration;

use tokio::time::timeout;

use super::PartitionWorker;
use crate::batch::Batch;
use crate::chunk::Chunk;
use crate::error::ConsumerError;
use crate::offsets::NextOffset;
use crate::sink::mongo::UNRESOLVED;
use crate::sink::{Applied, SinkError};

/// What is held is tried again that long after the last entry: whatever refuses it may be gone.
const PAUSE: Duration = Duration::from_secs(5);
/// So many tries without anything new, and a replay up to an end is at it.
const MOST_TRIES: u32 = 4;
/// It is told each so many tries.
const TOLD_EACH: u32 = 12;

impl PartitionWorker {
    /// The next chunk, `None` when there are no more. What is held for the partition, up to `reached`,
    /// is tried again meanwhile.
    ///
    /// # Errors
    /// [`ConsumerError::Refused`] if it stays held where nothing more is to come.
    pub(super) async fn next_chunk(
        &mut self,
        reached: Option<NextOffset>,
    ) -> Result<Option<Chunk>, ConsumerError> {
        for tries in 0.. {
            let (topic, partition) = (&self.start.topic, self.start.partition);
            let Some(since) = self.shared.sink.held_since(topic, partition) else {
                break;
            };
            if let Ok(chunk) = timeout(PAUSE, self.start.chunks.recv()).await {
                return Ok(chunk);
            }
            let place = self.start.place(since);
            if tries % TOLD_EACH == 0 {
                tracing::warn!(
                    since = %place,
                    "a unique index of the target refuses a document; offsets stay before it: \
                     {UNRESOLVED}"
                );
            }
            if self.try_held().await? == Applied::Abandoned {
                return Ok(None);
            }
            if let Some(reached) = reached {
                self.acknowledge(reached, None, false);
            }
            if self.shared.until_caught_up && tries + 1 >= MOST_TRIES {
                self.give_up(reached).await?;
            }
        }
        Ok(self.start.chunks.recv().await)
    }

    /// Makes dead letters of what is still held, or stops.
    async fn give_up(&self, reached: Option<NextOffset>) -> Result<(), ConsumerError> {
        let (topic, partition) = (&self.start.topic, self.start.partition);
        let described = self.shared.topics.get(topic).await?;
        if self.shared.post_held(&self.start, &described).await? == Applied::Abandoned {
            return Ok(());
        }
        if let Some(since) = self.shared.sink.held_since(topic, partition) {
            return Err(ConsumerError::Refused(format!(
                "{}: a document waits since this record because a unique index of the target \
                 refuses it, and nothing more comes: {UNRESOLVED}",
                self.start.place(since)
            )));
        }
        if let Some(reached) = reached {
            self.acknowledge(reached, None, false);
        }
        Ok(())
    }

    async fn try_held(&self) -> Result<Applied, ConsumerError> {
        let topic = self.shared.topics.get(&self.start.topic).await?;
        let nothing = Batch {
            topic: &self.start.topic,
            partition: self.start.partition,
            source: &topic.source,
            entries: &[],
        };
        match self.shared.sink.apply(&nothing, &self.start.token).await {
            Ok(Applied::Done) => {
                self.shared
                    .post_refused(&self.start, &topic, &nothing)
                    .await
            }
            Ok(Applied::Abandoned) => Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => Err(error),
            // There are none.
            Err(SinkError::Entry(error)) => Err(self.start.unplayable(-1, error)),
        }
    }
}
