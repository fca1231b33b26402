//! The reasons why a requested full sync is rejected. The stream continues without it.

use oplog_relay_runtime::exit::ExitCode;

/// The reason why a requested full sync is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestRejected {
    /// A pattern of its namespaces or its filter cannot be read.
    #[error("{reason}")]
    Unreadable {
        /// The reason.
        reason: String,
    },
    /// No collection of the source matches.
    #[error(
        "no collection of the source matches both {} and the namespaces of this stream",
        namespaces.join(", ")
    )]
    NoCollection {
        /// The patterns of the request.
        namespaces: Vec<String>,
    },
    /// The source rejects the filter.
    #[error("the source rejects the filter for {ns}: {reason}")]
    FilterRejected {
        /// Namespace of the collection.
        ns: String,
        /// The error of the source.
        reason: String,
    },
}

impl RequestRejected {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
