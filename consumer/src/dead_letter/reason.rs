//! Why a record goes to the dead-letter topic.

use std::collections::BTreeSet;

use crate::replay::plan::PlanFault;

/// Why a record, or an entry of it, is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The record, or an entry in it, cannot be read.
    Undecodable,
    /// A command that is unknown, that no replay can run, or that the target refuses.
    Command,
    /// The target refuses the write of a document.
    Write,
    /// An update found no document.
    Unmatched,
    /// An update that is not the same when it is applied twice.
    Unrepeatable,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Undecodable,
        Self::Command,
        Self::Write,
        Self::Unmatched,
        Self::Unrepeatable,
    ];

    /// Its word in headers, flags and metrics.
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
            PlanFault::Command(_) | PlanFault::Refused(_) => Self::Command,
            PlanFault::Operator(_) => Self::Unrepeatable,
            PlanFault::TimeSeries => Self::Write,
            PlanFault::Diff(_) | PlanFault::Entry(_) | PlanFault::Malformed(_) => Self::Undecodable,
        }
    }
}

/// What goes to the dead-letter topic instead of stopping the program.
pub type Reasons = BTreeSet<Reason>;

/// Reads the values of `--dead-letter`, of which a command knows these.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_reasons(words: &[String], known: &[Reason]) -> Result<Reasons, String> {
    let find = |word: &String| {
        let found = known.iter().find(|reason| reason.word() == word.trim());
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(|reason| reason.word()).collect();
            format!("knows {}, not {word:?}", known.join(", "))
        })
    };
    words.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_others_named() {
        let known = [Reason::Undecodable, Reason::Write];
        let words = ["write".to_owned(), " undecodable".to_owned()];
        let all: Reasons = known.into_iter().collect();
        assert_eq!(parse_reasons(&words, &known), Ok(all));
        assert_eq!(parse_reasons(&[], &known), Ok(Reasons::new()));
        let told = parse_reasons(&["command".to_owned()], &known).unwrap_err();
        assert_eq!(told, "knows undecodable, write, not \"command\"");
    }
}
