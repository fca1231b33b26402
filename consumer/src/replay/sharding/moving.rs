//! Documents that move without a transaction: their last content, in `oplog_relay.moving`.
//!
//! The content is written before the document is deleted, and removed after its new form has been
//! inserted. After a crash in between, the document is missing. The entry that moves it was not
//! committed, so it is applied again, and its update is applied to the kept content. If the target
//! refuses the new form for good, the kept content is inserted again.
//!
//! ```text
//! {_id: "<group>/<db.collection>/<canonical _id in hexadecimal>", group, ns, document: <BSON bytes>,
//!  ts: "<seconds>:<increment>", ord}
//! ```
//!
//! `ts` and `ord` identify the last entry of the change that moves the document.

use std::sync::Arc;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use oplog_relay_core::document::{Document as Raw, Malformed};
use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;

use crate::error::ConsumerError;
use crate::replay::catalog::collection;
use crate::replay::damage::damaged;
use crate::replay::held_documents::error::HeldError;
use crate::replay::held_documents::held_document::{
    HeldDocument, IdentifiedDocument, KeyedDocument, read as read_document,
};
use crate::replay::held_documents::{identity_of, key as held_key};
use crate::replay::note::write_note;
use crate::replay::plan::{Action, Routing, Write};
use crate::replay::sharding::run::{Place, Places};
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::Sent;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

const COLLECTION: &str = "moving";

/// The first write of each document of a batch, by canonical `_id`.
type FirstWrites<'w, 'a> = FxHashMap<Vec<u8>, &'w Write<'a>>;

/// A note of a document that is written to.
pub(crate) struct Recalled<'w, 'a> {
    /// The `_id` of the note.
    note: String,
    /// The first write of the document.
    write: &'w Write<'a>,
}

impl MongoSink {
    fn moving(&self) -> Collection<Document> {
        collection(&self.target.client, COLLECTION)
    }

    /// Writes the note of a document that is about to be deleted. Returns the `_id` of the note.
    pub(crate) async fn note_moving(
        &self,
        ns: &str,
        write: &Write<'_>,
        stored: &[u8],
    ) -> Result<String, ConsumerError> {
        let note_id = self.note_id(ns, &identity_of(ns, write.document_id)?);
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

    /// Returns the `_id` of the note of a document with this canonical `_id`.
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
        let note = self.note_id(ns, &identity_of(ns, write.document_id)?);
        self.delete_moving(ns, &[note]).await
    }

    /// Checks whether an earlier owner of a partition left documents that it was moving.
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

    /// Inserts the kept content of a document whose new form the target has refused for good, and deletes
    /// its note. Nothing is inserted if the document is stored. If the target refuses the kept content
    /// too, the note stays.
    pub(crate) async fn restore_moving(
        &self,
        ns: &str,
        write: &Write<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let sharding = self.target.sharding.as_ref();
        let may_have = sharding.is_some_and(super::known::Sharding::may_have_moving);
        if !may_have || self.held().contains_key(&held_key(ns, write.document_id)?) {
            return Ok(Applied::Done);
        }
        let note_id = self.note_id(ns, &identity_of(ns, write.document_id)?);
        let notes = self.moving();
        let filter = doc! { "_id": &note_id };
        let found = self
            .persist("reading documents that move to another shard", || {
                notes.find_one(filter.clone()).into_future()
            })
            .await?;
        let Some(found) = found else {
            return Ok(Applied::Done);
        };
        if self.stored(ns, write).await?.is_none() {
            let Note { document, .. } = read(&found)?;
            let inserted = self.insert_kept(ns, write, &document, token).await?;
            // If an index refuses the kept content, it stays in its note. A document that is held would
            // keep the committed offset back although nothing waits for it.
            self.held().remove(&held_key(ns, write.document_id)?);
            if inserted == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            if self.stored(ns, write).await?.is_none() {
                tracing::warn!(
                    ns,
                    entry = %write.id,
                    note = note_id,
                    "the target refused to move a document and now refuses its previous content; the \
                     content is kept in oplog_relay.moving"
                );
                return Ok(Applied::Done);
            }
        }
        self.delete_moving(ns, &[note_id]).await?;
        Ok(Applied::Done)
    }

