//! Lookups on the source: the document of an update whose description is ambiguous, or of a delete
//! whose document may have moved to another shard.

use oplog_relay_core::document::{Document, DocumentBuilder, Malformed, kind};
use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::mongo::REPLY_LIMIT;

use super::event::Event;
use crate::error::ProducerError;
use crate::source::Batch;
use crate::source::full_sync::SourceReader;

/// The document of an event, as the source has it at the lookup.
#[derive(Debug, Default)]
pub struct FoundDocument {
    /// The document; `None` if it is gone.
    pub document: Option<Vec<u8>>,
    /// The logical time of the source at the lookup.
    pub at: Option<Timestamp>,
}

/// Reads the document of an event. It is at least as new as the event.
///
/// # Errors
/// [`ProducerError::Source`]; [`ProducerError::Undecodable`] if the event or the reply is damaged.
pub async fn find(
    source: &SourceReader,
    event: &Event<'_>,
) -> Result<FoundDocument, ProducerError> {
    let find = write_find(source, event);
    let find = find.map_err(|error| event.refused(&error.to_string()))?;
    let found = source.retry(REPLY_LIMIT, || source.first_batch(event.db, &find));
    let Some(reply) = found.await? else {
        return Ok(FoundDocument::default());
    };
    let reply = Batch::Reply(reply);
    let at = reply.operation_time().map_err(ProducerError::undecodable)?;
    let first = reply.documents()?.next().transpose();
    let first = first.map_err(ProducerError::undecodable)?;
    let document = first.map(|document| document.as_bytes().to_vec());
    Ok(FoundDocument { document, at })
}

/// Writes a query by `_id`.
fn write_find(source: &SourceReader, event: &Event<'_>) -> Result<Vec<u8>, Malformed> {
    let key = event.key.unwrap_or(Document::EMPTY);
    // The shard key may have changed since the event, but the `_id` cannot change.
    let id = key.get("_id")?.ok_or(Malformed::Missing("_id"))?;
    let mut command = Vec::new();
    let mut find = DocumentBuilder::start(&mut command);
    find.str("find", event.collection);
    find.nested("filter", kind::DOCUMENT, |filter| {
        filter.nested("_id", kind::DOCUMENT, |equal| {
            equal.raw("$eq", id.kind, id.value);
        });
    });
    find.int64("limit", 1).boolean("singleBatch", true);
    source.write_read_concern(&mut find, event.time);
    find.finish();
    Ok(command)
}
