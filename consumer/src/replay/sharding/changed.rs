//! Documents that are changed by this program, because their shard key may change or because no
//! command can express their updates.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed};
use oplog_relay_core::namespace::Namespace;
use rustc_hash::FxHashMap;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::held_documents::{identity_of, key as held_key};
use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::sharding::move_commands::Move;
use crate::replay::sharding::routed::{Sending, place_at};
use crate::replay::sharding::run::{Base, Change, Place, Places, Values};
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::Sent;
use crate::replay::writes::find::{Fields, Replies, find_command};
use crate::replay::writes::permits::acquire;
use crate::replay::writes::rewrite::with_updates;

/// Maximum number of bytes of changed documents that are sent together. A larger document is sent alone.
const BYTES_AT_ONCE: usize = 4 << 20;

/// A document in its new form.
struct Changed<'a> {
    /// The last write that changes the document.
    last: Write<'a>,
    /// The earlier ones, which are sent with it.
    earlier: Vec<Write<'a>>,
    identity: Vec<u8>,
    /// The values with which it is stored.
    stored: Vec<Values>,
    /// The stored document, if the new form was derived from it.
    before: Option<Vec<u8>>,
    document: Vec<u8>,
    /// The values of the new form.
    values: Vec<u8>,
}

impl MongoSink {
    /// Sends documents that change. Those whose new form depends on the stored one are read first, one
    /// reply at a time, which bounds the memory.
    pub(crate) async fn send_changes(
        &self,
        sending: Sending<'_>,
        changes: Vec<Change<'_, '_>>,
        places: &mut Places,
    ) -> Result<Sent, ConsumerError> {
        let Sending { ns, token, .. } = sending;
        let Some(_permit) = acquire(&self.permits.changes, token).await else {
            return Ok(Sent::Abandoned);
        };
        let mut ready = Vec::new();
        let mut waiting = FxHashMap::default();
        for change in changes {
            restore_place(places, &change.identity, &change.stored);
            let held = self.holds(ns);
            // An index refused an earlier write of this run, so the document is held.
            if held && self.apply_to_held(ns, &change).await? {
                expect_held(places, &change.identity);
                continue;
            }
            let is_whole = change
                .writes
                .first()
                .is_some_and(|write| write.action.is_whole());
            if change.base == Base::Stored && !is_whole {
                waiting.insert(change.identity.clone(), change);
            } else {
                ready.extend(self.changed(sending, &change, None)?);
            }
        }
        let sent = self.send_ready(sending, &ready, places).await?;
        if !matches!(sent, Sent::Done) {
            return Ok(sent);
        }
        while !waiting.is_empty() {
            let found = self.read_some(ns, &waiting).await?;
            let before = waiting.len();
            let mut ready = Vec::new();
            for stored in &found {
                let document = Document::new(stored).map_err(|error| damaged(ns, &error))?;
                if let Some(change) = taken(&mut waiting, document, ns)? {
                    ready.extend(self.changed(sending, &change, Some(stored))?);
                }
            }
            let sent = self.send_ready(sending, &ready, places).await?;
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
            if waiting.len() == before {
                break;
            }
        }
        // The documents of the remaining changes were deleted after the lookup.
        for identity in waiting.keys() {
            places.remove(identity);
        }
        let missing: Vec<&Write<'_>> = waiting
            .values()
            .flat_map(|change| change.writes.iter().copied())
            .collect();
        self.report_unmatched(ns, &missing)?;
        Ok(Sent::Done)
    }

    /// Applies the writes of a change to the held document. Returns false if the document is not held.
    async fn apply_to_held(
        &self,
        ns: &str,
        change: &Change<'_, '_>,
    ) -> Result<bool, ConsumerError> {
        let writes: Vec<Write<'_>> = change.writes.iter().map(|write| **write).collect();
        let others = self.without_held(ns, &writes).await?;
        Ok(others.is_empty())
    }

