//! Writes that the target refuses for good: they stop the program, or wait here for their batch's
//! end, to become dead letters.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use futures_util::StreamExt;
use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::command::scope;
use oplog_relay_core::document::Document;
use oplog_relay_core::key::write_id_identity;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::catalog::{Change, Note};
use crate::replay::damage::damaged;
use crate::replay::deferred::held_document::{HeldDocument, UNRESOLVED};
use crate::replay::plan::{Action, Write};
use crate::replay::target::MongoSink;
use crate::replay::writes::find::{Fields, ReadLevel, find_command};
use crate::worker::applied::Refusal;
use crate::worker::batch::{Batch, Located};

/// Documents that are asked for at once.
const AT_ONCE: usize = 1_000;

impl MongoSink {
    /// Nothing can be left half done under this lock.
    fn refused(&self) -> MutexGuard<'_, Vec<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is refused for this reason becomes a dead letter.
    pub(crate) fn is_dead_lettered(&self, reason: Reason) -> bool {
        self.dead_letter.contains(&reason)
    }

    /// Takes a write that the target refuses.
    ///
    /// # Errors
    /// The text, where the operator wants to stop there.
    pub(crate) fn refuse(
        &self,
        ns: &str,
        write: &Write<'_>,
        (reason, code): (Reason, Option<i32>),
        text: String,
    ) -> Result<(), ConsumerError> {
        if !self.is_dead_lettered(reason) {
            return Err(ConsumerError::Refused(text));
        }
        let mut refused = self.refused();
        // One entry may be several writes.
        if !refused.iter().any(|it| it.id == write.id && it.ns == ns) {
            refused.push(Refusal {
                id: write.id,
                ns: ns.to_owned(),
                reason,
                code,
                text,
                place: None,
                whole: None,
            });
        }
        Ok(())
    }

    /// What was refused of a batch, and of documents of its partition that were held until then.
    #[must_use]
    pub fn take_refused(&self, batch: &Batch<'_>) -> Vec<Refusal> {
        let mut refused = self.refused();
        if refused.is_empty() {
            return Vec::new();
        }
        let is_of = |refusal: &Refusal| match &refusal.place {
            Some((topic, partition, _)) => topic == batch.topic && *partition == batch.partition,
            None => {
                let mut entries = batch.entries.iter();
                entries.any(|it| it.id == refusal.id && it.entry.ns == refusal.ns)
            }
        };
        let (ours, others) = std::mem::take(&mut *refused).into_iter().partition(is_of);
        *refused = others;
        ours
    }

    /// Says of a held document's write where it stood, if it was refused: its batch may be long
    /// gone. Returns whether it was.
    pub(crate) fn place_refused(
        &self,
        ns: &str,
        held: &HeldDocument,
    ) -> Result<bool, ConsumerError> {
        let mut refused = self.refused();
        let mut all = refused.iter_mut();
        let Some(refusal) = all.find(|it| it.id == held.id && it.ns == ns) else {
            return Ok(false);
        };
        refusal.place.clone_from(&held.place);
        refusal.whole = Some(held.entry(ns)?);
        Ok(true)
    }

    /// What is held for a partition, where that is to be dead letters at a barrier.
    ///
    /// # Errors
    /// When a document is damaged.
    pub fn refuse_held(&self, topic: &str, partition: i32) -> Result<Vec<Refusal>, ConsumerError> {
        if !self.is_dead_lettered(Reason::Write) {
            return Ok(Vec::new());
        }
        let held = self.held_of(topic, partition).into_iter();
        held.map(|((ns, _), held)| {
            let text = format!(
                "the document of {ns} waits since entry {} because an index of the target \
                 refuses it (code {}: {}), and a command or the end came; the value is the document as \
                 the entries up to {} made it: {UNRESOLVED}",
                held.since, held.code, held.text, held.id
            );
            Ok(Refusal {
                id: held.id,
                reason: Reason::Write,
                code: Some(held.code),
                text,
                whole: Some(held.entry(&ns)?),
                place: held.place,
                ns,
            })
        })
        .collect()
    }

    /// Gives up what is held for a partition.
    ///
    /// # Errors
    /// When the target refuses to forget what was set aside.
    pub async fn give_up_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        for (key, held) in self.held_of(topic, partition) {
            self.forget_aside(held.aside.as_deref()).await?;
            self.held().remove(&key);
        }
        Ok(())
    }

    /// Makes the updates dead letters that found no document.
    pub(crate) async fn bury_unmatched(
        &self,
        ns: &str,
        executed: &[Write<'_>],
    ) -> Result<(), ConsumerError> {
        for part in executed.chunks(AT_ONCE) {
            let present = self
                .persist("looking for documents", || self.present_ids(ns, part))
                .await?;
            for write in part.iter().filter(|write| !write.action.is_whole()) {
                let mut identity = Vec::new();
                write_id_identity(write.document_id, &mut identity)
                    .map_err(|error| damaged(ns, &error))?;
                if !present.contains(&identity) {
                    self.refuse_unmatched(ns, write)?;
                }
            }
        }
        Ok(())
    }

    /// Takes an update that found no document.
    pub(crate) fn refuse_unmatched(
        &self,
        ns: &str,
        write: &Write<'_>,
    ) -> Result<(), ConsumerError> {
        let text = format!(
            "the update of entry {} found no document of {ns} on the target",
            write.id
        );
        // What follows an insert or a replacement that was refused is the same entry's.
        if matches!(write.action, Action::Zeros(_)) {
            return Ok(());
        }
        self.refuse(ns, write, (Reason::Unmatched, None), text)
    }

    /// The identities of the documents that are there.
    async fn present_ids(
        &self,
        ns: &str,
        writes: &[Write<'_>],
    ) -> mongodb::error::Result<HashSet<Vec<u8>>> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let ids = writes.iter().map(|write| write.document_id);
        let command = find_command(collection, ids, (ReadLevel::Local, Fields::Id));
        let command = RawDocumentBuf::from_bytes(command)?;
        let database = self.client.database(db);
        let mut cursor = database.run_raw_cursor_command(command).batch().await?;
        let mut found = HashSet::new();
        while let Some(reply) = cursor.next().await {
            for element in reply?.doc_slices()?.into_iter() {
                let bytes = element?
                    .as_document()
                    .map(mongodb::bson::RawDocument::as_bytes);
                let id = bytes.and_then(|bytes| Document::new(bytes).ok()?.get("_id").ok()?);
                let mut identity = Vec::new();
                if id.is_some_and(|id| write_id_identity(id, &mut identity).is_ok()) {
                    found.insert(identity);
                }
            }
        }
        Ok(found)
    }

    /// Notes a command as passed over. The collection of a `create` begins all the same: its
    /// documents make it, a plain one.
    ///
    /// # Errors
    /// When the target refuses the note.
    pub async fn pass_over(
        &self,
        source: &str,
        located: &Located<'_>,
    ) -> Result<(), ConsumerError> {
        let Located { id, entry, .. } = located;
        let scope = scope(entry).ok().flatten();
        let ns = scope.map_or_else(|| entry.ns.to_owned(), |scope| scope.ns());
        let mut note = Note::passed_over(*id, ns, entry.ui);
        let command = entry.command();
        if command.is_ok_and(|command| command.name == b"create") {
            note.ran.change = Change::Created;
        }
        self.note(source, &note).await
    }
}
