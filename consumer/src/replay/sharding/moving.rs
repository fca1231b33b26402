//! Documents that move without a transaction: their last content, in `oplog_relay.moving`.
//!
//! The content is written before the document is deleted, and removed after its new form has been
//! inserted. After a crash in between, the document is missing. The entry that moves it was not
//! committed, so it is applied again, and its update is applied to the kept content.

use std::sync::Arc;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use oplog_relay_core::document::Malformed;
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;

use crate::error::ConsumerError;
use crate::replay::catalog::collection;
use crate::replay::damage::damaged;
use crate::replay::held_documents::error::HeldError;
use crate::replay::note::write_note;
use crate::replay::plan::Write;
use crate::replay::sharding::run::{Place, Places};
use crate::replay::sink::MongoSink;

const COLLECTION: &str = "moving";

/// The writes of a batch by the note of their document.
type ByNote<'w, 'a> = FxHashMap<String, (Vec<u8>, &'w Write<'a>)>;

impl MongoSink {
    fn moving(&self) -> Collection<Document> {
        collection(&self.target.client, COLLECTION)
    }

    /// Keeps a document that is about to be deleted. Returns the `_id` of its note.
    pub(crate) async fn note_moving(
        &self,
        ns: &str,
        write: &Write<'_>,
        stored: &[u8],
    ) -> Result<String, ConsumerError> {
        let note_id = self.note_id(ns, &identity_of(ns, write)?);
        let bytes = Binary {
            subtype: BinarySubtype::Generic,
            bytes: stored.to_vec(),
        };
        let note = doc! {
            "_id": &note_id, "group": self.catalog.group(), "ns": ns,
            "ts": write.id.ts.to_string(), "ord": i64::from(write.id.ord), "document": bytes,
        };
        let notes = self.moving();
        if let Some(sharding) = &self.target.sharding {
            sharding.expect_moving();
        }
        self.persist("saving a document that moves to another shard", || {
            write_note(&notes, &note_id, note.clone())
        })
        .await?;
        Ok(note_id)
    }

    fn note_id(&self, ns: &str, identity: &[u8]) -> String {
        use std::fmt::Write as _;
        let mut id = format!("{}/{ns}/", self.catalog.group());
        for byte in identity {
            write!(id, "{byte:02x}").expect("a string accepts every write");
        }
        id
    }

    /// Deletes the notes of documents that are stored again.
    pub(crate) async fn delete_moving(
        &self,
        ns: &str,
        note_ids: &[String],
    ) -> Result<(), ConsumerError> {
        if note_ids.is_empty() {
            return Ok(());
        }
        let notes = self.moving();
        let filter = doc! { "_id": { "$in": note_ids }, "ns": ns };
        self.persist("deleting the note of a document that moved", || {
            notes.delete_many(filter.clone()).into_future()
        })
        .await?;
        Ok(())
    }

    /// Deletes the note of a document that is stored again, if there may be one.
    pub(crate) async fn end_moving(
        &self,
        ns: &str,
        write: &Write<'_>,
    ) -> Result<(), ConsumerError> {
        let sharding = self.target.sharding.as_ref();
        if !sharding.is_some_and(super::known::Sharding::may_have_moving) {
            return Ok(());
        }
        let note = self.note_id(ns, &identity_of(ns, write)?);
        self.delete_moving(ns, &[note]).await
    }

    /// Reads whether an earlier owner of a partition left documents that it was moving.
    pub(crate) async fn look_for_moving(&self) -> Result<(), ConsumerError> {
        let Some(sharding) = &self.target.sharding else {
            return Ok(());
        };
        let notes = self.moving();
        let filter = doc! { "group": self.catalog.group() };
        let found = self
            .persist("reading documents that move to another shard", || {
                notes.find_one(filter.clone()).into_future()
            })
            .await?;
        if found.is_some() {
            sharding.expect_moving();
        }
        Ok(())
    }

    /// Adds the documents that are missing because they were being moved to `places`. Returns the
    /// notes to delete once the writes are acknowledged.
    ///
    /// A note counts only for the entry that it was written for, and for earlier ones that are applied
    /// again: the document of a later entry is missing for another reason.
    pub(crate) async fn recall_moving(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        places: &mut Places,
    ) -> Result<Vec<String>, ConsumerError> {
        let sharding = self.target.sharding.as_ref();
        if !sharding.is_some_and(super::known::Sharding::may_have_moving) {
            return Ok(Vec::new());
        }
        let mut by_note = ByNote::default();
        for write in writes {
            let identity = identity_of(ns, write)?;
            let note = self.note_id(ns, &identity);
            // The first write of a document decides.
            by_note.entry(note).or_insert((identity, write));
        }
        let wanted: Vec<&String> = by_note.keys().collect();
        let filter = doc! { "_id": { "$in": wanted } };
        let notes = self.moving();
        let found = self
            .persist("reading documents that move to another shard", || async {
                let found = notes.find(filter.clone()).await?;
                found.try_collect::<Vec<Document>>().await
            })
            .await?;
        let mut ended = Vec::new();
        for note in found {
            let (id, since, document) = read(&note)?;
            if let Some((identity, write)) = by_note.remove(&id)
                && !places.contains_key(&identity)
                && write.id <= since
            {
                places.insert(identity, Place::Moving(document));
            }
            ended.push(id);
        }
        Ok(ended)
    }
}

fn identity_of(ns: &str, write: &Write<'_>) -> Result<Vec<u8>, ConsumerError> {
    let mut identity = Vec::new();
    let failed = |error: Malformed| damaged(ns, &error);
    write_id_identity(write.document_id, &mut identity).map_err(failed)?;
    Ok(identity)
}

/// Reads the `_id` of a note, the entry for which it was written, and the document.
fn read(note: &Document) -> Result<(String, EntryId, Arc<[u8]>), ConsumerError> {
    let read = || {
        let since = EntryId {
            ts: note.get_str("ts").ok()?.parse().ok()?,
            ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
        };
        let document = note.get_binary_generic("document").ok()?;
        let id = note.get_str("_id").ok()?;
        Some((id.to_owned(), since, Arc::from(document.as_slice())))
    };
    let unreadable = || HeldError::NoteUnreadable {
        collection: COLLECTION,
        note: note.get_str("_id").unwrap_or_default().to_owned(),
    };
    Ok(read().ok_or_else(unreadable)?)
}
