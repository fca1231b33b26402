//! The reasons why a program cannot start its own parts: metrics, logs, signals and HTTP.

use std::io;

use crate::exit::ExitCode;
use crate::http::HttpError;
use crate::telemetry::TelemetryError;

/// The reason why a program cannot start its own parts.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The metrics cannot be registered.
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The logs cannot be written as configured.
    #[error("--log-level: {0}")]
    LogLevel(#[from] TelemetryError),
    /// The signal handlers cannot be installed.
    #[error("the signal handlers cannot be installed: {0}")]
    Signals(#[source] io::Error),
    /// HTTP cannot be served.
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl StartupError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
