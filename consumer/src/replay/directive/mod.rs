//! The directive for each error code of a target's server, in one table.
//!
//! Transient codes are those of [`TRANSIENT_CODES`](oplog_relay_runtime::mongo::TRANSIENT_CODES),
//! which the producer shares. [`RULES`] has all other known codes. Only a code that is known to
//! concern one document lets that document become a dead letter. Any other code may concern every
//! write, and then every document would become one.

mod table;

use oplog_relay_runtime::mongo::{AUTHENTICATION_FAILED, transient_reason};

pub use table::table;

/// The reaction to a write that the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// The error is transient: the write is sent again after a back-off, without a limit.
    Retry,
    /// A document has the key. If it has the same `_id`, it is replaced; if the key is in another
    /// unique index, the new document is held or refused.
    Replace,
    /// An index of the target refuses the document in its current state: the document is held, its
    /// later entries are applied to it, and its write is retried.
    Hold,
    /// The update cannot be applied to the stored document: the document is read, changed as a
    /// server does when it applies its own oplog, and replaced. The update is never applied in
    /// part.
    Rewrite,
    /// An update or a delete has nothing left to do. A write that creates its document is sent
    /// again instead: see [`directive_for`].
    Skip,
    /// The target refuses this one document: the replay stops, or the entry becomes a dead letter.
    Refuse,
    /// The code may concern every write: the replay stops.
    Stop,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The server's error code.
    pub code: i32,
    /// The reaction to the code.
    pub directive: Directive,
    /// The reason and, for a stop, the advice to the operator.
    pub reason: &'static str,
}

const fn rule(code: i32, directive: Directive, reason: &'static str) -> Rule {
    Rule {
        code,
        directive,
        reason,
    }
}

/// Error code of a duplicate key.
pub const DUPLICATE_KEY: i32 = 11000;
/// Error code of a `create` of a collection that exists.
pub const NAMESPACE_EXISTS: i32 = 48;
/// Error code of a missing privilege.
pub const UNAUTHORIZED: i32 = oplog_relay_runtime::mongo::UNAUTHORIZED;

/// Error code of an update that would change `_id` or a shard key.
pub const IMMUTABLE_FIELD: i32 = 66;

/// The reason for a code that is not in the table.
const UNKNOWN: &str = "the code may concern more than one document, so no write is skipped; correct \
                       the cause that the target reports, then restart";
/// The reason for a refused command if its code has no reason of its own (see [`command_reason`]).
const COMMAND: &str = "the target does not accept the command";

/// The table of the codes that are not transient, and of `UnsatisfiableWriteConcern` (100), which a
/// replay retries because members may return.
pub const RULES: &[Rule] = &[
    rule(
        26,
        Directive::Skip,
        "the collection does not exist, so nothing is left to do; an insert is sent again",
    ),
    rule(
        NAMESPACE_EXISTS,
        Directive::Skip,
        "the collection exists; an insert is sent again",
    ),
    rule(
        100,
        Directive::Retry,
        "the replica set has too few members for the write concern",
    ),
    rule(
        DUPLICATE_KEY,
        Directive::Replace,
        "a document with that key exists",
    ),
    rule(
        2,
        Directive::Rewrite,
        "the target does not accept a value of the update",
    ),
    rule(9, Directive::Rewrite, "the target cannot parse the update"),
    rule(
        14,
        Directive::Rewrite,
        "a value has another type than the update requires",
    ),
    rule(
        28,
        Directive::Rewrite,
        "a path leads through a value that is not a document: the stored document is newer than \
         the update",
    ),
    rule(
        34,
        Directive::Rewrite,
        "an array index of the update is too far beyond the end of the array",
    ),
    rule(40, Directive::Rewrite, "two paths of the update conflict"),
    rule(
        52,
        Directive::Rewrite,
        "a field name begins with a dollar sign: MongoDB 5.0 and later can store it",
    ),
    rule(56, Directive::Rewrite, "a field name is empty"),
    rule(57, Directive::Rewrite, "a field name contains a dot"),
    rule(
        61,
        Directive::Refuse,
        "the document cannot be stored under its shard key: no value of the key can be an array",
    ),
    rule(
        13026,
        Directive::Hold,
        "the value is not a pair of coordinates, which a 2d index requires",
    ),
    rule(
        13027,
        Directive::Hold,
        "the point is outside the bounds of a 2d index",
    ),
    rule(
        13067,
        Directive::Hold,
        "the value has no coordinates, which a 2d index requires",
    ),
    rule(
        13068,
        Directive::Hold,
        "the value has one coordinate, but a 2d index requires two",
    ),
    rule(
        16804,
        Directive::Hold,
        "the value is not a list of points, which a 2d index requires",
    ),
    rule(
        16755,
        Directive::Hold,
        "the value is not a valid geometry, which a 2dsphere index requires",
    ),
    rule(
        16756,
        Directive::Hold,
        "the value is not a valid geometry, which a 2dsphere index requires",
    ),
    rule(
        16766,
        Directive::Hold,
        "a hashed index does not support arrays",
    ),
    rule(
        16775,
        Directive::Hold,
        "the value has no coordinates, which a geoHaystack index requires",
    ),
    rule(
        16776,
        Directive::Hold,
        "the value is not a number, which a geoHaystack index requires",
    ),
    rule(
        16746,
        Directive::Hold,
        "a field in an indexed array is named like an array position",
    ),
    rule(
        171,
        Directive::Hold,
        "an index cannot contain the values of two arrays",
    ),
    rule(
        201,
        Directive::Hold,
        "the target cannot build a key of an index",
    ),
    rule(
        16675,
        Directive::Hold,
        "a prefix field of a text index is an array",
    ),
    rule(
        16732,
        Directive::Hold,
        "the document has too many words for a text index",
    ),
    rule(
        16733,
        Directive::Hold,
        "the document has too many words for a text index",
    ),
    rule(
        17261,
        Directive::Hold,
        "the language of a text index is not a string",
    ),
    rule(
        17262,
        Directive::Hold,
        "a text index does not support the language",
    ),
    rule(
        17280,
        Directive::Hold,
        "a key is too large for an index of the target",
    ),
    rule(
        UNAUTHORIZED,
        Directive::Stop,
        "the target's user does not have the privilege: grant it readWrite on the replayed \
         databases",
    ),
    rule(
        AUTHENTICATION_FAILED,
        Directive::Stop,
        "the target refuses the credentials",
    ),
    rule(
        20,
        Directive::Stop,
        "the target does not allow this kind of write on the collection",
    ),
    rule(
        166,
        Directive::Stop,
        "the collection is a view on the target, or does not allow this kind of write",
    ),
    rule(
        15,
        Directive::Refuse,
        "a number is outside the range that the target supports",
    ),
    rule(
        22,
        Directive::Refuse,
        "the target does not accept the document's BSON",
    ),
    rule(
        53,
        Directive::Refuse,
        "the target does not accept a value of this type as _id",
    ),
    rule(
        IMMUTABLE_FIELD,
        Directive::Refuse,
        "the update would change _id or a shard key, which is immutable on the target",
    ),
    rule(
        116,
        Directive::Refuse,
        "the document is larger than the target's capped collection",
    ),
    rule(
        121,
        Directive::Refuse,
        "a validator on the target refuses the document, and the user is not allowed to bypass \
         validation: grant bypassDocumentValidation, or drop the validator",
    ),
    rule(
        357,
        Directive::Refuse,
        "the target does not accept the document's BSON",
    ),
    rule(
        378,
        Directive::Refuse,
        "the target does not accept the document's BSON",
    ),
    rule(
        10003,
        Directive::Refuse,
        "the target does not allow an update to change the size of a document in a capped \
         collection",
    ),
    rule(
        10334,
        Directive::Refuse,
        "the document is larger than the target accepts",
    ),
    rule(
        17419,
        Directive::Refuse,
        "the updated document is larger than the target accepts",
    ),
    rule(
        17420,
        Directive::Refuse,
        "the document to insert is larger than the target accepts",
    ),
];

