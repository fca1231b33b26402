//! Lookups on the source: the document of an update whose description is ambiguous, and the place of
//! a document that may have moved to another shard.

use std::time::Duration;

use bson::RawDocumentBuf;
use futures_util::StreamExt as _;
use mongodb::Client;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::mongo::{self, REPLY_LIMIT, in_time};
use oplog_relay_runtime::retry::Backoff;

use super::event::Event;
use crate::error::ProducerError;
use crate::source::Batch;

/// Maximum number of retries of a lookup before the session fails.
const RETRIES: u32 = 5;

/// The document of an update, as the source has it at the lookup.
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
/// [`ProducerError::Source`]; [`ProducerError::Undecodable`] if the reply is damaged.
pub async fn find(client: &Client, event: &Event<'_>) -> Result<FoundDocument, ProducerError> {
    let find = write_find(event);
    let find = find.map_err(|error| event.refused(&error.to_string()))?;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let command = RawDocumentBuf::from_bytes(find.clone());
        let command = command.map_err(|error| event.refused(&error.to_string()))?;
        let database = client.database(event.db);
        let run = async {
            let mut run = database.run_raw_cursor_command(command);
            if let Some(criteria) = client.selection_criteria() {
                run = run.selection_criteria(criteria.clone());
            }
            run.batch().await?.next().await.transpose()
        };
        match in_time(REPLY_LIMIT, run).await {
            Ok(Some(reply)) => {
                let whole = reply.as_raw_document().as_bytes();
                let at = operation_time(whole).map_err(ProducerError::undecodable)?;
                let reply = Batch::Reply(reply);
                let first = reply.documents()?.next().transpose();
                let first = first.map_err(ProducerError::undecodable)?;
                let document = first.map(|document| document.as_bytes().to_vec());
                return Ok(FoundDocument { document, at });
            }
            Ok(None) => return Ok(FoundDocument::default()),
            Err(error) if mongo::is_interrupted(&error) && backoff.attempts() < RETRIES => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => return Err(ProducerError::Source(error)),
        }
    }
}

/// Writes a query by `_id`.
fn write_find(event: &Event<'_>) -> Result<Vec<u8>, Malformed> {
    let key = event.key.unwrap_or(Document::EMPTY);
    // The shard key may have changed since the event, the `_id` cannot.
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
    find.nested("readConcern", kind::DOCUMENT, |concern| {
        concern.str("level", "majority").raw(
            "afterClusterTime",
            kind::TIMESTAMP,
            &event.time.to_le_bytes(),
        );
    });
    find.finish();
    Ok(command)
}

fn operation_time(reply: &[u8]) -> Result<Option<Timestamp>, Malformed> {
    let at = Document::new(reply)?.get("operationTime")?;
    at.map(Element::timestamp).transpose()
}
