//! Parked documents: the stored forms of held documents that were copied to `oplog_relay.held` and
//! removed from their collection, until their held form is written. After a crash in between, the
//! next owner of their partition takes them over.
//!
//! Only the stored form of a document that is held for the same partition is parked. It is removed
//! only if it has not changed since it was read, so that a concurrent write is not lost.

use std::future::IntoFuture;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use oplog_relay_core::document::{self, DocumentBuilder, Malformed, kind};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::record_position::RecordPosition;
use crate::replay::catalog::collection;
use crate::replay::damage::damaged;
use crate::replay::directive::{DUPLICATE_KEY, Directive, rule_for};
use crate::replay::held_documents::error::{HeldError, IndexRefusal};
use crate::replay::held_documents::held_document::{
    HeldDocument, IdentifiedDocument, MAX_HELD_BYTES, read as read_document,
};
use crate::replay::held_documents::key;
use crate::replay::note::write_note;
use crate::replay::sink::MongoSink;
use crate::replay::writes::find::find_one_command;
use crate::replay::writes::reply::WriteReply;
use crate::topic_partition::TopicPartition;
use crate::worker::batch::Batch;

const COLLECTION: &str = "held";
/// Maximum number of bytes of a document and its `_id` in the filter of the removal. A server
/// accepts documents of up to 16 MiB, and the note contains the document and its position.
const MAX_COMPARED_BYTES: usize = 15 << 20;

impl MongoSink {
    /// Parks the stored form of the document that has these values, if the document is held for the
    /// batch's partition. Returns true if it was parked.
    pub(crate) async fn park_stored_form(
        &self,
        ns: &str,
        values: Vec<u8>,
        batch: &Batch<'_>,
    ) -> Result<bool, ConsumerError> {
        let Some(blocking) = self.document_with(ns, &values).await? else {
            return Ok(false);
        };
        let IdentifiedDocument {
            document: stored,
            document_id,
        } = read_document(ns, &blocking)?;
        let key = key(ns, document_id)?;
        let held = self.held().get(&key).cloned();
        let Some(held) = held.filter(|held| held.is_of(batch.topic, batch.partition)) else {
            return Ok(false);
        };
        if held.parked_note.is_some() {
            return Ok(false);
        }
        // The next owner of the partition would hold the parked form as well.
        if self.held_bytes() + blocking.len() > MAX_HELD_BYTES
            || blocking.len() + document_id.value.len() > MAX_COMPARED_BYTES
        {
            return Ok(false);
        }
        // The note is written before the removal, so that a crash in between does not lose the
        // document.
        let note = self
            .note_parked(ns, held.since, &held.position, &blocking)
            .await?;
        // If the reply to a removal is lost, the repeated command finds nothing: the note is then
        // the only copy of the document.
        if !self.remove_as_read(ns, stored, document_id).await?
            && self.document_with_id(ns, document_id).await?.is_some()
        {
            self.delete_parked_note(Some(&note)).await?;
            return Ok(false);
        }
        if let Some(held) = self.held().get_mut(&key) {
            (held.parked_note, held.parked_bytes) = (Some(note), blocking.len());
        }
        Ok(true)
    }

    /// Returns the document that has these values, read from the primary.
    async fn document_with(
        &self,
        ns: &str,
        values: &[u8],
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let filter = document::Document::new(values).map_err(|error| damaged(ns, &error))?;
        self.first_document(db, find_one_command(collection, filter))
            .await
    }

    /// Returns the document that has this `_id`, read from the primary.
    async fn document_with_id(
        &self,
        ns: &str,
        document_id: document::Element<'_>,
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        let mut filter = Vec::new();
        let mut fields = DocumentBuilder::start(&mut filter);
        fields.nested("_id", kind::DOCUMENT, |equal| {
            equal.raw("$eq", document_id.kind, document_id.value);
        });
        fields.finish();
        self.document_with(ns, &filter).await
    }

