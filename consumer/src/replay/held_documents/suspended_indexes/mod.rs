//! Indexes of the target that are suspended while a stretch of the oplog is applied again.
//!
//! When a stretch is applied again, the target is ahead of its entries. An index may then refuse a
//! document that is valid at its position in the oplog, because the index is newer than the entry,
//! or because another document already has a value that an entry later in the oplog gives it. The
//! definition of such an index is recorded in `oplog_relay.suspended_indexes` on the target, and
//! the index is dropped. The command that created it still counts as run.
//!
//! The index is built again when the target is no longer ahead:
//!
//! - before the next command of its collection that has not run and that has a full barrier,
//!   because no entry after such a command has been applied (a `create` or `drop` needs no
//!   indexes);
//! - when its partition applies entries that are newer than the suspension, or has nothing left to
//!   apply;
//! - before a replay with `--until-caught-up` ends.
//!
//! An index that the target cannot convert is dropped and built again in the same way (`rebuild`).
//!
//! If a build fails during the stretch, it is retried later, because other partitions may still be
//! applying the stretch. Before a command, and at the end of the replay, a failed build stops the
//! replay.
//!
//! ```text
//! {_id: "<group>/<db.collection>/<index>", group, ns, name, index: <definition as BSON bytes>, topic,
//!  partition, ts: "<seconds>:<increment>", ord}
//! ```
//!
//! `ts` and `ord` identify the entry that the index refused, or the command that rebuilds the index. The
//! note of such a command has no partition.

pub(crate) mod note;
mod rebuild;

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use oplog_relay_core::document;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::index::may_refuse;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::replay::catalog::{Change, Ran, collection};
use crate::replay::commands::Execution;
use crate::replay::commands::attempt::Attempt;
use crate::replay::directive::DUPLICATE_KEY;
use crate::replay::held_documents::error::HeldError;
use crate::replay::held_documents::held_document::HeldDocument;
use crate::replay::note::write_note;
use crate::replay::plan::translation::done;
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::MAX_TIME_MS;
use crate::replay::writes::reply::WriteError;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

use crate::replay::held_documents::suspended_indexes::note::{
    COLLECTION, MakingWay, SuspendedIndex, now,
};

/// The pause after the first failed build. It doubles with each failure, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

/// The outcome of building a suspended index.
enum Restored {
    Done,
    Refused(mongodb::error::Error),
    Abandoned,
}

impl MongoSink {
    fn suspended(&self) -> MutexGuard<'_, Vec<SuspendedIndex>> {
        self.held_documents
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn suspended_notes(&self) -> Collection<Document> {
        collection(&self.target.client, COLLECTION)
    }

    /// Suspends the indexes that may have refused a held document with this error, if `making_way`
    /// allows that. Returns true if at least one was suspended. None is suspended after the partition was
    /// revoked.
    pub(crate) async fn make_way(
        &self,
        ns: &str,
        held: &HeldDocument,
        error: &WriteError,
        making_way: MakingWay,
        token: &Token,
    ) -> Result<bool, ConsumerError> {
        let mut is_any_suspended = false;
        for definition in self.indexes_of(ns).await? {
            let name = definition.get_str("name").unwrap_or_default();
            if !refuses(&definition, error) {
                continue;
            }
            let may_be_older = making_way == MakingWay::AlsoOlder && error.code == DUPLICATE_KEY;
            let after = (!may_be_older).then_some(held.id);
            // Indexes that the replay did not create belong to the target and are not dropped.
            let creator = self.persist("reading the catalog", || {
                self.catalog.creator_of(ns, name, after)
            });
            if creator.await?.is_none() {
                continue;
            }
            let index = SuspendedIndex {
                owner: Some(held.position.name.clone()),
                ..self.index_to_drop(ns, held.id, definition)
            };
            is_any_suspended |= self.suspend(index, token).await? == Applied::Done;
        }
        Ok(is_any_suspended)
    }

    /// Returns the note of an index that is about to be dropped and will be built by this definition.
    fn index_to_drop(&self, ns: &str, entry: EntryId, definition: Document) -> SuspendedIndex {
        let name = definition.get_str("name").unwrap_or_default();
        SuspendedIndex {
            note: format!("{}/{ns}/{name}", self.catalog.group()),
            ns: ns.to_owned(),
            owner: None,
            entry,
            since: now(),
            failures: 0,
            next: Instant::now(),
            definition,
        }
    }

