//! `$v: 2` updates, which servers from 5.0 on write. The result of applying them matches the
//! document of the source byte for byte.
//!
//! A diff lists the changes to the fields of one level by sections: `d` removes, `u` updates, `i`
//! inserts, `b` splices binary data, `s<name>` holds the diff of an embedded document or array:
//!
//! ```text
//! fields := { ["d": {name: false, …}] ["u": {name: value, …}] ["i": {name: value, …}]
//!             ["b": {name: {"o": offset, "d": data}, …}] "s"+name : fields | items, … }
//! items  := { "a": true, ["l": length], ("u"+index : value | "s"+index : fields | items), … }
//! ```
//!
//! | | the field exists | the field does not exist |
//! | --- | --- | --- |
//! | `d` | removed | nothing |
//! | `u` | the new value in the old place | appended, in the order of the diff |
//! | `i` | removed; the new value is appended, after those of `u` | appended, after those of `u` |
//! | `s` | changed; `null` if the value is not of the diff's type | nothing |
//! | `b` | its bytes from the offset on are replaced; `null` if that is impossible | nothing |
//!
//! `_id` is never changed, but it may be written: a pipeline that moves the fields before `_id`
//! logs a diff whose `i` has `_id` with its old value. Only its place among the fields changes. A
//! diff with another value of `_id` is damaged.
//!
//! An array gets the length `l` if that is given. Otherwise it keeps its length, or ends at the
//! highest index of the diff if that is beyond its end. Gaps are filled with `null`. If an element
//! for `s` is missing or not of the diff's type, it also becomes `null`.
//!
//! The nulls are placeholders. When a part of the log is applied again to a document that is ahead
//! of it, some steps find values that were written later, and put nulls in their place. Later steps
//! correct all of these values. Therefore **any** suffix of a document's log, applied to its last
//! state, leads to that state byte for byte, as long as every step is applied as a whole. For
//! `$v: 1` modifiers the values are the same, but the order of the fields may differ. If a path
//! leads through a value that is not a container, only that path is skipped.
//!
//! # Modules
//!
//! - `parse` reads the structure of a diff
//! - `apply` applies a diff to a document
//! - `modifiers` applies `$v: 1` modifiers
//! - `describe` describes a diff as MongoDB's change events do
//! - `fault` has the errors

mod apply;
mod describe;
mod fault;
mod modifiers;
mod parse;

use crate::document::{Document, Element};

pub use describe::{Described, Part};
pub use fault::{DiffError, DiffFault};
pub use modifiers::apply_modifiers;
use parse::Fields;

/// The maximum number of nulls with which one update may fill array gaps. A 16 MB document cannot
/// hold that many.
const MAX_PADDING: usize = 1 << 21;

/// A diff whose structure has been checked.
#[derive(Debug, Clone)]
pub struct Diff<'a> {
    root: Fields<'a>,
}

impl<'a> Diff<'a> {
    /// Checks and reads a diff (the entry's `o.diff`).
    ///
    /// # Errors
    /// [`DiffError`] with the first fault and its path. Servers write no diffs with faults, so the
    /// entry is damaged.
    pub fn parse(diff: Document<'a>) -> Result<Self, DiffError> {
        Ok(Self {
            root: parse::root(diff)?,
        })
    }

    /// Returns true if the diff writes the `_id`, which [`Diff::check_id`] then has to compare.
    #[must_use]
    pub fn writes_id(&self) -> bool {
        self.root.writes_id()
    }

    /// Checks that the diff does not change this `_id` of a document.
    ///
    /// # Errors
    /// [`DiffError`] if the diff writes another `_id`. Servers do not write such a diff: the entry
    /// is damaged.
    pub fn check_id(&self, id: Element<'_>) -> Result<(), DiffError> {
        self.root.keeps_id(id)
    }

    /// Returns the document after the diff. Fields that the diff does not name keep their bytes.
    ///
    /// # Errors
    /// [`DiffError`] if the document is damaged or would get another `_id`, or the diff fills
    /// array gaps with more nulls than any document can hold.
    pub fn apply(&self, document: Document<'_>) -> Result<Vec<u8>, DiffError> {
        if let Some(id) = document.get("_id")? {
            self.check_id(id)?;
        }
        apply::apply(&self.root, document)
    }

    /// Calls `visit` for every change with the path to it, in the order of the diff.
    pub fn describe(&self, visit: &mut impl FnMut(&[Part<'a>], Described<'a>)) {
        describe::describe(&self.root, visit);
    }
}

#[cfg(test)]
mod tests;