    /// Removes a document if it has not changed since it was read. Returns true if it was removed.
    async fn remove_as_read(
        &self,
        ns: &str,
        stored: document::Document<'_>,
        document_id: document::Element<'_>,
    ) -> Result<bool, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let failed = |error: Malformed| damaged(ns, &error);
        let command = removal(collection, stored, document_id).map_err(failed)?;
        let unreadable = |error: Malformed| HeldError::ReplyMalformed {
            ns: ns.to_owned(),
            reason: error.to_string(),
        };
        let reply = self
            .persist("parking a document", || async {
                let command = RawDocumentBuf::from_bytes(command.clone())?;
                let database = self.target.client.database(db);
                let reply = database.run_raw_command(command).await?.to_vec()?;
                let reply = document::Document::new(&reply).and_then(WriteReply::read);
                // A target that refuses the delete temporarily is asked again.
                match reply.as_ref().map(|reply| reply.errors.first()) {
                    Ok(Some(error)) if rule_for(error.code).directive == Directive::Retry => {
                        Err(error.as_command_error())
                    }
                    _ => Ok(reply),
                }
            })
            .await?;
        let reply = reply.map_err(unreadable)?;
        match reply.errors.first() {
            Some(error) => Err(HeldError::Parking {
                ns: ns.to_owned(),
                refusal: IndexRefusal {
                    code: error.code,
                    text: error.text.clone(),
                },
            }
            .into()),
            None => Ok(reply.n > 0),
        }
    }

    fn parked_notes(&self) -> Collection<Document> {
        collection(&self.target.client, COLLECTION)
    }

    /// Writes the note with a stored document before the document is removed. Returns the note's `_id`.
    pub(crate) async fn note_parked(
        &self,
        ns: &str,
        since: EntryId,
        RecordPosition { name, offset }: &RecordPosition,
        stored: &[u8],
    ) -> Result<String, ConsumerError> {
        let TopicPartition { topic, partition } = name;
        let group = self.catalog.group();
        let note_id = format!("{group}/{topic}/{partition}/{since}");
        let bytes = mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: stored.to_vec(),
        };
        let note = doc! {
            "_id": &note_id, "group": group, "topic": topic, "partition": partition,
            "offset": offset, "ns": ns, "ts": since.ts.to_string(), "ord": i64::from(since.ord),
            "document": bytes,
        };
        let notes = self.parked_notes();
        self.persist("saving a parked document", || {
            write_note(&notes, &note_id, note.clone())
        })
        .await?;
        Ok(note_id)
    }

    /// Deletes the note of a parked document that is no longer needed.
    pub(crate) async fn delete_parked_note(&self, name: Option<&str>) -> Result<(), ConsumerError> {
        let Some(name) = name else { return Ok(()) };
        let notes = self.parked_notes();
        self.persist("deleting the note of a parked document", || {
            notes.delete_one(doc! { "_id": name }).into_future()
        })
        .await?;
        Ok(())
    }

    /// Takes over the documents that an earlier owner of a partition parked or was moving, and the
    /// indexes that it suspended.
    ///
    /// # Errors
    /// Returns an error if the target refuses a query, or if a note cannot be read.
    pub async fn recall_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        self.recall_suspended(topic, partition).await?;
        self.look_for_moving().await?;
        let name = TopicPartition {
            topic: topic.to_owned(),
            partition,
        };
        let notes = self.parked_notes();
        let filter = doc! { "group": self.catalog.group(), "topic": topic, "partition": partition };
        self.persist("reading parked documents", || async {
            let mut found = notes.find(filter.clone()).await?;
            let mut held = Ok(());
            while let Some(note) = found.try_next().await? {
                held = held.and_then(|()| self.hold_parked(&note, &name));
            }
            Ok(held)
        })
        .await?
    }

    /// Holds the document of a note.
    fn hold_parked(&self, note: &Document, of: &TopicPartition) -> Result<(), ConsumerError> {
        let Some((ns, held)) = read(note, of) else {
            return Err(HeldError::NoteUnreadable {
                collection: COLLECTION,
                note: note.get_str("_id").unwrap_or_default().to_owned(),
            }
            .into());
        };
        self.hold_again(&ns, held)
    }
}

