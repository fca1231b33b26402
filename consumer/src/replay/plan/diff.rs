//! Decides how a `$v: 2` diff is sent.
//!
//! A client cannot send a diff. Its `$set` and `$unset` have the same effect only if the diff sets
//! and removes top-level fields:
//!
//! | in the diff | effect of `$set` and `$unset` |
//! | --- | --- |
//! | `i` | an existing field keeps its position |
//! | `_id` with an unchanged value | the field keeps its position |
//! | `s` | creates a missing parent, fails if it is not a document, takes a number for an array index |
//! | `l`, `b` | cannot be expressed |
//! | names with a dot, a leading `$`, or empty | have another meaning, or fail |
//! | several `u` out of order | absent fields are appended in the order of their names |
//!
//! Every other diff is a rewrite: the document is read, the diff is applied to it, and it is
//! replaced.

use oplog_relay_core::diff::Diff;
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::Entry;

use crate::replay::plan::{Action, PlanFault};

/// Returns the action with the effect of an entry's diff, identical to the byte for any stored
/// document; `None` if the diff is empty.
///
/// # Errors
/// [`PlanFault::Diff`] if the diff is damaged or writes another `_id`.
pub(crate) fn action<'a>(
    diff: Document<'a>,
    entry: &Entry<'_>,
) -> Result<Option<Action<'a>>, PlanFault> {
    let parsed = Diff::parse(diff)?;
    // Few diffs write `_id`, and looking up the entry's `_id` costs as much as a part of the
    // parsing.
    if parsed.writes_id() {
        parsed.check_id(entry.document_id()?)?;
    }
    let mut changes = false;
    for section in diff.elements() {
        let section = section?;
        let fields = section.document()?;
        if !is_classic(section.name, fields)? {
            return Ok(Some(Action::Diff(diff)));
        }
        changes |= !fields.is_empty();
    }
    Ok(changes.then_some(Action::Fields(diff)))
}

/// Returns true if `$set` and `$unset` have exactly the effect of a section.
fn is_classic(section: &[u8], fields: Document<'_>) -> Result<bool, Malformed> {
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

/// Returns true if a path of this name alone means the top-level field to every server.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    let starts_well = name
        .first()
        .is_some_and(|first| *first != b'$' && !first.is_ascii_digit());
    starts_well && !name.contains(&b'.') && std::str::from_utf8(name).is_ok()
}
