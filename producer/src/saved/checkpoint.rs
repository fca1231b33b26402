//! The saved data of a source in Kafka: the position, and the state with routes and claims.

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::Position;
use oplog_relay_core::resume::ResumePoint;
use oplog_relay_core::state::{History, PositionRecord, SourceRecord, State};
use oplog_relay_core::topic::{position_topic, state_topic};
use oplog_relay_runtime::kafka::{Follower, Reader, Stored};

use crate::error::ProducerError;
use crate::position_lost::PositionLost;
use crate::saved::error::ReplicaSet;
use crate::saved::error::SavedError;

/// The place of a record in the position topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// The offset.
    pub offset: i64,
    /// The time at which the record was written, in milliseconds since 1970, if the record has one.
    pub written_ms: Option<i64>,
}

/// The saved data of a source, as read from its two internal topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last committed position.
    pub position: Option<Position>,
    /// The version of the routing table at the position.
    pub routing: Option<u32>,
    /// The history that transactions after the position may need.
    pub history: History,
    /// Number of entries that a full sync has sent at the position.
    pub reads: u32,
    /// The point at which a change stream continues after the position.
    pub resume: Option<ResumePoint>,
    /// The place of the record of the position.
    pub place: Option<RecordPlace>,
    /// True if the state topic contained the source's record when the position was committed.
    pub had_state: bool,
    /// The content of the state topic, such as the routing table and the source's record.
    pub state: State,
}

impl Checkpoint {
    /// Reads both topics. The result is final only after the transactional producer was opened: until
    /// then an older instance may still be committing.
    ///
    /// # Errors
    /// [`ProducerError::KafkaFailure`], or a [`SavedError`] for records that cannot be read.
    pub async fn read(reader: &Reader, prefix: &str, source: &str) -> Result<Self, ProducerError> {
        // The state is read first: a commit of another instance between the two reads then appears as a
        // position without its state, not as a state that has lost its position.
        let state = read_state(reader, &state_topic(prefix, source)).await?;
        let last = Self::read_without_state(reader, prefix, source).await?;
        Ok(Self { state, ..last })
    }

    /// Reads the position topic only. The state of the result is empty.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::read`].
    pub async fn read_without_state(
        reader: &Reader,
        prefix: &str,
        source: &str,
    ) -> Result<Self, ProducerError> {
        let last = reader
            .read_last_committed(&position_topic(prefix, source))
            .await?;
        let last = last.map(|stored| read_position(&stored)).transpose()?;
        Ok(last.unwrap_or_default())
    }

    /// Returns the number of times that an operator has set the position back.
    #[must_use]
    pub fn moves(&self) -> u32 {
        let source = self.state.source.as_ref();
        source.map_or(0, |source| source.moves)
    }

    /// Returns a position that a process has committed; `None` if an operator has set the position back
    /// since, so that the saved position may be an earlier one. `moves` is the number of such changes
    /// that the process knew then.
    #[must_use]
    pub fn expected(&self, committed: Option<Position>, moves: u32) -> Option<Position> {
        committed.filter(|_| self.moves() <= moves)
    }

    /// Checks that the committed position and state still exist. `committed` is the last position
    /// that this process knows to be committed.
    ///
    /// # Errors
    /// [`PositionLost`].
    pub fn check_kept(
        &self,
        prefix: &str,
        source: &str,
        committed: Option<Position>,
    ) -> Result<(), PositionLost> {
        let position_topic = position_topic(prefix, source);
        let state_topic = state_topic(prefix, source);
        let Some(saved) = self.position else {
            if committed.is_none() && !self.state.has_been_used() {
                return Ok(());
            }
            let last = committed.map_or_else(
                || "unknown to this process".to_owned(),
                |committed| committed.to_string(),
            );
            return Err(PositionLost::Forgotten {
                position_topic,
                state_topic,
                source_name: source.to_owned(),
                last,
            });
        };
        if let Some(committed) = committed.filter(|committed| committed.ts > saved.ts) {
            return Err(PositionLost::WentBack {
                position_topic,
                saved,
                committed,
            });
        }
        if self.had_state && self.state.source.is_none() {
            return Err(PositionLost::StateForgotten {
                position_topic,
                state_topic,
                saved,
            });
        }
        Ok(())
    }

