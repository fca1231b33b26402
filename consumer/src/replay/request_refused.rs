//! A request that the target refuses permanently.

use oplog_relay_runtime::exit::ExitCode;

/// A request, neither a write nor a command of an entry, that the target refuses permanently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{request} failed: {reason}")]
pub struct RequestRefused {
    /// The request, for example "reading the catalog".
    pub request: String,
    /// The error text of the driver.
    pub reason: String,
}

impl RequestRefused {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::StoppedByPolicy
    }
}
