//! The reasons why the stream cannot continue from the checkpoint.

use oplog_relay_core::position::{Position, Timestamp};

/// The remedies for a lost position.
const REMEDIES: &str = "Entries may be missing in Kafka. To recover: restore the missing oplog (a \
    dump of it can be sent as a source with the same --source-name), or start again under another \
    --topic-prefix with a new copy of the data; a larger oplog \
    (replSetResizeOplog, oplogMinRetentionHours) prevents this in the future";

/// The reason why the stream cannot continue from the checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PositionLost {
    /// The oplog starts after the checkpoint, or after the requested start.
    #[error(
        "position lost: the stream has to continue at {checkpoint}, but the oldest entry of the \
         source is {oldest}, {gap} later. {REMEDIES}"
    )]
    RolledOver {
        /// The position that was saved or requested.
        checkpoint: Position,
        /// Time of the oldest entry of the oplog.
        oldest: Timestamp,
        /// The time between them.
        gap: Gap,
    },
    /// The oplog spans the checkpoint, but the entry at its position is a different one or missing.
    #[error(
        "position lost: the oplog of the source does not contain the entry at the checkpoint \
         {checkpoint}; it contains {found} instead (oldest entry: {oldest}). The entry was rolled \
         back, or this is a different or a restored replica set. {range}. {REMEDIES}"
    )]
    RolledBack {
        /// The saved position.
        checkpoint: Position,
        /// Position of the entry that was found at the checkpoint or after it.
        found: Position,
        /// Time of the oldest entry of the oplog.
        oldest: Timestamp,
        /// The stretch that may have been rolled back.
        range: RolledBackRange,
    },
    /// A change stream does not continue from the checkpoint.
    #[error(
        "position lost: the change stream cannot continue after {position}: {reason}. Events may be \
         missing in Kafka. To recover: start again under another --topic-prefix with a new copy of the \
         data; a larger oplog on every member and shard (replSetResizeOplog, oplogMinRetentionHours) \
         prevents this in the future"
    )]
    StreamEnded {
        /// The position that was reached.
        position: Position,
        /// The meaning of the server's error.
        reason: String,
    },
    /// The commit of a transaction is in the oplog, but an earlier entry of it is not.
    #[error(
        "position lost: the transaction committed at {commit} includes an entry at {part} that is \
         no longer in the oplog of the source, so the transaction cannot be sent completely. \
         {REMEDIES}"
    )]
    ChainGone {
        /// Time of the commit.
        commit: Timestamp,
        /// Time of the missing entry.
        part: Timestamp,
    },
    /// The state topic or this process shows that the source has been running, but no position is
    /// saved.
    #[error(
        "position lost: topic {position_topic} holds no position, although this source has been \
         running (according to {state_topic}, or because this process has committed; last known \
         position: {last}). The topic was deleted, emptied or created again. --start does not apply: \
         it would skip entries, or send them twice. To recover: write the last position back, if it \
         is known (from /status, the log, or a backup of the topic), as a record of \
         {position_topic} with the key {source_name} and the value \
         {{\"v\":1,\"ts\":\"<seconds>:<increment>\",\"term\":<term>,\"ord\":0,\"routing\":1,\"state\":true}}; \
         or start again under another --topic-prefix with a new copy of the data; or, if missing or \
         repeated entries are acceptable, delete {state_topic} as well and give --start"
    )]
    Forgotten {
        /// Name of the position topic.
        position_topic: String,
        /// Name of the state topic.
        state_topic: String,
        /// Name of the source.
        source_name: String,
        /// The last position that this process knows.
        last: String,
    },
    /// The saved position is older than one that this process has committed.
    #[error(
        "position lost: topic {position_topic} holds {saved}, but this process has committed \
         {committed}: records that Kafka had acknowledged are gone (the topic was created again or \
         restored, or an out-of-sync replica was elected leader). Continuing would send entries \
         twice. Check the data topics (oplog-consumer audit); a restart accepts the position that \
         the topic holds now"
    )]
    WentBack {
        /// Name of the position topic.
        position_topic: String,
        /// The saved position.
        saved: Position,
        /// The committed position.
        committed: Position,
    },
    /// A position is saved, but the records of the state topic are lost.
    #[error(
        "position lost: topic {state_topic} no longer contains the identity, the topics and the \
         routes of the source, although {position_topic} holds {saved}. The topic was deleted, \
         emptied or created again; later entries could overtake earlier ones. To recover: \
         restore {state_topic} from a backup, or start again under another --topic-prefix with a \
         new copy of the data"
    )]
    StateForgotten {
        /// Name of the position topic.
        position_topic: String,
        /// Name of the state topic.
        state_topic: String,
        /// The saved position.
        saved: Position,
    },
    /// An entry of a transaction has been missing for longer than replication lag can explain, although
    /// the oplog starts before it.
    #[error(
        "position lost: entry {part} of a transaction is missing on every member that was queried, \
         although their oplogs start before it: the oplog has a gap there, or all members that the \
         connection string selects lag far behind (if so, read from the primary). {REMEDIES}"
    )]
    Hole {
        /// Time of the missing entry.
        part: Timestamp,
    },
}

/// The stretch of a source that was sent but may no longer be part of the source's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBackRange {
    /// The last entry that both histories can share; `None` if the source does not have one.
    pub shared: Option<Position>,
    /// The checkpoint.
    pub checkpoint: Position,
}

impl RolledBackRange {
    /// Creates the range after the last shared entry up to the checkpoint.
    #[must_use]
    pub const fn new(shared: Option<Position>, checkpoint: Position) -> Self {
        Self { shared, checkpoint }
    }
}

impl std::fmt::Display for RolledBackRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checkpoint = self.checkpoint;
        match self.shared {
            Some(shared) => write!(
                f,
                "The last entry that both histories can share is {shared}, {} before the checkpoint: \
                 entries that were sent after {} up to {} may not be in the source's history, while they \
                 are in Kafka and on the targets (compare with oplog-consumer verify --repair)",
                Gap::between(shared.ts, checkpoint.ts),
                shared.ts,
                checkpoint.ts
            ),
            None => write!(
                f,
                "The source has no earlier entry of term {} or before, so it is unknown how much of \
                 what was sent up to {} is not in its history",
                checkpoint.term, checkpoint.ts
            ),
        }
    }
}

/// A duration in whole seconds, printed in readable units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Length in seconds.
    pub seconds: u32,
}

impl Gap {
    /// Returns the time from one timestamp to a later one.
    #[must_use]
    pub const fn between(earlier: Timestamp, later: Timestamp) -> Self {
        Self {
            seconds: later.seconds.saturating_sub(earlier.seconds),
        }
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hours, minutes) = (self.seconds / 3600, self.seconds / 60 % 60);
        match (hours, minutes) {
            (0, 0) => write!(f, "{} s", self.seconds),
            (0, minutes) => write!(f, "{minutes} min {} s", self.seconds % 60),
            (hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}
