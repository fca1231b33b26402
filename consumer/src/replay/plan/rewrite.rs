//! Documents that are read, changed and replaced.

use oplog_relay_core::diff::{Diff, DiffError, apply_modifiers};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::position::EntryId;

use crate::replay::plan::diff::is_plain;
use crate::replay::plan::{Action, Write};

/// A write that cannot be applied to the document that the target has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} cannot be applied to the stored document")]
pub struct RewriteError {
    /// The entry.
    pub id: EntryId,
    /// Why.
    #[source]
    pub error: DiffError,
}

/// A document as the writes leave it, one after the other. Writes that tell the whole state have
/// commands of their own and are none of these: they are passed over.
///
/// # Errors
/// [`RewriteError`] names the entry.
pub fn rewritten<'w, 'a: 'w>(
    stored: Document<'_>,
    writes: impl IntoIterator<Item = &'w Write<'a>>,
) -> Result<Vec<u8>, RewriteError> {
    let mut document = stored.as_bytes().to_vec();
    for write in writes {
        let after = changed(&document, write.action).map_err(|error| RewriteError {
            id: write.id,
            error,
        })?;
        if let Some(after) = after {
            document = after;
        }
    }
    Ok(document)
}

fn changed(document: &[u8], action: Action<'_>) -> Result<Option<Vec<u8>>, DiffError> {
    let document = Document::new(document)?;
    match action {
        Action::Modify(modifiers) | Action::AsIs { modifiers, .. } => {
            apply_modifiers(document, modifiers).map(Some)
        }
        Action::Fields(diff) | Action::Diff(diff) => Diff::parse(diff)?.apply(document).map(Some),
        Action::Zeros(whole) => {
            let mut modifiers = Vec::new();
            let mut update = DocumentBuilder::start(&mut modifiers);
            write_zeros(whole, &mut update)?;
            update.finish();
            apply_modifiers(document, Document::new(&modifiers)?).map(Some)
        }
        Action::Insert(_) | Action::Replace(_) | Action::Rewritten(_) | Action::Delete => Ok(None),
    }
}

/// The fields that a `$set` can restore after an insert or a replacement. A server stores its own time in
/// place of the timestamp zero in a field of the first level, but not so in a `$set`. A `$set` reaches
/// only fields whose names are paths: for the others see `needs_literal`.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub fn zero_timestamps(document: Document<'_>) -> Result<Vec<Element<'_>>, Malformed> {
    let mut zeros = Vec::new();
    for field in document.elements() {
        let field = field?;
        if is_zero(field) && is_plain(field.name) {
            zeros.push(field);
        }
    }
    Ok(zeros)
}

/// What the timestamps zero in the fields of a document's first level demand of its insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroTimestamps {
    /// There are none.
    Absent,
    /// A `$set` restores them.
    Settable,
    /// No `$set` reaches some of them: the document has to be sent as a literal.
    Hidden,
}

/// Looks for timestamps zero. Few documents have a timestamp, and every insert is looked at, so a quick walk
/// looks for one first.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn zero_timestamps_of(document: Document<'_>) -> Result<ZeroTimestamps, Malformed> {
    let mut found = ZeroTimestamps::Absent;
    if !document.may_have(kind::TIMESTAMP) {
        return Ok(found);
    }
    for field in document.elements() {
        let field = field?;
        if !is_zero(field) {
            continue;
        }
        if !is_plain(field.name) {
            return Ok(ZeroTimestamps::Hidden);
        }
        found = ZeroTimestamps::Settable;
    }
    Ok(found)
}

/// Whether the document can replace another one only as a literal of a pipeline: a replacement may have no
/// name of the first level that begins with a dollar sign, and loses timestamps zero.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn needs_literal(document: Document<'_>) -> Result<bool, Malformed> {
    for field in document.elements() {
        if field?.name.starts_with(b"$") {
            return Ok(true);
        }
    }
    Ok(zero_timestamps_of(document)? == ZeroTimestamps::Hidden)
}

/// Whether a `$set` of timestamps zero has to follow a replacement by the document. A literal keeps them.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub fn loses_zeros(document: Document<'_>) -> Result<bool, Malformed> {
    Ok(!zero_timestamps(document)?.is_empty() && !needs_literal(document)?)
}

fn is_zero(field: Element<'_>) -> bool {
    field.kind == kind::TIMESTAMP && field.value == [0; 8] && field.name != b"_id"
}

/// The `$set` of those fields.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn write_zeros(
    document: Document<'_>,
    update: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    let zeros = zero_timestamps(document)?;
    update.nested("$set", kind::DOCUMENT, |set| {
        for zero in zeros {
            set.element(zero);
        }
    });
    Ok(())
}
