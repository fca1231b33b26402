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
use crate::session::error::NoCopy;
use crate::session::error::SessionError;
use crate::source::StartAt;
use crate::source::full_sync::{Attached, FullSync, Options, check_interval};

/// Placeholder position of a stream that has read nothing yet.
const NOWHERE: Position = Position {
    ts: Timestamp::new(0, 0),
    term: -1,
    ord: 0,
};

/// The start of a stream.
#[derive(Debug)]
pub(super) struct StreamStart {
    /// The start of the tail.
    pub(super) start: StartAt,
    /// The full sync to run beside it.
    pub(super) sync: Option<FullSync>,
}

impl Supervisor {
    /// Determines how the stream starts.
    pub(super) async fn plan(
        &self,
        checkpoint: &Checkpoint,
        cluster: &FoundCluster,
    ) -> Result<StreamStart, ProducerError> {
        let is_new_copy = self.starts_with_a_copy(checkpoint);
        let Some(client) = self.origin.client_of_copies() else {
            return Ok(StreamStart {
                start: self.start(checkpoint.position).await?,
                sync: None,
            });
        };
        let state = state_topic(&self.config.stream.topic_prefix, self.origin.name());
        let requests = Some(Requests::new(cluster.reader.clone(), state));
        let config = &self.config;
        let caught_up = config.until_caught_up;
        let mut options = Options {
            readers: config.full_sync.readers,
            rate: config.full_sync.rate,
            ends: config.full_sync.sync == Some(Sync::Full),
            check_every: check_interval(self.sources),
        };
        let filter = &config.stream.filter;
        let attached = Attached {
            requests,
            metrics: Arc::clone(&self.metrics),
        };
        if is_new_copy {
            options.ends |= caught_up;
            let sync = FullSync::plan(client, filter, options, attached).await?;
            return Ok(StreamStart {
                start: StartAt::After(sync.position),
                sync: Some(sync),
            });
        }
        // A source with an interrupted copy has caught up only when the copy is complete.
        options.ends |= caught_up && !checkpoint.state.copies.is_empty();
        let start = self.start(checkpoint.position).await?;
        let position = match start {
            StartAt::After(position) => position,
            StartAt::Oldest | StartAt::Now | StartAt::At(_) => NOWHERE,
        };
        let state = &checkpoint.state;
        let sync = FullSync::resume(client, position, state, filter, options, attached).await?;
        Ok(StreamStart {
            start,
            sync: Some(sync),
        })
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
            return Err(self.without_start(NoCopy::ChangeStream));
        }
        match self.origin.client_of_copies() {
            None => Err(self.without_start(NoCopy::Dump)),
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
            Some(Sync::Tail) => Err(self.without_start(NoCopy::Tail)),
            None => match topics.keys().find(|topic| is_data_topic(prefix, topic)) {
                None => Ok(()),
                Some(topic) => {
                    let topic = topic.clone();
                    Err(self.without_start(NoCopy::TopicsExist { topic }))
                }
            },
        }
    }

    /// Returns the error for a stream without a starting point.
    fn without_start(&self, reason: NoCopy) -> ProducerError {
        let no_start = SessionError::NoStart {
            source_name: self.origin.name().to_owned(),
            prefix: self.config.stream.topic_prefix.clone(),
            reason,
        };
        no_start.into()
    }

    async fn start(&self, saved: Option<Position>) -> Result<StartAt, ProducerError> {
        match (saved, self.config.stream.start) {
            (Some(saved), _) => Ok(StartAt::After(saved)),
            (None, Some(start)) => self.origin.start(start).await,
            (None, None) => Err(self.without_start(NoCopy::NotGiven)),
        }
    }
}
