//! The starting point of a session: the checkpoint, the value of `--start`, or a full sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::topic::{is_data_topic, state_topic};

use super::Supervisor;
use super::check::FoundCluster;
use crate::config::Sync;
use crate::error::ProducerError;
use crate::saved::checkpoint::{Checkpoint, Requests};
use crate::source::StartAt;
use crate::source::full_sync::{FullSync, Options};

/// Placeholder position of a stream that has read nothing yet.
const NOWHERE: Position = Position {
    ts: Timestamp::new(0, 0),
    term: -1,
    ord: 0,
};

impl Supervisor {
    /// Returns the start of the tail, and the full sync to run beside it.
    pub(super) async fn plan(
        &self,
        checkpoint: &Checkpoint,
        cluster: &FoundCluster,
    ) -> Result<(StartAt, Option<FullSync>), ProducerError> {
        let is_new_copy = self.starts_with_a_copy(checkpoint);
        let Some(client) = self.origin.client_of_copies() else {
            return Ok((self.start(checkpoint.position).await?, None));
        };
        let state = state_topic(&self.config.stream.topic_prefix, self.origin.name());
        let requests = Some(Requests::new(cluster.reader.clone(), state));
        let config = &self.config;
        let caught_up = config.until_caught_up;
        let mut options = Options {
            readers: config.full_sync.readers,
            rate: config.full_sync.rate,
            ends: config.full_sync.sync == Some(Sync::Full),
        };
        let filter = &config.stream.filter;
        let metrics = Arc::clone(&self.metrics);
        if is_new_copy {
            options.ends |= caught_up;
            let sync = FullSync::plan(client, filter, options, requests, metrics).await?;
            return Ok((StartAt::After(sync.position), Some(sync)));
        }
        // A source with an interrupted copy has caught up only when the copy is complete.
        options.ends |= caught_up && !checkpoint.state.copies.is_empty();
        let start = self.start(checkpoint.position).await?;
        let position = match start {
            StartAt::After(position) => position,
            StartAt::Oldest | StartAt::Now | StartAt::At(_) => NOWHERE,
        };
        let state = &checkpoint.state;
        let more = (requests, metrics);
        let sync = FullSync::resume(client, position, state, filter, options, more).await?;
        Ok((start, Some(sync)))
    }

    /// Checks that the starting point of the stream is unambiguous.
    pub(super) fn check_start(
        &self,
        checkpoint: &Checkpoint,
        cluster: &FoundCluster,
    ) -> Result<(), ProducerError> {
        if !self.starts_with_a_copy(checkpoint) {
            return Ok(());
        }
        if self.origin.is_change_stream() {
            return Err(self.without_start(
                "a full sync cannot run beside a change stream (note a time, copy the documents with \
                 mongodump and mongorestore, and give --start with that time)",
            ));
        }
        match self.origin.client_of_copies() {
            None => Err(self.without_start("a dump of the oplog contains no documents to copy")),
            Some(_) => self.check_new(&cluster.names),
        }
    }

    /// Logs that `--start` and `--sync` do not apply, if a position is saved.
    pub(crate) fn log_ignored_flags(&self, checkpoint: &Checkpoint) {
        let Some(saved) = checkpoint.position else {
            return;
        };
        if self.config.stream.start.is_some() {
            tracing::info!(
                position = %saved,
                "--start is ignored: this source continues from its saved position"
            );
        }
        let copies = matches!(
            self.config.full_sync.sync,
            Some(Sync::Full | Sync::FullThenTail)
        );
        if copies && checkpoint.state.copies.is_empty() {
            tracing::info!(
                position = %saved,
                "--sync copies nothing, because this source has a saved position. Request another \
                 copy with oplog-producer full-sync"
            );
        }
    }

    fn starts_with_a_copy(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.position.is_none() && self.config.stream.start.is_none()
    }

    /// Refuses a full sync that was not requested: with `--sync tail`, or without `--sync` if data
    /// topics already exist.
    fn check_new(&self, topics: &BTreeMap<String, i32>) -> Result<(), ProducerError> {
        let prefix = &self.config.stream.topic_prefix;
        match self.config.full_sync.sync {
            Some(Sync::Full | Sync::FullThenTail) => Ok(()),
            Some(Sync::Tail) => Err(self.without_start("--sync tail copies nothing")),
            None => match topics.keys().find(|topic| is_data_topic(prefix, topic)) {
                None => Ok(()),
                Some(topic) => Err(self.without_start(&format!(
                    "data topics already exist ({topic}), so a full sync has to be requested"
                ))),
            },
        }
    }

    /// Returns the error for a stream without a starting point.
    fn without_start(&self, why: &str) -> ProducerError {
        ProducerError::Usage(format!(
            "source {:?} has no saved position under prefix {:?}, and {why}. Give a starting point: \
             --sync full-then-tail (copy the existing documents, then tail the oplog), --sync full \
             (copy only), --start oldest (everything in the oplog), --start now (only new entries), \
             --start <RFC 3339 time or <seconds>:<increment>>",
            self.origin.name(),
            self.config.stream.topic_prefix
        ))
    }

    async fn start(&self, saved: Option<Position>) -> Result<StartAt, ProducerError> {
        match (saved, self.config.stream.start) {
            (Some(saved), _) => Ok(StartAt::After(saved)),
            (None, Some(start)) => self.origin.start(start).await,
            (None, None) => Err(self.without_start("no starting point is given")),
        }
    }
}
