//! The reasons why a command cannot run at its barrier.

use std::fmt;

use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::exit::ExitCode;

use crate::record_position::RecordPosition;
use crate::replay::plan::PlanFault;
use crate::topic_partition::TopicPartition;

/// The remedy for partitions that do not begin at one point in time.
const REMEDY: &str = "Stop all members and reset all topics of the prefix to one time \
    (`kafka-consumer-groups --reset-offsets --to-datetime`), or accept it with --allow-partial-reset";

/// The reason why a command cannot run at its barrier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// A topic that the barrier waits for does not exist.
    #[error(
        "{wait}, which does not exist: it was deleted, and with it entries that this group has not \
         applied. Start again from topics that are complete, or pass over the topic with \
         --allow-partial-reset if its entries are not needed"
    )]
    TopicDeleted {
        /// The command and the partition that it waits for.
        wait: Wait,
    },
    /// A partition is past its barrier although the command did not run.
    #[error(
        "the command {command} of topic {leader_topic} did not run on this target, but partition \
         {} of {} is committed at {committed}, past its barrier: the partitions of this group do not \
         begin at one point in time, as after a reset of some of them. Running the command now would \
         act on writes that came after it. {REMEDY}",
        beyond.partition, beyond.topic
    )]
    NoCut {
        /// The command.
        command: EntryId,
        /// The topic of the command.
        leader_topic: String,
        /// The partition that is past its barrier.
        beyond: TopicPartition,
        /// The offset at which it is committed.
        committed: i64,
    },
    /// The partition of the command is past the command although the command did not run.
    #[error(
        "the command {command} of topic {leader_topic} did not run on this target, but partition 0 of \
         that topic is committed past it: the partitions of this group do not begin at one point in \
         time (as after a reset of some of them), or the target's catalog was removed, or the \
         namespaces of the group were changed when that partition was already past the command. \
         Continuing would skip the command. {REMEDY}"
    )]
    Skipped {
        /// The command.
        command: EntryId,
        /// The topic of the command.
        leader_topic: String,
    },
    /// A rename moves in a collection whose documents the target does not have.
    #[error(
        "{position}: {from} was renamed to {to}, but only the new name is replayed: the target does \
         not have its documents, and a full sync of {to} would come after this command. Include both names \
         and replay from the beginning with a new --group into an empty target; or exclude {to} too, with \
         --exclude-namespaces and --change-subscription, and this group continues without the collection"
    )]
    EntersSubscription {
        /// The position of the command.
        position: RecordPosition,
        /// Namespace before the rename.
        from: String,
        /// Namespace after the rename.
        to: String,
    },
    /// The entry of the command is damaged.
    #[error("{position}: damaged command entry {command}: {source}")]
    Damaged {
        /// The position of the command.
        position: RecordPosition,
        /// The command.
        command: EntryId,
        /// The damage.
        source: PlanFault,
    },
}

impl BarrierError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::TopicDeleted { .. } | Self::NoCut { .. } | Self::Skipped { .. } => {
                ExitCode::OffsetsLost
            }
            Self::EntersSubscription { .. } | Self::Damaged { .. } => ExitCode::StoppedByPolicy,
        }
    }
}

/// A command that waits for a partition, as the beginning of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The command.
    pub command: EntryId,
    /// The topic of the command.
    pub leader_topic: String,
    /// The partition that it waits for.
    pub partition: TopicPartition,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicPartition { topic, partition } = &self.partition;
        write!(
            f,
            "the command {} of topic {} has to wait for partition {partition} of topic {topic}",
            self.command, self.leader_topic
        )
    }
}