    /// Checks that the filter does not select namespaces that the saved filter excludes.
    ///
    /// # Errors
    /// [`SavedError::OtherNamespaces`] names both filters; [`SavedError::SavedNamespaces`] if the
    /// saved filter cannot be read.
    pub fn check_namespaces(&self, filter: &NamespaceFilter) -> Result<(), SavedError> {
        let saved = self.state.source.as_ref();
        let Some(saved) = saved.and_then(|source| source.namespaces.as_ref()) else {
            return Ok(());
        };
        let patterns = |patterns: &'_ [String]| patterns.to_vec();
        let (include, exclude) = (patterns(&saved.include), patterns(&saved.exclude));
        let include = include.iter().map(String::as_str);
        let exclude = exclude.iter().map(String::as_str);
        let saved = NamespaceFilter::new(include, exclude)
            .map_err(|reason| SavedError::SavedNamespaces { reason })?;
        if filter.is_within(&saved) {
            return Ok(());
        }
        Err(SavedError::OtherNamespaces {
            saved,
            filter: filter.clone(),
        })
    }

    /// Checks that the source is the one that was saved.
    ///
    /// # Errors
    /// [`SavedError::OtherReplicaSet`] and [`SavedError::OtherMode`] name both.
    pub fn check_source(&self, source: &SourceRecord) -> Result<(), SavedError> {
        let Some(saved) = &self.state.source else {
            return Ok(());
        };
        if saved.mode != source.mode {
            return Err(SavedError::OtherMode {
                name: source.name.clone(),
                saved: saved.mode,
                found: source.mode,
            });
        }
        let differ =
            |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        if differ(&saved.set_name, &source.set_name)
            || differ(&saved.replica_set_id, &source.replica_set_id)
        {
            return Err(SavedError::OtherReplicaSet {
                name: source.name.clone(),
                saved: ReplicaSet::of(saved),
                found: ReplicaSet::of(source),
            });
        }
        Ok(())
    }
}

/// The state topic of a source, in which a full sync may be requested while the stream runs.
#[derive(Debug, Clone)]
pub struct Requests {
    follower: Follower,
    state: State,
}

impl Requests {
    /// Creates a reader that has read nothing yet.
    #[must_use]
    pub fn new(reader: Reader, topic: String) -> Self {
        Self {
            follower: Follower::new(reader, topic),
            state: State::default(),
        }
    }

    /// Returns the state that was last read, including requests.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Reads the new records.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::read`].
    pub async fn read(&mut self) -> Result<(), ProducerError> {
        let newer = self.follower.read().await?;
        if newer.is_whole {
            self.state = State::default();
        }
        apply(&mut self.state, self.follower.topic(), &newer.records)?;
        Ok(())
    }
}

/// Reads a position record. The state of the returned checkpoint is empty.
fn read_position(stored: &Stored) -> Result<Checkpoint, SavedError> {
    let offset = stored.offset;
    let value = stored.value.as_deref().unwrap_or_default();
    let record: PositionRecord = serde_json::from_slice(value)
        .map_err(|source| SavedError::PositionRecord { offset, source })?;
    let read = || {
        Ok(Checkpoint {
            position: Some(record.position()?),
            routing: Some(record.routing),
            history: record.history()?,
            reads: record.reads,
            resume: record.resume.clone(),
            place: Some(RecordPlace {
                offset,
                written_ms: stored.timestamp_ms,
            }),
            had_state: record.state,
            state: State::default(),
        })
    };
    read().map_err(|source| SavedError::Position { offset, source })
}

/// Reads a state topic.
///
/// # Errors
/// The errors of [`Checkpoint::read`].
pub(crate) async fn read_state(reader: &Reader, topic: &str) -> Result<State, ProducerError> {
    let mut state = State::default();
    apply(&mut state, topic, &reader.read_all(topic).await?)?;
    Ok(state)
}

/// Applies records of a state topic to the state.
pub(crate) fn apply(state: &mut State, topic: &str, records: &[Stored]) -> Result<(), SavedError> {
    for stored in records {
        let key = String::from_utf8_lossy(stored.key.as_deref().unwrap_or_default());
        state
            .apply(&key, stored.value.as_deref())
            .map_err(|source| SavedError::State {
                topic: topic.to_owned(),
                offset: stored.offset,
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
