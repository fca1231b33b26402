//! The reasons why an entry cannot be applied.

use oplog_relay_core::diff::DiffError;
use oplog_relay_core::document::Malformed;
use oplog_relay_core::entry::EntryError;
use oplog_relay_core::position::{EntryId, Timestamp};

use crate::replay::commands::failure::CommandFailure;

/// An entry that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} of {ns:?} cannot be replayed")]
pub struct PlanError {
    /// The entry's index in the batch.
    pub index: usize,
    /// The entry's identity.
    pub id: EntryId,
    /// The entry's namespace.
    pub ns: String,
    /// The reason.
    #[source]
    pub fault: PlanFault,
}

/// The reason why an entry cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A `$v: 2` update in a form that no server writes.
    #[error("its diff is damaged")]
    Diff(#[from] DiffError),
    /// A command that is unknown, or that cannot be replayed.
    #[error(
        "it is the command {0:?}, which a replay cannot run: apply its effect to the target \
         manually, then continue with --dead-letter command, which stores the command and skips it"
    )]
    Command(String),
    /// A command in a topic of another program whose order among the writes is unknown.
    #[error(
        "the order of this command among the writes of its collections is unknown: {0}. If its effect is \
         still needed, apply it to the target manually; then continue with --dead-letter command, which \
         stores the command and skips it"
    )]
    Unordered(UnknownOrder),
    /// A command that the target refuses.
    #[error("{0}")]
    Refused(Box<CommandFailure>),
    /// An update operator other than those that servers generate for the oplog. It can only come
    /// from a user's own `applyOps`, which is logged as it was sent.
    #[error(
        "its update has the operator {0:?} (from a user's own applyOps), whose result may differ \
         when it is applied twice: --unrepeatable apply sends it unchanged, --unrepeatable \
         dead-letter stores it and continues"
    )]
    Operator(String),
    /// A bucket of a time series without a buckets collection (MongoDB 9.0). If it were sent
    /// unchanged, the target would store it as a measurement.
    #[error(
        "it writes a bucket of a time series in the layout of MongoDB 9, which a replay cannot \
         write: exclude the collection"
    )]
    TimeSeries,
    /// A field of the entry is missing or has an unexpected form.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry's BSON is damaged.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The reason why the order of a command among the writes of its collections is unknown, as a clause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOrder {
    /// The record has no time.
    #[error("its record has no time; the connector's pipeline may have removed it (clusterTime)")]
    NoTime,
    /// The topic has several partitions.
    #[error("topic {topic} has {partitions} partitions, and its writes may be in any of them")]
    SeveralPartitions {
        /// The topic.
        topic: String,
        /// The number of its partitions.
        partitions: i32,
    },
    /// The command concerns several collections, and several partitions are read.
    #[error(
        "it concerns {}, and their writes may be in different partitions ({topics} topics are \
         read)",
        namespaces.join(" and ")
    )]
    SeveralTopics {
        /// The collections.
        namespaces: Vec<String>,
        /// The number of topics that are read.
        topics: usize,
    },
    /// MongoShake may write a collection to several topics.
    #[error(
        "{topics} topics are read, and MongoShake does not bind a collection to a topic: other topics \
         may have earlier or later writes"
    )]
    Mongoshake {
        /// The number of topics that are read.
        topics: usize,
    },
    /// Later entries come before the command.
    #[error(
        "later entries, up to {newest}, come before it in the partition (MongoShake with more than one \
         incr_sync.worker does not keep the order)"
    )]
    AfterLaterEntries {
        /// Time of the latest of them.
        newest: Timestamp,
    },
}
