//! Why an entry cannot be applied.

use oplog_relay_core::diff::DiffError;
use oplog_relay_core::document::Malformed;
use oplog_relay_core::entry::EntryError;
use oplog_relay_core::position::EntryId;

/// An entry that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} of {ns:?} cannot be replayed")]
pub struct PlanError {
    /// Its index in the batch.
    pub index: usize,
    /// Its identity.
    pub id: EntryId,
    /// Its namespace.
    pub ns: String,
    /// Why.
    #[source]
    pub fault: PlanFault,
}

/// Why an entry cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A `$v: 2` update that no server writes.
    #[error("its diff is damaged")]
    Diff(#[from] DiffError),
    /// A command that is unknown, or that no replay can run.
    #[error(
        "it is the command {0:?}, which a replay cannot run: do on the target by hand what it did \
         at the source, then go on with --dead-letter command, which keeps it and passes over it"
    )]
    Command(String),
    /// A command that the target refuses.
    #[error("{0}")]
    Refused(String),
    /// An operator that no server writes into its oplog: a user's own `applyOps` is logged as it
    /// was sent.
    #[error(
        "its update has the operator {0:?}, which may not be the same when it is applied twice (a \
         user's own applyOps): --unrepeatable apply sends it as it is, --unrepeatable dead-letter \
         keeps it and goes on"
    )]
    Operator(String),
    /// A bucket of a time series that has no collection of buckets (server 9.0). Sent as it stands
    /// it would be taken for a measurement.
    #[error(
        "it writes a bucket of a time series in the layout of MongoDB 9, which a replay cannot \
         write: exclude the collection"
    )]
    TimeSeries,
    /// Something is missing in it, or has another form.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// It is damaged.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}