    /// Returns the new form of a document; `None` if all of its updates are refused.
    fn changed<'a>(
        &self,
        sending: Sending<'_>,
        change: &Change<'_, 'a>,
        stored: Option<&[u8]>,
    ) -> Result<Option<Changed<'a>>, ConsumerError> {
        let Sending { ns, key, .. } = sending;
        let failed = |error: Malformed| damaged(ns, &error);
        let Some(first) = change.writes.first() else {
            return Ok(None);
        };
        let new = only_id(first.document_id);
        let base = match (&first.action, &change.base, stored) {
            (Action::Insert(whole) | Action::Replace(whole) | Action::Rewritten(whole), ..) => {
                whole.as_bytes()
            }
            (_, Base::Moving(document), _) => document,
            (_, _, Some(stored)) => stored,
            (_, _, None) => &new,
        };
        let refuse =
            |write: &Write<'_>, failure| self.refuse(ns, write, Reason::Write, None, failure);
        let mut writes = change.writes.clone();
        let base = Document::new(base).map_err(failed)?;
        let document = with_updates(ns, base, &mut writes, &refuse)?;
        let Some((last, earlier)) = writes.split_last() else {
            return Ok(None);
        };
        let whole = Document::new(&document).map_err(failed)?;
        if key.has_zero_timestamp(whole).map_err(failed)? {
            for write in &writes {
                self.refuse_zero_key(ns, write)?;
            }
            return Ok(None);
        }
        let values = key.values_of(whole).map_err(failed)?;
        Ok(Some(Changed {
            last: **last,
            earlier: earlier.iter().map(|write| **write).collect(),
            identity: change.identity.clone(),
            stored: change.stored.clone(),
            before: stored.map(<[u8]>::to_vec),
            document,
            values,
        }))
    }

    /// Sends documents in their new form, and records where they are afterwards.
    async fn send_ready(
        &self,
        sending: Sending<'_>,
        ready: &[Changed<'_>],
        places: &mut Places,
    ) -> Result<Sent, ConsumerError> {
        let ns = sending.ns;
        let mut rest = ready;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|changed| {
                bytes += changed.document.len();
                bytes <= BYTES_AT_ONCE
            });
            let (part, after) = rest.split_at(fits.count().max(1));
            let sent = self.send_part(sending, part).await?;
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
            for changed in part {
                self.settle(ns, changed, places)?;
            }
            rest = after;
        }
        Ok(Sent::Done)
    }

    /// Records where a document is after its change was sent. If the change was refused, it is where it
    /// was, and all entries of the change are refused.
    fn settle(
        &self,
        ns: &str,
        changed: &Changed<'_>,
        places: &mut Places,
    ) -> Result<(), ConsumerError> {
        let identity = &changed.identity;
        let key = held_key(ns, changed.last.document_id)?;
        if self.held().contains_key(&key) {
            expect_held(places, identity);
        } else if self.is_refused(ns, &changed.last) {
            for earlier in &changed.earlier {
                self.refuse_with(ns, earlier, &changed.last);
            }
            restore_place(places, identity, &changed.stored);
        } else {
            places.insert(identity.clone(), place_at(&changed.values));
        }
        Ok(())
    }

    /// Sends documents in their new form: replacements of those that keep their shard key, then the moves
    /// of the others.
    async fn send_part(
        &self,
        sending: Sending<'_>,
        part: &[Changed<'_>],
    ) -> Result<Sent, ConsumerError> {
        let Sending { ns, key, token, .. } = sending;
        let failed = |error: Malformed| damaged(ns, &error);
        let (mut updates, mut moves, mut replaced) = (Vec::new(), Vec::new(), 0);
        for changed in part {
            let document = Document::new(&changed.document).map_err(failed)?;
            if changed.before.as_ref() == Some(&changed.document) {
                continue;
            }
            let routing = key.routing(&changed.values).map_err(failed)?;
            let write = |action| Write {
                action,
                routing,
                ..changed.last
            };
            let action = match changed.stored.as_slice() {
                [] => Action::Replace(document),
                [only] if **only == *changed.values => Action::Rewritten(document),
                _ => Action::Insert(document),
            };
            match action {
                Action::Insert(_) => moves.push(Move {
                    write: write(action),
                    stored: &changed.stored,
                    before: changed.before.as_deref(),
                }),
                _ => {
                    replaced += 1;
                    updates.push(write(action));
                    updates.extend(self.restoring_zeros(ns, action)?.map(write));
                }
            }
        }
        self.target.metrics.rewritten_documents.inc_by(replaced);
        let kind = BulkKind::Update;
        let sent = self.send_in_parts(ns, kind, &updates, token).await?;
        if !matches!(sent, Sent::Done) {
            return Ok(sent);
        }
        Box::pin(self.move_documents(sending, &moves)).await
    }

    /// Reads the stored documents of changes, as many as one reply holds.
    async fn read_some(
        &self,
        ns: &str,
        changes: &FxHashMap<Vec<u8>, Change<'_, '_>>,
    ) -> Result<Vec<Vec<u8>>, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let ids = changes.values().filter_map(|change| change.writes.first());
        let ids = ids.map(|write| write.document_id);
        let command = find_command(collection, ids, self.settled().await?, Fields::All);
        self.persist("reading documents", || {
            self.read_documents(db, &command, Replies::First)
        })
        .await
    }
}

/// Records that a document is where it was before its change.
fn restore_place(places: &mut Places, identity: &[u8], stored: &[Values]) {
    let place = match stored {
        [] => {
            places.remove(identity);
            return;
        }
        [only] => Place::At(Values::clone(only)),
        all => Place::Several(all.to_vec()),
    };
    places.insert(identity.to_vec(), place);
}

/// Records that a document is held. Its later writes are applied to the held document, whatever its
/// shard key is.
fn expect_held(places: &mut Places, identity: &[u8]) {
    places.insert(identity.to_vec(), place_at(Document::EMPTY.as_bytes()));
}

/// Removes and returns the change of a stored document.
fn taken<'w, 'a>(
    changes: &mut FxHashMap<Vec<u8>, Change<'w, 'a>>,
    stored: Document<'_>,
    ns: &str,
) -> Result<Option<Change<'w, 'a>>, ConsumerError> {
    let failed = |error: Malformed| damaged(ns, &error);
    let Some(id) = stored.get("_id").map_err(failed)? else {
        return Ok(None);
    };
    Ok(changes.remove(&identity_of(ns, id)?))
}

/// Returns a document that has only this `_id`.
fn only_id(document_id: Element<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = DocumentBuilder::start(&mut bytes);
    builder.element(document_id);
    builder.finish();
    bytes
}
