//! Documents that were set aside, kept in the target until their held form is written: a crash in
//! between leaves them to the next owner of their partition.

use std::future::IntoFuture;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::EntryId;

use super::MongoSink;
use super::held::HeldDocument;
use crate::catalog::collection;
use crate::error::ConsumerError;

const COLLECTION: &str = "held";

impl MongoSink {
    fn asides(&self) -> Collection<Document> {
        collection(&self.client, COLLECTION)
    }

    /// Notes a stored document before it is removed; returns the note's name.
    pub(super) async fn note_aside(
        &self,
        ns: &str,
        since: EntryId,
        (topic, partition, offset): &(String, i32, i64),
        stored: &RawDocumentBuf,
    ) -> Result<String, ConsumerError> {
        let group = self.catalog.group();
        let name = format!("{group}/{topic}/{partition}/{since}");
        let bytes = mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: stored.as_bytes().to_vec(),
        };
        let note = doc! {
            "_id": &name, "group": group, "topic": topic, "partition": partition,
            "offset": offset, "ns": ns, "ts": since.ts.to_string(), "ord": i64::from(since.ord),
            "document": bytes,
        };
        let notes = self.asides();
        self.persist("noting a document that is set aside", || {
            let filter = doc! { "_id": &name };
            notes
                .replace_one(filter, note.clone())
                .upsert(true)
                .into_future()
        })
        .await?;
        Ok(name)
    }

    /// Forgets a note when its document is written again, or deleted.
    pub(super) async fn forget_aside(&self, name: Option<&str>) -> Result<(), ConsumerError> {
        let Some(name) = name else { return Ok(()) };
        let notes = self.asides();
        self.persist("forgetting a document that was set aside", || {
            notes.delete_one(doc! { "_id": name }).into_future()
        })
        .await?;
        Ok(())
    }

    /// Takes up what an earlier owner of a partition has set aside.
    ///
    /// # Errors
    /// When the target refuses the question.
    pub async fn recall_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        let notes = self.asides();
        let filter = doc! { "group": self.catalog.group(), "topic": topic, "partition": partition };
        let found: Vec<Document> = self
            .persist("reading documents that were set aside", || async {
                notes.find(filter.clone()).await?.try_collect().await
            })
            .await?;
        for note in found {
            let Some((ns, held)) = read(&note, topic, partition) else {
                let name = note.get_str("_id").unwrap_or_default();
                return Err(ConsumerError::Refused(format!(
                    "{CATALOG_DB}.{COLLECTION} has a note that this version cannot read ({name})"
                )));
            };
            self.hold_again(&ns, held)?;
        }
        Ok(())
    }
}

fn read(note: &Document, topic: &str, partition: i32) -> Option<(String, HeldDocument)> {
    let since = EntryId {
        ts: note.get_str("ts").ok()?.parse().ok()?,
        ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
    };
    let held = HeldDocument {
        id: since,
        document: note.get_binary_generic("document").ok()?.clone(),
        since,
        place: Some((topic.to_owned(), partition, note.get_i64("offset").ok()?)),
        aside: Some(note.get_str("_id").ok()?.to_owned()),
    };
    Some((note.get_str("ns").ok()?.to_owned(), held))
}
