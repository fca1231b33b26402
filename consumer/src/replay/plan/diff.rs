//! Decides how a `$v: 2` diff is sent.
//!
//! A client cannot send a diff. A `$set` and a `$unset` have the same effect only if the diff just sets
//! and removes top-level fields. The other cases are:
//!
//! | in the diff | effect of `$set` and `$unset` |
//! | --- | --- |
//! | `i` | an existing field keeps its position |
//! | `_id` with an unchanged value | the field keeps its position |
//! | `s` | creates a missing parent, fails if it is not a document, treats a number as an array index |
//! | `l`, `b` | cannot be expressed |
//! | empty names, or names with a dot or a leading `$` | have a different meaning, or fail |
//! | several `u` out of order | absent fields are appended in the order of their names |
//!
//! In these cases the document is rewritten: it is read, the diff is applied to it, and it is replaced.

use oplog_relay_core::diff::Diff;
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::Entry;

use crate::replay::plan::{Action, PlanFault};

/// Returns an action whose result is byte-identical to that of the entry's diff for every stored
/// document, or `None` if the diff is empty.
///
/// # Errors
/// [`PlanFault::Diff`] if the diff is damaged or changes the `_id`.
pub(crate) fn action<'a>(
    diff: Document<'a>,
    entry: &Entry<'_>,
) -> Result<Option<Action<'a>>, PlanFault> {
    let parsed = Diff::parse(diff)?;
    // Few diffs write `_id`, and looking up the entry's `_id` takes a notable part of the parsing time.
    if parsed.writes_id() {
        parsed.check_id(entry.document_id()?)?;
    }
    let mut changes = false;
    for section in diff.elements() {
        let section = section?;
        let fields = section.document()?;
        if !is_operator_equivalent(section.name, fields)? {
            return Ok(Some(Action::Diff(diff)));
        }
        changes |= !fields.is_empty();
    }
    Ok(changes.then_some(Action::Fields(diff)))
}

/// Returns true if a `$set` or a `$unset` has exactly the effect of a section.
fn is_operator_equivalent(section: &[u8], fields: Document<'_>) -> Result<bool, Malformed> {
    let mut last = &b""[..];
    for field in fields.elements() {
        let name = field?.name;
        let fits = match section {
            b"d" => is_plain(name),
            // Server versions sort numeric names as numbers or as text, so `is_plain` excludes
            // them.
            b"u" => is_plain(name) && name != b"_id" && last < name,
            _ => false,
        };
        if !fits {
            return Ok(false);
        }
        last = name;
    }
    Ok(true)
}

/// Returns true if every server interprets this name, used as a path, as the top-level field of that
/// name.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    let has_plain_start = name
        .first()
        .is_some_and(|first| *first != b'$' && !first.is_ascii_digit());
    has_plain_start && !name.contains(&b'.') && std::str::from_utf8(name).is_ok()
}
