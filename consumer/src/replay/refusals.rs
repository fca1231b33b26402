//! Writes that the target refuses permanently. They stop the program, or are collected until the
//! end of their batch and become dead letters.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use oplog_relay_core::command::scope;
use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::catalog::{Change, Note};
use crate::replay::held_documents::held_document::{
    HeldDocument, IdentifiedDocument, KeyedDocument, read,
};
use crate::replay::held_documents::identity_of;
use crate::replay::plan::{Action, Write};
use crate::replay::sink::MongoSink;
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::find::{Fields, ReadLevel, Replies, find_command};
use crate::worker::applied::{Applied, Refusal};
use crate::worker::assignment::Token;
use crate::worker::batch::{Batch, Located};

/// Number of documents that are looked up with one query.
const AT_ONCE: usize = 1_000;

impl MongoSink {
    /// Returns the collected refusals. A panic cannot leave them inconsistent, so poisoning is
    /// ignored.
    fn refused(&self) -> MutexGuard<'_, Vec<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if refusals with this reason become dead letters.
    pub(crate) fn is_dead_lettered(&self, reason: Reason) -> bool {
        self.policies.dead_letter.contains(&reason)
    }

    /// Collects a write that the target refuses, so that it becomes a dead letter.
    ///
    /// # Errors
    /// Returns the failure as an error if refusals with this reason stop the program.
    pub(crate) fn refuse(
        &self,
        ns: &str,
        write: &Write<'_>,
        reason: Reason,
        code: Option<i32>,
        failure: WriteFailure,
    ) -> Result<(), ConsumerError> {
        if !self.is_dead_lettered(reason) {
            return Err(failure.into());
        }
        let mut refused = self.refused();
        // One entry may consist of several writes, but becomes one dead letter.
        if !refused.iter().any(|it| it.is_of(ns, write)) {
            refused.push(Refusal {
                id: write.id,
                ns: ns.to_owned(),
                reason,
                code,
                text: failure.to_string(),
                position: write.origin.position(),
                whole: None,
            });
        }
        Ok(())
    }

    /// Returns true if a write of the same entry was refused in the batches under way.
    pub(crate) fn is_refused(&self, ns: &str, write: &Write<'_>) -> bool {
        self.refused().iter().any(|it| it.is_of(ns, write))
    }

    /// Removes the writes that restore the zero timestamps of documents whose own writes were refused:
    /// the documents are stored as they were before, or not at all.
    pub(crate) fn remove_zeros_of_refused(&self, ns: &str, writes: &mut Vec<Write<'_>>) {
        let is_zeros = |write: &Write<'_>| matches!(write.action, Action::Zeros(_));
        writes.retain(|write| !is_zeros(write) || !self.is_refused(ns, write));
    }

    /// Refuses a write that was sent as a part of another write, which was refused.
    pub(crate) fn refuse_with(&self, ns: &str, write: &Write<'_>, other: &Write<'_>) {
        let mut refused = self.refused();
        if refused.iter().any(|it| it.is_of(ns, write)) {
            return;
        }
        let Some(found) = refused.iter().find(|it| it.is_of(ns, other)) else {
            return;
        };
        let refusal = Refusal {
            id: write.id,
            position: write.origin.position(),
            whole: None,
            ..found.clone()
        };
        refused.push(refusal);
    }

    /// Removes and returns the refusals of a batch, and those of held documents of its partition. A
    /// partition has one batch at a time.
    #[must_use]
    pub fn take_refused(&self, batch: &Batch<'_>) -> Vec<Refusal> {
        let mut refused = self.refused();
        if refused.is_empty() {
            return Vec::new();
        }
        let is_of = |refusal: &Refusal| refusal.position.name.is(batch.topic, batch.partition);
        let (ours, others) = std::mem::take(&mut *refused).into_iter().partition(is_of);
        *refused = others;
        ours
    }

    /// Discards the refusals of a partition that was revoked.
    pub(crate) fn forget_refused(&self, topic: &str, partition: i32) {
        let is_of = |refusal: &Refusal| refusal.position.name.is(topic, partition);
        self.refused().retain(|refusal| !is_of(refusal));
    }