    /// Suspends an index of a partition.
    async fn suspend(
        &self,
        index: SuspendedIndex,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        tracing::warn!(
            ns = index.ns,
            index = %index.definition,
            entry = %index.entry,
            "dropping an index of the target, because it refuses a document of a stretch of the oplog \
             that is being applied again. Its definition is recorded in {CATALOG_DB}.{COLLECTION}; \
             the index is built again when the stretch has been applied"
        );
        if self.record_and_drop(&index, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        let mut suspended = self.suspended();
        suspended.retain(|other| other.note != index.note);
        suspended.push(index);
        Ok(Applied::Done)
    }

    /// Records an index and drops it, unless the partition is revoked before the drop: the next owner may
    /// have built the index again in the meantime.
    async fn record_and_drop(
        &self,
        index: &SuspendedIndex,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let notes = self.suspended_notes();
        // The note is written before the index is dropped, so that a member that finds it after a crash
        // builds the index again.
        let recorded = self
            .persist_owned("recording a suspended index", token, || async {
                let note = index.document(self.catalog.group())?;
                write_note(&notes, &index.note, note).await
            })
            .await?;
        match recorded {
            Some(()) => self.drop_recorded(index, token).await,
            None => Ok(Applied::Abandoned),
        }
    }

    /// Drops an index whose note was written.
    async fn drop_recorded(
        &self,
        index: &SuspendedIndex,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(&index.ns);
        let drop = doc! {
            "dropIndexes": collection, "index": index.name(), "maxTimeMS": MAX_TIME_MS,
        };
        let dropped = self
            .persist_owned("dropping an index", token, || {
                self.run_on_indexes(db, &drop)
            })
            .await?;
        // Without the unique index, the order across documents may no longer matter.
        self.forget_order();
        Ok(match dropped {
            Some(_) => Applied::Done,
            None => Applied::Abandoned,
        })
    }

    /// Returns the definitions of a collection's indexes; an empty list if the collection does not
    /// exist.
    pub(crate) async fn indexes_of(&self, ns: &str) -> Result<Vec<Document>, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        // A collection has at most 64 indexes, which fit in the first batch.
        let list = doc! { "listIndexes": collection };
        let reply = self
            .persist("listing indexes", || self.run_on_indexes(db, &list))
            .await?;
        let batch = reply.get_document("cursor").ok();
        let batch = batch.and_then(|cursor| cursor.get_array("firstBatch").ok());
        let found = batch.into_iter().flatten();
        Ok(found.filter_map(Bson::as_document).cloned().collect())
    }

    /// Returns true if indexes are suspended for a partition.
    #[must_use]
    pub fn has_suspended(&self, topic: &str, partition: i32) -> bool {
        let suspended = self.suspended();
        suspended.iter().any(|index| index.is_of(topic, partition))
    }

    /// Discards the suspended indexes of a partition that was revoked. Its next owner reads their notes.
    pub(crate) fn forget_suspended(&self, topic: &str, partition: i32) {
        self.suspended()
            .retain(|index| !index.is_of(topic, partition));
    }