    /// Restores the documents of these writes that are being moved, before the replay stops because of
    /// this error: they must not be missing while it is stopped. The note of a document that cannot be
    /// restored stays.
    pub(crate) async fn restore_before_stop(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        error: &ConsumerError,
        token: &Token,
    ) {
        if matches!(error, ConsumerError::Interrupted(_)) {
            return;
        }
        if let Err(other) = self.restore_all_moving(ns, writes, token).await {
            tracing::warn!(
                ns,
                error = %other,
                "documents that were being moved cannot be restored before the replay stops; their \
                 content is kept in oplog_relay.moving until their entries are applied again"
            );
        }
    }

    /// Restores the documents of a partition that are held while they move, before the replay stops
    /// because of this error. They are no longer held then.
    pub async fn restore_held(
        &self,
        topic: &str,
        partition: i32,
        error: &ConsumerError,
        token: &Token,
    ) {
        for KeyedDocument { key, held } in self.held_of(topic, partition) {
            self.restore_one_held(&key.ns, &held, error, token).await;
        }
    }

    /// Restores a document that is held while it moves, before the replay stops because of this error.
    /// It is no longer held then.
    pub(crate) async fn restore_one_held(
        &self,
        ns: &str,
        held: &HeldDocument,
        error: &ConsumerError,
        token: &Token,
    ) {
        let Ok(IdentifiedDocument {
            document,
            document_id,
        }) = read_document(ns, &held.document)
        else {
            return;
        };
        // A document that is held is not restored.
        if let Ok(key) = held_key(ns, document_id) {
            self.held().remove(&key);
        }
        let write = held.write(document_id, Action::Insert(document));
        let writes = std::slice::from_ref(&write);
        self.restore_before_stop(ns, writes, error, token).await;
    }

