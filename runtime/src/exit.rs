//! Exit codes: what they say to the supervisor that started a program.

use std::fmt;

/// How a program ended. The numbers are a contract: supervisors and scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// The work is done.
    Done,
    /// A failure that a restart may cure.
    Failed,
    /// Wrong usage or configuration; a restart changes nothing.
    Usage,
    /// The saved position is no longer in the source, or was rolled back.
    SourcePositionLost,
    /// Committed offsets fell off a topic, or are not a consistent cut.
    OffsetsLost,
    /// Another instance took over.
    Fenced,
    /// A policy of the operator said to stop.
    StoppedByPolicy,
    /// Verification found differences.
    VerifyDifferent,
    /// Verification could not tell.
    VerifyUnknown,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
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

    /// The number that the process ends with.
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

    /// What it means, for help texts and logs.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage or configuration",
            Self::SourcePositionLost => "source position lost or rolled back",
            Self::OffsetsLost => "offsets lost or not a consistent cut",
            Self::Fenced => "fenced by another instance",
            Self::StoppedByPolicy => {
                "stopped by policy (undecodable, unknown command, refused write)"
            }
            Self::VerifyDifferent => "verify: different",
            Self::VerifyUnknown => "verify: could not tell",
            Self::Interrupted => "ended by SIGINT",
            Self::Terminated => "ended by SIGTERM",
        }
    }

    /// The whole table, one code a line, for `--help`.
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
            2  usage or configuration
            3  source position lost or rolled back
            4  offsets lost or not a consistent cut
            5  fenced by another instance
            6  stopped by policy (undecodable, unknown command, refused write)
            7  verify: different
            8  verify: could not tell
          130  ended by SIGINT
          143  ended by SIGTERM
        ");
    }
}