    /// Takes over the indexes that an earlier owner of a partition suspended.
    pub(crate) async fn recall_suspended(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<(), ConsumerError> {
        let found = self
            .noted(doc! { "topic": topic, "partition": partition })
            .await?;
        // The collection's write order may have changed since it was cached here.
        self.forget_order();
        self.forget_suspended(topic, partition);
        self.suspended().extend(found);
        Ok(())
    }

    /// Returns the suspended indexes of the group whose notes match the filter.
    async fn noted(&self, mut filter: Document) -> Result<Vec<SuspendedIndex>, ConsumerError> {
        filter.insert("group", self.catalog.group());
        let notes = self.suspended_notes();
        let found: Vec<Document> = self
            .persist("reading suspended indexes", || async {
                notes.find(filter.clone()).await?.try_collect().await
            })
            .await?;
        let unreadable = |note: &Document| -> ConsumerError {
            HeldError::NoteUnreadable {
                collection: COLLECTION,
                note: note.get_str("_id").unwrap_or_default().to_owned(),
            }
            .into()
        };
        let read = |note| SuspendedIndex::read(note).ok_or_else(|| unreadable(note));
        found.iter().map(read).collect()
    }

    /// Returns true if any member has suspended indexes of the collection.
    pub(crate) async fn has_suspended_of(&self, ns: &str) -> Result<bool, ConsumerError> {
        Ok(!self.noted(doc! { "ns": ns }).await?.is_empty())
    }

    /// Builds the suspended indexes of a partition again if their stretch has been applied. `applied` is
    /// the time of the last applied entry, or `None` if the partition has nothing to apply.
    ///
    /// # Errors
    /// Returns an error if the target refuses a query. A refused build is retried later.
    pub async fn restore_due(
        &self,
        topic: &str,
        partition: i32,
        applied: Option<u32>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let due: Vec<SuspendedIndex> = {
            let suspended = self.suspended();
            let ours = suspended.iter();
            let due = ours.filter(|it| it.is_of(topic, partition) && it.is_due(applied));
            due.cloned().collect()
        };
        for index in due {
            match self.restore(&index, token).await? {
                Restored::Done => {}
                Restored::Abandoned => return Ok(Applied::Abandoned),
                Restored::Refused(error) => self.delay(&index, &error),
            }
        }
        Ok(Applied::Done)
    }

    /// Postpones the next build of an index that the target refused to build.
    fn delay(&self, refused: &SuspendedIndex, error: &mongodb::error::Error) {
        tracing::warn!(
            ns = refused.ns,
            index = %refused.definition,
            %error,
            "a suspended index cannot be built again yet; retrying later"
        );
        let mut suspended = self.suspended();
        if let Some(index) = suspended.iter_mut().find(|it| it.note == refused.note) {
            let pause = FIRST_PAUSE.saturating_mul(1 << index.failures.min(8));
            index.failures += 1;
            index.since = now();
            index.next = Instant::now() + pause.min(LONGEST_PAUSE);
        }
    }

    /// Builds the suspended indexes of a collection again, before a command that has not run yet.
    ///
    /// # Errors
    /// Returns an error if the target refuses one of the builds.
    pub(crate) async fn restore_of(
        &self,
        ns: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let noted = self.noted(doc! { "ns": ns }).await?;
        self.restore_all(noted, token).await
    }

    /// Builds all suspended indexes of the group again, after every entry has been applied.
    ///
    /// # Errors
    /// Returns an error if the target refuses one of the builds.
    pub async fn restore_suspended(&self) -> Result<(), ConsumerError> {
        let noted = self.noted(Document::new()).await?;
        match self.restore_all(noted, &Token::default()).await? {
            Applied::Done => Ok(()),
            Applied::Abandoned => Err(ConsumerError::interrupted(&self.target.shutdown)),
        }
    }

    async fn restore_all(
        &self,
        noted: Vec<SuspendedIndex>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        for index in noted {
            match self.restore(&index, token).await? {
                Restored::Done => {}
                Restored::Abandoned => return Ok(Applied::Abandoned),
                Restored::Refused(error) => return Err(index.refusal(&error).into()),
            }
        }
        Ok(Applied::Done)
    }

    /// Builds a suspended index again, and deletes its note.
    async fn restore(
        &self,
        index: &SuspendedIndex,
        token: &Token,
    ) -> Result<Restored, ConsumerError> {
        let notes = self.suspended_notes();
        let note = self
            .persist("reading a suspended index", || async {
                notes.find_one(doc! { "_id": &index.note }).await
            })
            .await?;
        let namespace = Namespace::split(&index.ns);
        // If the note is gone, another member has built the index, or a command has dropped its
        // collection. If the collection is gone, building the index would create it again.
        if note.is_some() && self.listed(namespace).await?.is_some() {
            if self.drop_old_definition(index, token).await? == Applied::Abandoned {
                return Ok(Restored::Abandoned);
            }
            let mut definition = index.definition.clone();
            definition.remove("ns");
            let command = doc! { "createIndexes": namespace.collection, "indexes": [definition] };
            let ran = Ran {
                id: index.entry,
                ns: index.ns.clone(),
                ui: None,
                change: Change::Other,
                offset: None,
            };
            let failed = |error: mongodb::bson::error::Error| HeldError::IndexUnwritable {
                collection: COLLECTION,
                definition: index.definition.clone(),
                ns: index.ns.clone(),
                reason: error.to_string(),
            };
            let command = command.to_vec().map_err(failed)?;
            let execution = Execution {
                db: namespace.db,
                accept: &done::INDEX_TAKEN,
                ran: &ran,
                made_non_unique: false,
            };
            match self.attempt(&command, execution, token).await? {
                Attempt::Done => {
                    tracing::info!(
                        ns = index.ns,
                        index = index.name(),
                        "the suspended index was built again"
                    );
                }
                Attempt::Abandoned => return Ok(Restored::Abandoned),
                Attempt::Refused(error) => return Ok(Restored::Refused(error)),
            }
            self.forget_order();
        }
        self.end_suspension(doc! { "_id": &index.note }).await?;
        self.suspended().retain(|other| other.note != index.note);
        Ok(Restored::Done)
    }

    /// Deletes the notes of the suspended indexes of a collection that is about to be dropped.
    pub(crate) async fn end_suspensions_of(&self, ns: &str) -> Result<(), ConsumerError> {
        let filter = doc! { "group": self.catalog.group(), "ns": ns };
        // Usually no note exists, and a read costs less than a write with majority write concern.
        let notes = self.suspended_notes();
        let found = self
            .persist("reading suspended indexes", || async {
                notes.find_one(filter.clone()).await
            })
            .await?;
        if found.is_none() {
            return Ok(());
        }
        self.end_suspension(filter).await
    }

    /// Deletes the notes that match the filter.
    async fn end_suspension(&self, filter: Document) -> Result<(), ConsumerError> {
        let notes = self.suspended_notes();
        self.persist("deleting the note of a suspended index", || async {
            notes.delete_many(filter.clone()).await.map(drop)
        })
        .await
    }
}

/// Returns the indexes that a group has suspended on a target, as `db.collection index name`.
///
/// # Errors
/// Returns the driver's error.
pub async fn suspended_indexes(
    client: &Client,
    group: &str,
) -> mongodb::error::Result<Vec<String>> {
    let all = collection(client, COLLECTION);
    let found = all.find(doc! { "group": group }).await?;
    let notes: Vec<Document> = found.try_collect().await?;
    let named = notes.iter().map(|note| {
        let text = |field| note.get_str(field).unwrap_or_default();
        format!("{} index {}", text("ns"), text("name"))
    });
    Ok(named.collect())
}

/// Returns true if an index with this definition may have caused the error.
fn refuses(definition: &Document, error: &WriteError) -> bool {
    let name = definition.get_str("name").unwrap_or_default();
    if error.code == DUPLICATE_KEY {
        return name != "_id_" && index_of(&error.text) == Some(name);
    }
    let bytes = definition.to_vec().unwrap_or_default();
    let definition = document::Document::new(&bytes);
    definition.is_ok_and(|definition| may_refuse(definition, error.code) == Ok(true))
}

/// Returns the index that a server's duplicate-key message names.
fn index_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("index: ")?;
    let (name, _) = rest.split_once(" dup key")?;
    // A collation may precede the key.
    let name = name
        .split_once(" collation: ")
        .map_or(name, |(name, _)| name);
    // Servers before 3.6 qualify the index with its collection.
    Some(name.rsplit_once(".$").map_or(name, |(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read_from_a_duplicate_key_message() {
        let text = "E11000 duplicate key error collection: s.a index: k_1 dup key: { k: 1 }";
        assert_eq!(index_of(text), Some("k_1"));
        assert_eq!(
            index_of("E11000 … index: s.a.$k_1 dup key: { : 1 }"),
            Some("k_1")
        );
        let collated = "E11000 … index: k_1 collation: { locale: \"fr\" } dup key: { k: \"0x29\" }";
        assert_eq!(index_of(collated), Some("k_1"));
        assert_eq!(index_of("duplicate"), None);
    }
}