    async fn restore_all_moving(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<(), ConsumerError> {
        let sharding = self.target.sharding.as_ref();
        if !sharding.is_some_and(super::known::Sharding::may_have_moving) {
            return Ok(());
        }
        let mut by_note = FxHashMap::default();
        for write in writes {
            let identity = identity_of(ns, write.document_id)?;
            by_note.insert(self.note_id(ns, &identity), write);
        }
        for found in self.notes_among(by_note.keys()).await? {
            if let Some(write) = by_note.get(&read(&found)?.id)
                && self.restore_moving(ns, write, token).await? == Applied::Abandoned
            {
                // The next owner of the partition restores the documents.
                break;
            }
        }
        Ok(())
    }

    /// Returns the notes with these `_id`s.
    async fn notes_among(
        &self,
        wanted: impl Iterator<Item = &String>,
    ) -> Result<Vec<Document>, ConsumerError> {
        let wanted: Vec<&String> = wanted.collect();
        let filter = doc! { "_id": { "$in": wanted } };
        let notes = self.moving();
        self.persist("reading documents that move to another shard", || async {
            let found = notes.find(filter.clone()).await?;
            found.try_collect::<Vec<Document>>().await
        })
        .await
    }

    /// Inserts the kept content of a document. Returns `Done` even if the target refuses it.
    async fn insert_kept(
        &self,
        ns: &str,
        write: &Write<'_>,
        document: &[u8],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let failed = |error: Malformed| damaged(ns, &error);
        let document = Raw::new(document).map_err(failed)?;
        let key = self.shard_key_of(ns).await?;
        let values = match &key {
            Some(key) => key.values_of(document).map_err(failed)?,
            None => Vec::new(),
        };
        let routing = match &key {
            Some(key) => key.routing(&values).map_err(failed)?,
            None => Routing::NONE,
        };
        let insert = Write {
            action: Action::Insert(document),
            routing,
            ..*write
        };
        Ok(match self.insert_moved(ns, insert, token).await? {
            Sent::Abandoned => Applied::Abandoned,
            Sent::Done | Sent::Misrouted(_) => Applied::Done,
        })
    }

    /// Deletes the notes of documents that are stored again after their writes, and inserts the kept
    /// content of those whose writes were refused. The note of a held document stays, because the
    /// document is only in memory.
    pub(crate) async fn end_recalled(
        &self,
        ns: &str,
        recalled: Vec<Recalled<'_, '_>>,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut ended = Vec::new();
        for Recalled { note, write } in recalled {
            if self.held().contains_key(&held_key(ns, write.document_id)?) {
                continue;
            }
            let is_same = |other: &&Write<'_>| other.document_id.value == write.document_id.value;
            let mut same = writes.iter().filter(is_same);
            let is_deleted = same
                .next_back()
                .is_some_and(|last| matches!(last.action, Action::Delete));
            let is_refused = writes
                .iter()
                .filter(is_same)
                .any(|write| self.is_refused(ns, write));
            if is_deleted || !is_refused {
                ended.push(note);
            } else if self.restore_moving(ns, write, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        self.delete_moving(ns, &ended).await?;
        Ok(Applied::Done)
    }

    /// Adds to `places` the documents that are missing because they were being moved. Returns the notes
    /// to delete once the writes are acknowledged.
    ///
    /// Another member may have written notes that this one does not know of, so an update of a missing
    /// document always looks for one. A note counts only for the entry that it was written for, and for
    /// earlier entries that are applied again: the document of a later entry is missing for another
    /// reason.
    pub(crate) async fn recall_moving<'w, 'a>(
        &self,
        ns: &str,
        writes: &'w [Write<'a>],
        places: &mut Places,
    ) -> Result<Vec<Recalled<'w, 'a>>, ConsumerError> {
        let sharding = self.target.sharding.as_ref();
        let expects = sharding.is_some_and(super::known::Sharding::may_have_moving);
        let mut first = FirstWrites::default();
        for write in writes {
            first
                .entry(identity_of(ns, write.document_id)?)
                .or_insert(write);
        }
        first.retain(|identity, write| {
            expects || !(write.action.is_whole() || places.contains_key(identity))
        });
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let mut by_note: FxHashMap<String, Vec<u8>> = FxHashMap::default();
        for identity in first.keys() {
            by_note.insert(self.note_id(ns, identity), identity.clone());
        }
        let found = self.notes_among(by_note.keys()).await?;
        let mut recalled = Vec::new();
        for found in found {
            let Note {
                id,
                since,
                document,
            } = read(&found)?;
            let Some(identity) = by_note.remove(&id) else {
                continue;
            };
            let Some(write) = first.get(&identity).copied() else {
                continue;
            };
            if !places.contains_key(&identity) && write.id <= since {
                places.insert(identity, Place::Moving(document));
                if let Some(sharding) = sharding {
                    sharding.expect_moving();
                }
            }
            recalled.push(Recalled { note: id, write });
        }
        Ok(recalled)
    }
}

/// The kept content of a document.
struct Note {
    id: String,
    /// The entry for which it was written.
    since: EntryId,
    document: Arc<[u8]>,
}

/// Reads a note. Fails if it is not in the form in which this program writes it.
fn read(note: &Document) -> Result<Note, ConsumerError> {
    let read = || {
        let since = EntryId {
            ts: note.get_str("ts").ok()?.parse().ok()?,
            ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
        };
        let document = note.get_binary_generic("document").ok()?;
        let id = note.get_str("_id").ok()?;
        Some(Note {
            id: id.to_owned(),
            since,
            document: Arc::from(document.as_slice()),
        })
    };
    let unreadable = || HeldError::NoteUnreadable {
        collection: COLLECTION,
        note: note.get_str("_id").unwrap_or_default().to_owned(),
    };
    Ok(read().ok_or_else(unreadable)?)
}
