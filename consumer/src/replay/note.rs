//! Notes that a replay keeps in its own database on the target.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use oplog_relay_runtime::mongo::error_code;

use crate::replay::directive::DUPLICATE_KEY;

/// Writes a note in the place of the one with its `_id`. If two members write the same note at the same
/// time, both may try to insert it; the one that the target refuses then replaces it.
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
