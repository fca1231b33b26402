//! What to do about each error code of a target's server: one table.

mod table;

pub use table::table;

/// What to do about a write that the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// Send it again after a back-off, for ever: it passes with time.
    Retry,
    /// The document is there: replace it.
    Replace,
    /// An index of the target refuses the document as it is now: hold it, apply its later entries to
    /// what is held, and try that again.
    Hold,
    /// The update does not fit the stored document as it is: read it, change it here as a server
    /// changes its documents when it applies its own oplog, and replace it. Never a part of it.
    Rewrite,
    /// Its effect is there already.
    Skip,
    /// The target refuses this one document: stop, or make it a dead letter.
    Refuse,
    /// Nothing here mends it, and all writes are alike: stop and say so.
    Stop,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The server's code.
    pub code: i32,
    /// What to do.
    pub directive: Directive,
    /// Why, and for a stop what the operator can do.
    pub reason: &'static str,
}

const fn rule(code: i32, directive: Directive, reason: &'static str) -> Rule {
    Rule {
        code,
        directive,
        reason,
    }
}

/// Code of a duplicate key.
pub const DUPLICATE_KEY: i32 = 11000;
/// Code of a `create` of a collection that is there.
pub const NAMESPACE_EXISTS: i32 = 48;
/// Code of a missing privilege.
pub const UNAUTHORIZED: i32 = 13;

/// Of a code that is not in the table.
const UNKNOWN: &str = "the target refuses the write";

