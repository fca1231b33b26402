//! The changes that a rewrite makes to a document after reading it, and the treatment of zero
//! timestamps.

use oplog_relay_core::diff::{Diff, DiffError, apply_modifiers};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::position::EntryId;

use crate::replay::plan::diff::is_plain;
use crate::replay::plan::{Action, Write};

/// A write that cannot be applied to the stored document of the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {id} cannot be applied to the stored document")]
pub struct RewriteError {
    /// The identity of the entry.
    pub id: EntryId,
    /// The reason.
    #[source]
    pub error: DiffError,
}

/// Returns a document after the writes have been applied to it in order. Writes that set the whole
/// document are sent as separate commands and are skipped here.
///
/// # Errors
/// [`RewriteError`] names the entry that cannot be applied.
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

/// Returns the top-level zero timestamps that a `$set` can restore after an insert or a
/// replacement, in which a server replaces them with its own time. A `$set` can address only fields
/// whose names are valid paths; for the others see `needs_literal`.
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

/// How the zero timestamps in the top-level fields of a document affect its insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroTimestamps {
    /// The document has no zero timestamps.
    Absent,
    /// A `$set` can restore them.
    Settable,
    /// A `$set` cannot address some of them, so the document must be sent as a literal.
    Hidden,
}

/// Returns how zero timestamps affect the insert of a document. Every insert is checked, but few
/// documents have a timestamp, so a fast scan first looks for any timestamp.
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

/// Returns true if the document can replace another one only as a literal in an aggregation pipeline.
/// In a regular replacement, top-level names cannot begin with a dollar sign, and zero timestamps that
/// no `$set` can restore are lost.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn needs_literal(document: Document<'_>) -> Result<bool, Malformed> {
    is_literal(document, false)
}

/// Returns true if a replacement by the document is sent as a literal: because it must be, or because
/// it has zero timestamps and the target accepts literals.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn is_literal(
    document: Document<'_>,
    accepts_literals: bool,
) -> Result<bool, Malformed> {
    for field in document.elements() {
        if field?.name.starts_with(b"$") {
            return Ok(true);
        }
    }
    Ok(match zero_timestamps_of(document)? {
        ZeroTimestamps::Absent => false,
        ZeroTimestamps::Settable => accepts_literals,
        ZeroTimestamps::Hidden => true,
    })
}

/// Returns true if a `$set` of zero timestamps must follow a replacement by the document. This is
/// not necessary for a document that is sent as a literal, which keeps them.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub fn loses_zeros(document: Document<'_>) -> Result<bool, Malformed> {
    Ok(!zero_timestamps(document)?.is_empty() && !needs_literal(document)?)
}

/// Returns the action that restores the zero timestamps of a document after this action has stored it;
/// `None` if the action keeps them, as any replacement does if the target accepts literals.
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub(crate) fn restoring_zeros(
    action: Action<'_>,
    accepts_literals: bool,
) -> Result<Option<Action<'_>>, Malformed> {
    let (document, is_insert) = match action {
        Action::Insert(document) => (document, true),
        Action::Replace(document) | Action::Rewritten(document) => (document, false),
        _ => return Ok(None),
    };
    if zero_timestamps_of(document)? == ZeroTimestamps::Absent {
        return Ok(None);
    }
    if !is_insert && is_literal(document, accepts_literals)? {
        return Ok(None);
    }
    // An insert has no form that keeps them. If no `$set` can restore all of them, the document is
    // replaced afterwards.
    Ok(Some(if needs_literal(document)? {
        Action::Rewritten(document)
    } else {
        Action::Zeros(document)
    }))
}

/// Returns true if a server replaces the value of this top-level field with its own time.
pub(crate) fn is_zero(field: Element<'_>) -> bool {
    field.kind == kind::TIMESTAMP && field.value == [0; 8] && field.name != b"_id"
}

/// Appends the `$set` that restores the zero timestamps of a document.
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
