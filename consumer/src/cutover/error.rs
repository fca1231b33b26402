//! The reasons why a cutover is not complete.

use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a cutover is not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutoverError {
    /// Some changes could not be made.
    #[error(
        "{}. All other changes were made; resolve this, then run cutover again",
        joined(unfinished)
    )]
    Unfinished {
        /// The changes that could not be made.
        unfinished: Vec<Unfinished>,
    },
    /// The group has not run on this target.
    #[error(
        "--group: no command of group {group:?} ran on this target. The catalog has the groups {}",
        others.join(", ")
    )]
    OtherGroups {
        /// The group.
        group: String,
        /// The groups of the catalog.
        others: Vec<String>,
    },
    /// The definition of an index cannot be stored before the index is dropped.
    #[error("the definition of {name} cannot be stored before the index is dropped: {reason}")]
    Definition {
        /// The collection and the index.
        name: String,
        /// The reason.
        reason: String,
    },
}

impl CutoverError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::OtherGroups { .. } => ExitCode::Usage,
            Self::Unfinished { .. } | Self::Definition { .. } => ExitCode::StoppedByPolicy,
        }
    }
}

/// A change that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// The target refuses to set an expiry.
    #[error(
        "the target refuses expireAfterSeconds {seconds} for {name}: {reason}{}",
        right(database.as_deref())
    )]
    Expiry {
        /// The expiry in seconds.
        seconds: i64,
        /// The collection, and the index if there is one.
        name: String,
        /// The target's error.
        reason: String,
        /// The database on which the target's user needs dbAdmin, if that is the cause.
        database: Option<String>,
    },
    /// The target refuses to build an index again.
    #[error(
        "{name} is missing on the target, which refuses to build it again: {reason}. Its definition is in \
         {CATALOG_DB}.{notes}; fix the cause of this error, then run cutover again"
    )]
    IndexMissing {
        /// The collection and the index.
        name: String,
        /// The target's error.
        reason: String,
        /// The collection that has the definition.
        notes: &'static str,
    },
    /// A replay has suspended an index.
    #[error(
        "{name} does not exist on the target: the replay dropped it while it applied a part of the oplog \
         again. Run replay --until-caught-up, which builds it"
    )]
    IndexSuspended {
        /// The collection and the index.
        name: String,
    },
}

fn joined(unfinished: &[Unfinished]) -> String {
    let all: Vec<String> = unfinished.iter().map(Unfinished::to_string).collect();
    all.join("; ")
}

fn right(database: Option<&str>) -> String {
    database.map_or_else(String::new, |database| {
        format!("; the target's user needs dbAdmin on {database}")
    })
}