/// Returns the directive for a code, with its reason.
#[must_use]
pub fn rule_for(code: i32) -> Rule {
    if let Some(reason) = transient_reason(code) {
        return rule(code, Directive::Retry, reason);
    }
    let mut rules = RULES.iter();
    let known = rules.find(|rule| rule.code == code).copied();
    known.unwrap_or_else(|| rule(code, Directive::Stop, UNKNOWN))
}

/// Returns the directive for the code of a write. A write that creates its document is never
/// skipped, because the document would then be missing.
#[must_use]
pub fn directive_for(code: i32, creates: bool) -> Directive {
    match rule_for(code).directive {
        Directive::Skip if creates => Directive::Retry,
        directive => directive,
    }
}

/// Returns the reason why a command is refused, with advice to the operator. The reasons in the
/// table are about documents and updates, so they do not apply to commands.
#[must_use]
pub fn command_reason(code: Option<i32>) -> &'static str {
    match code {
        Some(UNAUTHORIZED) => {
            "the target's user does not have the privilege: grant it readWrite and dbAdmin on the \
             replayed databases"
        }
        Some(code) if rule_for(code).directive == Directive::Retry => rule_for(code).reason,
        _ => COMMAND,
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::index::is_refusal;

    use super::*;

    #[test]
    fn every_code_has_one_row_and_a_reason() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(!rule.reason.is_empty());
            assert_eq!(transient_reason(rule.code), None, "{}", rule.code);
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
    fn directives_of_important_codes_are_frozen() {
        let table = [
            (10107, Directive::Retry),
            (11000, Directive::Replace),
            (48, Directive::Skip),
            (13, Directive::Stop),
            (28, Directive::Rewrite),
            (9, Directive::Rewrite),
            (121, Directive::Refuse),
            (166, Directive::Stop),
            (11601, Directive::Retry),
            (365, Directive::Retry),
            (371, Directive::Retry),
            (13388, Directive::Retry),
            (14031, Directive::Retry),
            (999_999, Directive::Stop),
        ];
        for (code, directive) in table {
            assert_eq!(rule_for(code).directive, directive, "{code}");
        }
    }

    #[test]
    fn a_write_that_creates_its_document_is_not_skipped() {
        for code in [26, NAMESPACE_EXISTS] {
            assert_eq!(directive_for(code, false), Directive::Skip);
            assert_eq!(directive_for(code, true), Directive::Retry);
        }
        assert_eq!(directive_for(121, true), Directive::Refuse);
    }

    #[test]
    fn the_reason_of_a_refused_command_does_not_mention_updates() {
        let codes = RULES.iter().map(|rule| rule.code).chain([999_999]);
        for code in codes {
            let reason = command_reason(Some(code));
            assert!(
                !reason.contains("update") && !reason.contains("document"),
                "{code}"
            );
        }
    }
}
