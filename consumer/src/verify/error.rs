//! The reasons why a comparison cannot start or continue.

use oplog_relay_runtime::exit::ExitCode;

/// The reason why a comparison cannot start or continue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is not known which source of the prefix is compared.
    #[error(
        "--topic-prefix {prefix}: cannot determine which of its sources --source is; set --source-name \
         (the sources are: {})",
        sources.join(", ")
    )]
    SourceUnknown {
        /// The prefix.
        prefix: String,
        /// The sources of the prefix.
        sources: Vec<String>,
    },
    /// The comparison of a report that is to be resumed is finished.
    #[error("--resume: the comparison of {file} is finished; omit --resume to start again")]
    Finished {
        /// The path of the report.
        file: String,
    },
    /// The report that is to be resumed is of another comparison.
    #[error("--resume: {file} is the report of another comparison ({question})")]
    OtherComparison {
        /// The path of the report.
        file: String,
        /// What was compared.
        question: String,
    },
}

impl VerifyError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
