//! Documents that an index of the target refuses temporarily.
//!
//! This happens while entries are applied again. The target is then ahead of the entries, so another
//! document may already have the value, or the index may not have existed when the entry was written.
//! Such a document is held in memory. Later entries are applied to the held document, and its write is
//! retried after each batch, because the indexes accept the final state of every document. The
//! committed offset does not advance beyond the first held entry.
//!
//! An index that is newer than the document it refuses is suspended (`suspended_indexes`). When the
//! partition reaches a command that has already run, unique indexes that the replay created are
//! suspended too, because the command proves that the target is ahead. A document that is still
//! held at a command, or at the end of the replay, stops the replay or becomes a dead letter.
//!
//! Two held documents may each need a value that the stored form of the other has. In this case one of
//! the stored forms, which are both out of date, is parked (`parked`).
//!
//! # Modules
//!
//! - `held_document` describes a held document
//! - `parked` removes a document for a moment, to make room for another one
//! - `suspended_indexes` drops indexes that refuse documents of an earlier time, and builds them
//!   again
//! - `error` has the reasons why held documents or suspended indexes stop the replay

pub mod error;
pub(crate) mod held_document;
pub(crate) mod parked;
pub(crate) mod suspended_indexes;

use std::sync::atomic::Ordering;

use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::held_documents::error::{HeldError, IndexRefusal};
use crate::replay::held_documents::held_document::{
    DocumentKey, HeldDocument, IdentifiedDocument, KeyedDocument, MAX_HELD_BYTES, read,
};
use crate::replay::held_documents::suspended_indexes::note::MakingWay;
use crate::replay::plan::{Action, BulkKind, Write, rewritten};
use crate::replay::sink::MongoSink;
use crate::replay::writes::find::{Fields, find_command};
use crate::replay::writes::reply::WriteError;
use crate::replay::writes::rewrite::inapplicable;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;
use crate::worker::batch::Batch;

/// Maximum number of characters kept of a server's error text, which may quote the document.
const MAX_TEXT_CHARS: usize = 300;

/// The outcome of writing a held document.
pub(crate) enum Tried {
    /// The document was written.
    Released,
    /// It became a dead letter.
    DeadLettered,
    /// An index still refuses the document.
    Refused(WriteError),
    /// The partition was revoked, or the program ends.
    Abandoned,
}

/// The first held entry of a partition.
#[derive(Debug)]
pub struct FirstHeld {
    /// The offset of its record.
    pub offset: i64,
    /// The reason why it is held.
    pub refusal: IndexRefusal,
}

impl MongoSink {
    /// Returns the offset of the first held entry of a partition.
    #[must_use]
    pub fn held_since(&self, topic: &str, partition: i32) -> Option<i64> {
        self.first_held(topic, partition).map(|first| first.offset)
    }

    /// Returns the first held entry of a partition, and the reason why it is held.
    #[must_use]
    pub fn first_held(&self, topic: &str, partition: i32) -> Option<FirstHeld> {
        let held = self.held();
        let ours = held.values().filter(|held| held.is_of(topic, partition));
        let held = ours.min_by_key(|held| held.position.offset)?;
        Some(FirstHeld {
            offset: held.position.offset,
            refusal: held.refusal(),
        })
    }

    /// Discards the documents held, the writes refused and the indexes suspended for a partition that was
    /// revoked. Its next owner reads the entries and the notes again.
    pub fn forget_held(&self, topic: &str, partition: i32) {
        self.forget_refused(topic, partition);
        self.held().retain(|_, held| !held.is_of(topic, partition));
        self.forget_suspended(topic, partition);
    }

    /// Returns the documents held for a partition.
    pub(crate) fn held_of(&self, topic: &str, partition: i32) -> Vec<KeyedDocument> {
        let held = self.held();
        let ours = held.iter().filter(|(_, held)| held.is_of(topic, partition));
        let ours = ours.map(|(key, held)| KeyedDocument {
            key: key.clone(),
            held: held.clone(),
        });
        ours.collect()
    }

