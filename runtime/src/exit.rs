//! Exit codes, by which a program reports its outcome to its supervisor.

use std::fmt;

/// The outcome of a program. The numbers are a contract: supervisors and scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// The work is complete.
    Done,
    /// A failure that a restart may fix.
    Failed,
    /// Wrong usage or configuration. A restart does not help.
    Usage,
    /// The saved position is no longer in the source's oplog, or was rolled back.
    SourcePositionLost,
    /// Committed offsets are no longer in the topic, or are not a consistent cut.
    OffsetsLost,
    /// Another instance has taken over.
    Fenced,
    /// A policy of the operator stopped the program.
    StoppedByPolicy,
    /// Verification found differences, or an audit found faults.
    VerifyDifferent,
    /// The result of a verification or an audit is inconclusive.
    VerifyUnknown,
    /// SIGINT ended the program.
    Interrupted,
    /// SIGTERM ended the program.
    Terminated,
}

impl ExitCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::SourcePositionLost,
        Self::OffsetsLost,
        Self::Fenced,
        Self::StoppedByPolicy,
        Self::VerifyDifferent,
        Self::VerifyUnknown,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// Returns the exit code of the process.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::SourcePositionLost => 3,
            Self::OffsetsLost => 4,
            Self::Fenced => 5,
            Self::StoppedByPolicy => 6,
            Self::VerifyDifferent => 7,
            Self::VerifyUnknown => 8,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Returns the meaning of the code, for help texts and logs.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "wrong usage or configuration",
            Self::SourcePositionLost => "source position lost or rolled back",
            Self::OffsetsLost => "offsets lost or not a consistent cut",
            Self::Fenced => "fenced by another instance",
            Self::StoppedByPolicy => {
                "stopped by policy (undecodable record, unknown command, refused write)"
            }
            Self::VerifyDifferent => "verify: source and target differ; audit: faulty topics",
            Self::VerifyUnknown => "verify or audit: inconclusive result",
            Self::Interrupted => "ended by SIGINT",
            Self::Terminated => "ended by SIGTERM",
        }
    }

    /// Returns the table of codes for `--help`, one code per line.
    #[must_use]
    pub fn table() -> String {
        let mut table = String::from("Exit codes:\n");
        for exit in Self::ALL {
            table.push_str(&format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
        }
        table
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code(), self.meaning())
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(exit: ExitCode) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_frozen() {
        insta::assert_snapshot!(ExitCode::table(), @r"
        Exit codes:
            0  done
            1  failed
            2  wrong usage or configuration
            3  source position lost or rolled back
            4  offsets lost or not a consistent cut
            5  fenced by another instance
            6  stopped by policy (undecodable record, unknown command, refused write)
            7  verify: source and target differ; audit: faulty topics
            8  verify or audit: inconclusive result
          130  ended by SIGINT
          143  ended by SIGTERM
        ");
    }
}