    /// Adds the state of a held document, and the position of its first held entry, to the refusal of
    /// its write, because the batch of its entry may already be done. Returns true if the write was
    /// refused.
    pub(crate) fn complete_refusal(
        &self,
        ns: &str,
        held: &HeldDocument,
        write: &Write<'_>,
    ) -> Result<bool, ConsumerError> {
        let mut refused = self.refused();
        let Some(refusal) = refused.iter_mut().find(|it| it.is_of(ns, write)) else {
            return Ok(false);
        };
        refusal.position.clone_from(&held.position);
        refusal.whole = Some(held.entry(ns)?);
        Ok(true)
    }

    /// Returns the documents that are still held for a partition at a barrier, or at the end of the
    /// replay, as refusals, if they are to become dead letters.
    ///
    /// # Errors
    /// Returns an error if a document is damaged.
    pub fn refuse_held(&self, topic: &str, partition: i32) -> Result<Vec<Refusal>, ConsumerError> {
        if !self.is_dead_lettered(Reason::Write) {
            return Ok(Vec::new());
        }
        let held = self.held_of(topic, partition).into_iter();
        held.map(|KeyedDocument { key, held }| {
            let ns = key.ns;
            let failure = WriteFailure::StillHeld {
                ns: ns.clone(),
                since: held.since,
                entry: held.id,
                refusal: held.refusal(),
            };
            Ok(Refusal {
                id: held.id,
                reason: Reason::Write,
                code: Some(held.code),
                text: failure.to_string(),
                whole: Some(held.entry(&ns)?),
                position: held.position,
                ns,
            })
        })
        .collect()
    }

    /// Releases the documents held for a partition, after they have become dead letters.
    ///
    /// # Errors
    /// Returns an error if the target refuses to delete the notes of parked documents.
    pub async fn give_up_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        for KeyedDocument { key, held } in self.held_of(topic, partition) {
            self.delete_parked_note(held.parked_note.as_deref()).await?;
            self.held().remove(&key);
            // While a document moves between shards, its stored form is only in a note: it is
            // restored.
            let IdentifiedDocument {
                document,
                document_id,
            } = read(&key.ns, &held.document)?;
            let write = held.write(document_id, Action::Replace(document));
            let token = Token::default();
            let restored = Box::pin(self.restore_moving(&key.ns, &write, &token)).await?;
            if restored == Applied::Abandoned {
                // The program ends; the note stays.
                break;
            }
        }
        Ok(())
    }

    /// Turns the updates whose document does not exist into dead letters. The reply to an update
    /// command has only the number of matched documents, so the documents are looked up.
    pub(crate) async fn dead_letter_unmatched(
        &self,
        ns: &str,
        executed: &[Write<'_>],
    ) -> Result<(), ConsumerError> {
        for part in executed.chunks(AT_ONCE) {
            let level = self.settled().await?;
            let present = self
                .persist("looking up documents", || self.present_ids(ns, part, level))
                .await?;
            for write in part.iter().filter(|write| !write.action.is_whole()) {
                if !present.contains(&identity_of(ns, write.document_id)?) {
                    self.refuse_unmatched(ns, write)?;
                }
            }
        }
        Ok(())
    }

    /// Collects an update that did not find a document, so that it becomes a dead letter.
    pub(crate) fn refuse_unmatched(
        &self,
        ns: &str,
        write: &Write<'_>,
    ) -> Result<(), ConsumerError> {
        // The insert or replacement of the same entry has already been refused.
        if matches!(write.action, Action::Zeros(_)) {
            return Ok(());
        }
        let failure = WriteFailure::Unmatched {
            entry: write.id,
            ns: ns.to_owned(),
        };
        self.refuse(ns, write, Reason::Unmatched, None, failure)
    }

    /// Returns the canonical `_id`s of the documents that exist.
    async fn present_ids(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        level: ReadLevel,
    ) -> mongodb::error::Result<HashSet<Vec<u8>>> {
        let Namespace { db, collection } = Namespace::split(ns);
        let ids = writes.iter().map(|write| write.document_id);
        let command = find_command(collection, ids, level, Fields::Id);
        let documents = self.read_documents(db, &command, Replies::All).await?;
        let identities = documents.iter().filter_map(|document| {
            let id = Document::new(document).ok()?.get("_id").ok()??;
            identity_of(ns, id).ok()
        });
        Ok(identities.collect())
    }

    /// Records a command as skipped. A skipped `create` still counts as the creation of its
    /// collection, because the first document creates the collection with default options.
    ///
    /// # Errors
    /// Returns an error if the target refuses the note.
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