/// The table. Codes that are not in it are as those of one document.
pub const RULES: &[Rule] = &[
    rule(6, Directive::Retry, "host unreachable"),
    rule(7, Directive::Retry, "host not found"),
    rule(24, Directive::Retry, "lock timeout"),
    rule(26, Directive::Skip, "nothing there to update or delete"),
    rule(46, Directive::Retry, "lock busy"),
    rule(NAMESPACE_EXISTS, Directive::Skip, "the collection is there"),
    rule(50, Directive::Retry, "our own time limit"),
    rule(64, Directive::Retry, "write concern not met in time"),
    rule(89, Directive::Retry, "network timeout"),
    rule(91, Directive::Retry, "server shutting down"),
    rule(
        100,
        Directive::Retry,
        "too few members for the write concern, for now",
    ),
    rule(112, Directive::Retry, "conflict with another writer"),
    rule(
        133,
        Directive::Retry,
        "no member for the read preference, for now",
    ),
    rule(134, Directive::Retry, "majority reads not available yet"),
    rule(
        146,
        Directive::Retry,
        "server out of memory for the command",
    ),
    rule(189, Directive::Retry, "primary stepped down"),
    rule(202, Directive::Retry, "server busy"),
    rule(225, Directive::Retry, "transaction too old"),
    rule(251, Directive::Retry, "no such transaction"),
    rule(262, Directive::Retry, "time limit over"),
    rule(317, Directive::Retry, "connection pool expired"),
    rule(9001, Directive::Retry, "socket error"),
    rule(10107, Directive::Retry, "not the primary"),
    rule(11600, Directive::Retry, "interrupted by shutdown"),
    rule(11602, Directive::Retry, "interrupted by a state change"),
    rule(13435, Directive::Retry, "not the primary"),
    rule(13436, Directive::Retry, "not the primary, or recovering"),
    rule(
        12586,
        Directive::Retry,
        "an index build or another operation in the way",
    ),
    rule(
        12587,
        Directive::Retry,
        "an index build or another operation in the way",
    ),
    rule(
        DUPLICATE_KEY,
        Directive::Replace,
        "a document with that key is there",
    ),
    rule(
        2,
        Directive::Rewrite,
        "a value that the target does not take in an update",
    ),
    rule(
        9,
        Directive::Rewrite,
        "an update that the target does not read",
    ),
    rule(
        14,
        Directive::Rewrite,
        "a value of another type than the update needs",
    ),
    rule(
        28,
        Directive::Rewrite,
        "a path leads through a value that is no document: the stored one is ahead of the update",
    ),
    rule(
        34,
        Directive::Rewrite,
        "too large a gap before an index of an array",
    ),
    rule(40, Directive::Rewrite, "two paths of the update conflict"),
    rule(
        52,
        Directive::Rewrite,
        "a field's name begins with a dollar sign: targets from 5.0 on can hold it",
    ),
    rule(56, Directive::Rewrite, "a field's name is empty"),
    rule(57, Directive::Rewrite, "a field's name has a dot"),
    rule(
        13026,
        Directive::Hold,
        "no pair of coordinates for a 2d index",
    ),
    rule(
        13027,
        Directive::Hold,
        "a point outside the bounds of a 2d index",
    ),
    rule(13067, Directive::Hold, "no coordinates for a 2d index"),
    rule(13068, Directive::Hold, "one coordinate only for a 2d index"),
    rule(16804, Directive::Hold, "no list of points for a 2d index"),
    rule(
        16755,
        Directive::Hold,
        "no valid geometry for a 2dsphere index",
    ),
    rule(
        16756,
        Directive::Hold,
        "no valid geometry for a 2dsphere index",
    ),
    rule(16766, Directive::Hold, "an array under a hashed index"),
    rule(
        16775,
        Directive::Hold,
        "no coordinates for a geoHaystack index",
    ),
    rule(16776, Directive::Hold, "no number for a geoHaystack index"),
    rule(
        16746,
        Directive::Hold,
        "a field named as a position in an indexed array",
    ),
    rule(171, Directive::Hold, "two arrays under one index"),
    rule(201, Directive::Hold, "a key that an index cannot build"),
    rule(
        16675,
        Directive::Hold,
        "an array in the prefix of a text index",
    ),
    rule(16732, Directive::Hold, "too many words for a text index"),
    rule(16733, Directive::Hold, "too many words for a text index"),
    rule(
        17261,
        Directive::Hold,
        "a language that is no string, for a text index",
    ),
    rule(
        17262,
        Directive::Hold,
        "a language that a text index does not know",
    ),
    rule(
        17280,
        Directive::Hold,
        "a key is too large for an index of the target",
    ),
    rule(
        UNAUTHORIZED,
        Directive::Stop,
        "the target's user lacks a privilege: grant it readWrite on the databases replayed",
    ),
    rule(18, Directive::Stop, "the target refuses our credentials"),
    rule(
        66,
        Directive::Refuse,
        "the update would change _id or a shard key that the target holds immutable",
    ),
    rule(
        121,
        Directive::Refuse,
        "a validator of the target refuses the document, and its user may not bypass validation: \
         grant bypassDocumentValidation, or drop the validator",
    ),
    rule(
        166,
        Directive::Stop,
        "the target is a view or refuses this kind of write on the collection",
    ),
    rule(
        10334,
        Directive::Refuse,
        "the document is larger than the target takes",
    ),
    rule(
        17419,
        Directive::Refuse,
        "the updated document is larger than the target takes",
    ),
    rule(
        17420,
        Directive::Refuse,
        "the document to insert is larger than the target takes",
    ),
];

/// What to do about a code, and why.
#[must_use]
pub fn rule_for(code: i32) -> Rule {
    RULES
        .iter()
        .find(|rule| rule.code == code)
        .copied()
        .unwrap_or_else(|| rule(code, Directive::Refuse, UNKNOWN))
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::index::is_refusal;

    use super::*;

    #[test]
    fn every_code_has_one_line_and_a_reason() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(!rule.reason.is_empty());
            assert!(
                RULES[..index].iter().all(|other| other.code != rule.code),
                "{}",
                rule.code
            );
            assert_eq!(rule_for(rule.code), *rule);
        }
    }

    #[test]
    fn refusals_of_indexes_are_held() {
        for code in 0..20_000 {
            let is_held = rule_for(code).directive == Directive::Hold;
            assert_eq!(is_held, is_refusal(code), "{code}");
        }
    }

    #[test]
    fn what_matters_is_frozen() {
        let table = [
            (10107, Directive::Retry),
            (11000, Directive::Replace),
            (48, Directive::Skip),
            (13, Directive::Stop),
            (28, Directive::Rewrite),
            (9, Directive::Rewrite),
            (121, Directive::Refuse),
            (166, Directive::Stop),
            (999_999, Directive::Refuse),
        ];
        for (code, directive) in table {
            assert_eq!(rule_for(code).directive, directive, "{code}");
        }
    }
}
