//! Reasons for sending a record to the dead-letter topic.

use std::collections::BTreeSet;

use crate::replay::plan::PlanFault;

/// The reason a record, or an entry of it, is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The record, or an entry in it, cannot be read.
    Undecodable,
    /// A command that is unknown, that cannot be replayed, or that the target refuses.
    Command,
    /// A write of a document that the replay cannot send, or that the target refuses.
    Write,
    /// An update that matched no document.
    Unmatched,
    /// An update that is not idempotent.
    Unrepeatable,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::Undecodable,
        Self::Command,
        Self::Write,
        Self::Unmatched,
        Self::Unrepeatable,
    ];

    /// Returns the name of the reason in headers, flags and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Command => "command",
            Self::Write => "write",
            Self::Unmatched => "unmatched",
            Self::Unrepeatable => "unrepeatable",
        }
    }
}

impl From<&PlanFault> for Reason {
    fn from(fault: &PlanFault) -> Self {
        match fault {
            PlanFault::Command(_) | PlanFault::Unordered(_) | PlanFault::Refused(_) => {
                Self::Command
            }
            PlanFault::Operator(_) => Self::Unrepeatable,
            PlanFault::TimeSeries => Self::Write,
            PlanFault::Diff(_) | PlanFault::Entry(_) | PlanFault::Malformed(_) => Self::Undecodable,
        }
    }
}

/// The reasons for which records go to the dead-letter topic instead of stopping the program.
pub type Reasons = BTreeSet<Reason>;

/// Parses the values of `--dead-letter`. `known` lists the reasons that the subcommand accepts.
///
/// # Errors
/// Returns a message for the operator if a value is not accepted.
pub fn parse_reasons(words: &[String], known: &[Reason]) -> Result<Reasons, String> {
    let find = |word: &String| {
        let found = known.iter().find(|reason| reason.word() == word.trim());
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(|reason| reason.word()).collect();
            format!("accepts {}, not {word:?}", known.join(", "))
        })
    };
    words.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_parsed_and_others_are_refused() {
        let known = [Reason::Undecodable, Reason::Write];
        let words = ["write".to_owned(), " undecodable".to_owned()];
        let all: Reasons = known.into_iter().collect();
        assert_eq!(parse_reasons(&words, &known), Ok(all));
        assert_eq!(parse_reasons(&[], &known), Ok(Reasons::new()));
        let error = parse_reasons(&["command".to_owned()], &known).unwrap_err();
        assert_eq!(error, "accepts undecodable, write, not \"command\"");
    }
}
