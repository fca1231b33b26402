//! The table that `oplog-consumer replay --help-errors` prints.

use oplog_relay_runtime::mongo::TRANSIENT_CODES;

use super::{Directive, RULES, Rule, UNKNOWN, rule_for};

/// Maximum number of columns of a line.
const WIDTH: usize = 100;
/// Number of columns before the reason.
const MARGIN: usize = 17;

const ALL: [Directive; 7] = [
    Directive::Retry,
    Directive::Replace,
    Directive::Hold,
    Directive::Rewrite,
    Directive::Skip,
    Directive::Refuse,
    Directive::Stop,
];

impl Directive {
    /// Returns the name of the directive.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Replace => "replace",
            Self::Hold => "hold",
            Self::Rewrite => "rewrite",
            Self::Skip => "skip",
            Self::Refuse => "refuse",
            Self::Stop => "stop",
        }
    }

    /// Returns a description of the directive.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Retry => "the write is sent again after a back-off, until it succeeds",
            Self::Replace => {
                "the document of the insert replaces the one with the same _id; if the key is in \
                 another unique index, the document is held or refused"
            }
            Self::Hold => {
                "the document is held, and its later entries are applied to it, until the index \
                 accepts it; if it is still held at a command or at the end, it is refused"
            }
            Self::Rewrite => {
                "the document is read, the consumer applies the update to it as the source's \
                 server did, and the document is replaced"
            }
            Self::Skip => {
                "an update or a delete has nothing left to do; a write that creates its document is \
                 sent again"
            }
            Self::Refuse => {
                "the replay ends with exit code 6, or, with --dead-letter write, the entry goes to \
                 the dead-letter topic and the replay continues"
            }
            Self::Stop => {
                "the replay ends with exit code 6; the committed offset stays before the write"
            }
        }
    }
}

/// Returns the text of the table: each error code of a target with its directive and reason, by
/// code.
#[must_use]
pub fn table() -> String {
    let mut out = String::from("What a replay does when the target returns an error:\n\n");
    for directive in ALL {
        push(&mut out, "", directive, directive.meaning());
    }
    out.push_str("\n  code  action   reason\n");
    let transient = TRANSIENT_CODES.iter().map(|known| rule_for(known.code));
    let mut rules: Vec<Rule> = RULES.iter().copied().chain(transient).collect();
    rules.sort_by_key(|rule| rule.code);
    for rule in rules {
        push(
            &mut out,
            &rule.code.to_string(),
            rule.directive,
            rule.reason,
        );
    }
    push(&mut out, "other", Directive::Stop, UNKNOWN);
    out
}

fn push(out: &mut String, code: &str, directive: Directive, text: &str) {
    let mut line = format!("{code:>6}  {:<9}", directive.word());
    let mut words = 0;
    for word in text.split(' ') {
        if words > 0 && line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(MARGIN);
            words = 0;
        }
        if words > 0 {
            line.push(' ');
        }
        line.push_str(word);
        words += 1;
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_frozen() {
        assert_eq!(table(), include_str!("table.txt"));
    }

    #[test]
    fn lines_are_wrapped_under_their_column() {
        let table = table();
        let lines = table.lines().skip(1).filter(|line| !line.is_empty());
        for line in lines {
            let gap = line.get(MARGIN - 2..MARGIN);
            assert!(line.len() <= WIDTH && gap == Some("  "), "{line}");
        }
    }
}
