//! How a `$v: 2` diff is sent.
//!
//! A client cannot send a diff. What it can send, `$set` and `$unset`, does the same only where
//! the diff sets and removes fields of the first level:
//!
//! | in the diff | `$set` and `$unset` would |
//! | --- | --- |
//! | `i` | leave a field that is there in its place |
//! | `_id` with the value that it has | leave it in its place |
//! | `s` | make up a parent that is not there, fail at one that is no document, take a number for an array's index |
//! | `l`, `b` | not do it |
//! | names with a dot, a leading `$`, or empty | mean something else, or fail |
//! | several `u` out of order | append absent fields in the order of their names |
//!
//! Everything else is a rewrite: the document is read, changed as the diff says, and replaced.

use oplog_relay_core::diff::Diff;
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::Entry;

use crate::replay::plan::{Action, PlanFault};

/// The action that does what the diff of an entry says, to the byte, whatever the document is like;
/// `None` where it says nothing.
///
/// # Errors
/// [`PlanFault::Diff`] if the diff is damaged or writes another `_id`.
pub(crate) fn action<'a>(
    diff: Document<'a>,
    entry: &Entry<'_>,
) -> Result<Option<Action<'a>>, PlanFault> {
    let parsed = Diff::parse(diff)?;
    // Few diffs do, and the look-up of the entry's `_id` costs as much as a part of the parsing.
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

/// Whether `$set` and `$unset` do exactly what a section says.
fn is_classic(section: &[u8], fields: Document<'_>) -> Result<bool, Malformed> {
    let mut last = &b""[..];
    for field in fields.elements() {
        let name = field?.name;
        let fits = match section {
            b"d" => is_plain(name),
            // Servers sort numbers as numbers or as text, by version: none are plain.
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

/// Whether a path of this name alone means the field, to every server.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    let starts_well = name
        .first()
        .is_some_and(|first| *first != b'$' && !first.is_ascii_digit());
    starts_well && !name.contains(&b'.') && std::str::from_utf8(name).is_ok()
}