/// Returns a `delete` of this document that deletes nothing if the document has changed.
///
/// The whole document is compared. A field that another client has added or moved counts as a
/// change. An integer that became an equal double does not, nor does a string that became one that
/// is equal under the collection's collation.
fn removal(
    collection: &str,
    stored: document::Document<'_>,
    document_id: document::Element<'_>,
) -> Result<Vec<u8>, Malformed> {
    let mut filter = Vec::new();
    let mut fields = DocumentBuilder::start(&mut filter);
    // Without `$eq`, a regular expression would be matched as a pattern.
    fields.nested("_id", kind::DOCUMENT, |equal| {
        equal.raw("$eq", document_id.kind, document_id.value);
    });
    // A filter on single fields would not notice an added field, and would treat names with `$` or
    // a dot as operators or paths.
    fields.nested("$expr", kind::DOCUMENT, |expression| {
        expression.nested("$eq", kind::ARRAY, |sides| {
            sides.str("0", "$$ROOT");
            sides.nested("1", kind::DOCUMENT, |literal| {
                literal.document("$literal", stored);
            });
        });
    });
    fields.finish();
    let filter = document::Document::new(&filter)?;
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str("delete", collection);
    command.nested("deletes", kind::ARRAY, |list| {
        list.nested("0", kind::DOCUMENT, |statement| {
            statement.document("q", filter).int32("limit", 1);
        });
    });
    command.nested("writeConcern", kind::DOCUMENT, |concern| {
        concern.str("w", "majority");
    });
    command.finish();
    Ok(out)
}

fn read(note: &Document, of: &TopicPartition) -> Option<(String, HeldDocument)> {
    let since = EntryId {
        ts: note.get_str("ts").ok()?.parse().ok()?,
        ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
    };
    let position = RecordPosition {
        name: of.clone(),
        offset: note.get_i64("offset").ok()?,
    };
    let held = HeldDocument {
        id: since,
        document: note.get_binary_generic("document").ok()?.as_slice().into(),
        since,
        position,
        parked_note: Some(note.get_str("_id").ok()?.to_owned()),
        parked_bytes: 0,
        code: DUPLICATE_KEY,
        text: "the stored form was parked for another document".to_owned(),
    };
    Some((note.get_str("ns").ok()?.to_owned(), held))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested<'d>(document: document::Document<'d>, name: &str) -> document::Document<'d> {
        document.get(name).unwrap().unwrap().document().unwrap()
    }

    #[test]
    fn a_removal_compares_the_id_as_a_value_and_the_whole_document() {
        let mut stored = Vec::new();
        let mut document = DocumentBuilder::start(&mut stored);
        document.raw("_id", kind::REGEX, b"a\0\0").int32("$x", 1);
        document.int32("", 1).raw("gone", kind::UNDEFINED, &[]);
        document.finish();
        let stored = document::Document::new(&stored).unwrap();
        let id = stored.get("_id").unwrap().unwrap();
        let command = removal("c", stored, id).unwrap();
        let command = document::Document::new(&command).unwrap();
        let query = nested(nested(nested(command, "deletes"), "0"), "q");
        let equal = nested(query, "_id").get("$eq").unwrap().unwrap();
        assert_eq!((equal.kind, equal.value), (kind::REGEX, &b"a\0\0"[..]));
        let sides = nested(nested(query, "$expr"), "$eq");
        assert_eq!(sides.get("0").unwrap().unwrap().str(), Ok("$$ROOT"));
        let whole = nested(nested(sides, "1"), "$literal");
        assert_eq!(whole.as_bytes(), stored.as_bytes());
    }
}