    /// Holds the document of a write that an index refused, in the state that the write would produce.
    pub(crate) async fn hold(
        &self,
        ns: &str,
        write: &Write<'_>,
        error: &WriteError,
    ) -> Result<(), ConsumerError> {
        let document: Vec<u8> = match write.action {
            Action::Insert(document) | Action::Replace(document) | Action::Rewritten(document) => {
                document.as_bytes().to_vec()
            }
            // An index cannot refuse a delete.
            Action::Delete => return Ok(()),
            Action::Modify(_)
            | Action::Fields(_)
            | Action::Diff(_)
            | Action::AsIs { .. }
            | Action::Zeros(_) => {
                let Some(stored) = self.stored(ns, write).await? else {
                    self.count_unmatched(ns, std::slice::from_ref(write), 1)?;
                    return if self.is_dead_lettered(Reason::Unmatched) {
                        self.refuse_unmatched(ns, write)
                    } else {
                        Ok(())
                    };
                };
                match self.applied_or_refused(ns, &stored, write)? {
                    Some(document) => document,
                    None => return Ok(()),
                }
            }
        };
        let key = key(ns, write.document_id)?;
        tracing::debug!(
            ns,
            entry = %write.id,
            code = error.code,
            "holding a document that an index of the target refuses"
        );
        self.check_room(document.len())?;
        let mut held = self.held();
        let before = held.get(&key);
        if before.is_none() {
            self.target.metrics.held_documents.inc();
        }
        let since = before.map_or(write.id, |before| before.since);
        let position =
            before.map_or_else(|| write.origin.position(), |before| before.position.clone());
        let parked_note = before.and_then(|before| before.parked_note.clone());
        let parked_bytes = before.map_or(0, |before| before.parked_bytes);
        held.insert(
            key,
            HeldDocument {
                id: write.id,
                document: document.into(),
                since,
                position,
                parked_note,
                parked_bytes,
                code: error.code,
                text: error.text.chars().take(MAX_TEXT_CHARS).collect(),
            },
        );
        Ok(())
    }

    /// Fails if too many bytes are held. The check runs within a batch, because a small update may
    /// cause a large document to be held. Summing over all held documents is expensive, so the
    /// total is computed only after documents of [`MAX_HELD_BYTES`] were added.
    fn check_room(&self, more: usize) -> Result<(), ConsumerError> {
        let since = self
            .held_documents
            .held_since_check
            .fetch_add(more, Ordering::Relaxed)
            + more;
        if since <= MAX_HELD_BYTES {
            return Ok(());
        }
        self.held_documents
            .held_since_check
            .store(0, Ordering::Relaxed);
        self.check_held_bytes()
    }

    /// Returns the bytes of all held documents. A parked stored form counts instead of its document
    /// if it is larger, because the next owner of the partition would hold it.
    pub(crate) fn held_bytes(&self) -> usize {
        let held = self.held();
        held.values()
            .map(|held| held.document.len().max(held.parked_bytes))
            .sum()
    }

