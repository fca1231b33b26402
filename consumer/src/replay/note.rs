//! Notes that a replay keeps in its own database on the target.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use oplog_relay_runtime::mongo::error_code;

use crate::replay::directive::DUPLICATE_KEY;

/// Writes a note, or replaces the existing note with this `_id`. If two members write the same note
/// at once, both may try to insert it; the member that the target refuses then replaces the note.
///
/// # Errors
/// Returns the driver's error.
pub(crate) async fn write_note(
    notes: &Collection<Document>,
    id: &str,
    note: Document,
) -> mongodb::error::Result<()> {
    let write = || {
        let filter = doc! { "_id": id };
        notes.replace_one(filter, note.clone()).upsert(true)
    };
    match write().await {
        Err(error) if error_code(&error) == Some(DUPLICATE_KEY) => write().await.map(drop),
        outcome => outcome.map(drop),
    }
}
