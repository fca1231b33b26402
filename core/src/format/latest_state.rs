//! The records of topics that have the latest state of each document (`--topic-mode snapshot`).
//!
//! The value of a record is the document as Extended JSON, without an envelope. The last record of
//! a key is the latest state of its document, and a tombstone means that the document is gone. The
//! identity of the entry is in the [`ID_HEADER`](super::ID_HEADER).

use crate::document::Document;
use crate::entry::{Entry, EntryError, Operation, Update};
use crate::json::{self, Mode};

/// Appends the document as it is after an entry. Appends nothing if the document is gone: an empty
/// value is sent as a tombstone.
///
/// # Errors
/// [`EntryError`] if the entry is damaged, or if it is an update whose document was not looked up.
pub fn write_latest_state(
    entry: &Entry<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    if let Some(document) = document_after(entry)? {
        // The value is for readers, so it needs no exact copy if the text loses something.
        json::write_document(document, mode, out).map(drop)?;
    }
    Ok(())
}

fn document_after<'e>(entry: &Entry<'e>) -> Result<Option<Document<'e>>, EntryError> {
    match entry.operation {
        Operation::Insert => Ok(Some(entry.o)),
        Operation::Update => match (entry.update()?, entry.looked_up.and_then(|all| all.current)) {
            (Update::Replacement(document), _) => Ok(Some(document)),
            (_, Some(found)) => Ok(found.document),
            // A tombstone would delete a document that may exist.
            (_, None) => Err(EntryError::MissingField {
                ts: entry.ts,
                ns: entry.ns.to_owned(),
                field: "looked-up document",
            }),
        },
        Operation::Delete | Operation::Command | Operation::Noop => Ok(None),
    }
}