    /// Fails if too many bytes are held.
    fn check_held_bytes(&self) -> Result<(), ConsumerError> {
        let bytes = self.held_bytes();
        let held = self.held();
        let last = held.iter().max_by_key(|(_, held)| held.id);
        match last {
            Some((key, last)) if bytes > MAX_HELD_BYTES => Err(HeldError::TooMany {
                documents: held.len(),
                limit_mib: MAX_HELD_BYTES >> 20,
                ns: key.ns.clone(),
                entry: last.id,
                code: last.code,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Holds a document again that an earlier owner of its partition has parked.
    pub(crate) fn hold_again(&self, ns: &str, held: HeldDocument) -> Result<(), ConsumerError> {
        let key = key(ns, read(ns, &held.document)?.document_id)?;
        self.held().insert(key, held);
        Ok(())
    }

    /// Returns the stored form of a write's document, if the document exists.
    pub(crate) async fn stored(
        &self,
        ns: &str,
        write: &Write<'_>,
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let ids = std::iter::once(write.document_id);
        let command = find_command(collection, ids, self.settled().await?, Fields::All);
        self.first_document(db, command).await
    }

    /// Applies the writes that concern held documents to their held state, and returns the other
    /// writes. A delete releases the held document and is returned too, because the target may have
    /// its stored form.
    pub(crate) async fn without_held<'a>(
        &self,
        ns: &str,
        writes: &[Write<'a>],
    ) -> Result<Vec<Write<'a>>, ConsumerError> {
        let mut others = Vec::with_capacity(writes.len());
        for write in writes {
            let key = key(ns, write.document_id)?;
            let Some(held) = self.held().get(&key).cloned() else {
                others.push(*write);
                continue;
            };
            match write.action {
                Action::Delete => {
                    self.held().remove(&key);
                    self.delete_parked_note(held.parked_note.as_deref()).await?;
                    others.push(*write);
                }
                Action::Insert(document)
                | Action::Replace(document)
                | Action::Rewritten(document) => {
                    self.put(&key, write.id, document.as_bytes());
                }
                Action::Modify(_)
                | Action::Fields(_)
                | Action::Diff(_)
                | Action::AsIs { .. }
                | Action::Zeros(_) => {
                    if let Some(document) = self.applied_or_refused(ns, &held.document, write)? {
                        self.put(&key, write.id, &document);
                    }
                }
            }
        }
        Ok(others)
    }

    /// Returns a document after an update has been applied to it; `None` if the update cannot be
    /// applied and becomes a dead letter.
    fn applied_or_refused(
        &self,
        ns: &str,
        stored: &[u8],
        write: &Write<'_>,
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        let stored = Document::new(stored).map_err(|error| damaged(ns, &error))?;
        match rewritten(stored, [write]) {
            Ok(document) => Ok(Some(document)),
            Err(error) => {
                let failure = inapplicable(ns, error);
                self.refuse(ns, write, Reason::Write, None, failure)?;
                Ok(None)
            }
        }
    }

    fn put(&self, key: &DocumentKey, id: EntryId, document: &[u8]) {
        if let Some(held) = self.held().get_mut(key) {
            (held.id, held.document) = (id, document.into());
        }
    }

    /// Returns true if a document of the collection is held.
    pub(crate) fn holds(&self, ns: &str) -> bool {
        let held = self.held();
        !held.is_empty() && held.keys().any(|key| key.ns == ns)
    }

    /// Retries the writes of the held documents of a batch's partition, until a round makes no progress.
    /// `making_way` determines which indexes may be suspended.
    pub(crate) async fn try_held(
        &self,
        batch: &Batch<'_>,
        making_way: MakingWay,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        loop {
            let waiting = self.held_of(batch.topic, batch.partition);
            let mut progress = false;
            let mut refused = Vec::new();
            for KeyedDocument { key, held } in &waiting {
                if !token.is_valid() {
                    return Ok(Applied::Abandoned);
                }
                let tried = self.try_one(&key.ns, held, token).await?;
                if matches!(tried, Tried::Released) {
                    self.target.metrics.released_documents.inc();
                }
                match tried {
                    Tried::Released | Tried::DeadLettered => {
                        self.held().remove(key);
                        self.delete_parked_note(held.parked_note.as_deref()).await?;
                        progress = true;
                    }
                    Tried::Refused(error) => {
                        // A newer index is suspended at once, because it would refuse the other
                        // documents too.
                        let made = self.make_way(&key.ns, held, &error, making_way, token);
                        if made.await? {
                            progress = true;
                            break;
                        }
                        refused.push((&key.ns, error));
                    }
                    Tried::Abandoned => return Ok(Applied::Abandoned),
                }
            }
            for (ns, error) in refused {
                if progress || !token.is_valid() {
                    break;
                }
                if let Some(taken) = error.key {
                    progress = self.park_stored_form(ns, taken, batch).await?;
                }
            }
            if !progress {
                self.check_held_bytes()?;
                return Ok(Applied::Done);
            }
        }
    }

    /// Writes one held document.
    async fn try_one(
        &self,
        ns: &str,
        held: &HeldDocument,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        if self.is_spread(ns).await? {
            return Box::pin(self.try_held_sharded(ns, held, token)).await;
        }
        let IdentifiedDocument {
            document,
            document_id,
        } = read(ns, &held.document)?;
        let write = held.write(document_id, Action::Replace(document));
        let one = std::slice::from_ref(&write);
        loop {
            if let Ok(reply) = self.run(ns, BulkKind::Update, one).await? {
                match reply.errors.first() {
                    Some(error) if is_index_refusal(error) => {
                        return Ok(Tried::Refused(error.clone()));
                    }
                    None if reply.concern.is_none() => break,
                    Some(_) | None => {}
                }
            }
            // `send` handles any other error, after which it is known whether the write succeeded.
            // `send_bulk` would only apply the write to the held document.
            let sent = Box::pin(self.send(ns, BulkKind::Update, one, token)).await?;
            if sent == Applied::Abandoned {
                return Ok(Tried::Abandoned);
            }
            if self.complete_refusal(ns, held, &write)? {
                return Ok(Tried::DeadLettered);
            }
        }
        self.restore_zeros(ns, write, token).await
    }

    /// Restores the zero timestamps of a held document that `write` has stored, if the target did not
    /// keep them.
    pub(crate) async fn restore_zeros(
        &self,
        ns: &str,
        write: Write<'_>,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        let Some(action) = self.restoring_zeros(ns, write.action)? else {
            return Ok(Tried::Released);
        };
        let zeros = [Write { action, ..write }];
        match Box::pin(self.send(ns, BulkKind::Update, &zeros, token)).await? {
            Applied::Done => Ok(Tried::Released),
            Applied::Abandoned => Ok(Tried::Abandoned),
        }
    }
}

/// Returns true if the error means that an index refused the document.
pub(crate) fn is_index_refusal(error: &WriteError) -> bool {
    let directive = rule_for(error.code).directive;
    matches!(directive, Directive::Replace | Directive::Hold)
}

/// Returns the identity of a document on the target.
pub(crate) fn key(ns: &str, document_id: Element<'_>) -> Result<DocumentKey, ConsumerError> {
    let identity = identity_of(ns, document_id)?;
    let ns = ns.to_owned();
    Ok(DocumentKey { ns, identity })
}

/// Returns the canonical form of an `_id`, which is the same for equal numbers of different types.
pub(crate) fn identity_of(ns: &str, document_id: Element<'_>) -> Result<Vec<u8>, ConsumerError> {
    let mut identity = Vec::new();
    write_id_identity(document_id, &mut identity).map_err(|error| damaged(ns, &error))?;
    Ok(identity)
}
