//! Sends the writes to a collection whose documents are distributed over shards.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::retry::Backoff;

use crate::config::Unmatched;
use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::held_documents::identity_of;
use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::sharding::run::{Place, Places, Pushed, Rules, Run, Values};
use crate::replay::sharding::shard_key::ShardKey;
use crate::replay::sink::{MongoSink, count};
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::bulk::{Sent, unrepeatable, without_done};
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::find::{Fields, Replies, find_command};
use crate::replay::writes::outcome::document_id;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Number of writes whose documents are looked up with one query.
const AT_ONCE: usize = 1_000;
/// Number of times that a write which the cluster refuses because of its shard key is repeated, each
/// time after a new lookup, before it is refused for good.
pub(crate) const ATTEMPTS: u32 = 3;

/// The collection of a run, and how its writes are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending<'s> {
    pub(crate) ns: &'s str,
    pub(crate) kind: BulkKind,
    pub(crate) key: &'s ShardKey,
    pub(crate) token: &'s Token,
}

impl MongoSink {
    /// Sends writes until all are acknowledged. They are routed by the stored shard key of their
    /// documents, which is looked up first. The future is boxed, because it may contain itself: a
    /// refused write may be sent again by this function.
    pub(crate) fn send_sharded<'s>(
        &'s self,
        ns: &'s str,
        kind: BulkKind,
        writes: &'s [Write<'_>],
        token: &'s Token,
    ) -> BoxFuture<'s, Result<Applied, ConsumerError>> {
        self.send_chunks(ns, kind, writes, token).boxed()
    }

    async fn send_chunks(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        for chunk in writes.chunks(AT_ONCE) {
            if self.send_chunk(ns, kind, chunk, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    /// Plans and sends a chunk. After a refusal because of the shard key, the shard key and the places
    /// of all documents are read again; every write may be repeated.
    async fn send_chunk(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut writes = writes.to_vec();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if self.holds(ns) {
                writes = self.without_held(ns, &writes).await?;
            }
            let misrouted = match Box::pin(self.try_chunk(ns, kind, &writes, token)).await {
                Ok(Sent::Done) => return Ok(Applied::Done),
                Ok(Sent::Abandoned) => return Ok(Applied::Abandoned),
                Ok(Sent::Misrouted(misrouted)) => misrouted,
                Err(error) => {
                    Box::pin(self.restore_before_stop(ns, &writes, &error, token)).await;
                    return Err(error);
                }
            };
            tracing::debug!(
                ns,
                entry = %misrouted.entry,
                code = misrouted.error.code,
                reason = misrouted.error.text,
                "reading the shard key and the documents of a batch again"
            );
            self.forget_shard_key(ns);
            writes = without_done(&writes, &misrouted.done);
            let is_last = backoff.attempts() >= ATTEMPTS;
            if is_last && !self.waits_for_orphan(ns, &misrouted.error).await? {
                let mut all = writes.iter();
                let write = all.find(|write| write.id == misrouted.entry).copied();
                let write = write.expect("the refused write is one of those that were sent");
                // The document must not be missing while the replay is stopped.
                let restored = Box::pin(self.restore_moving(ns, &write, token)).await?;
                if restored == Applied::Abandoned {
                    return Ok(Applied::Abandoned);
                }
                self.refuse_misrouted(ns, &write, &misrouted.error)?;
                writes.retain(|write| write.id != misrouted.entry);
                backoff.reset();
            } else if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Applied::Abandoned);
            }
        }
    }

    /// Looks up the stored shard keys of the documents, and sends the writes once.
    async fn try_chunk(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Sent, ConsumerError> {
        let Some(key) = self.shard_key_of(ns).await? else {
            return self.send_unsharded(ns, kind, writes, token).await;
        };
        let sending = Sending {
            ns,
            kind,
            key: &key,
            token,
        };
        let mut places = self.places(ns, &key, writes).await?;
        let recalled = self.recall_moving(ns, writes, &mut places).await?;
        let sent = Box::pin(self.send_runs(sending, writes, &mut places)).await?;
        if !matches!(sent, Sent::Done) || recalled.is_empty() {
            return Ok(sent);
        }
        let ended = self.end_recalled(ns, recalled, writes, token);
        Ok(Box::pin(ended).await?.into())
    }

    /// Divides writes into runs and sends these one after the other.
    async fn send_runs(
        &self,
        sending: Sending<'_>,
        writes: &[Write<'_>],
        places: &mut Places,
    ) -> Result<Sent, ConsumerError> {
        let Sending { ns, kind, key, .. } = sending;
        // If it is unknown whether the order matters, it is kept: a command may just have cleared the
        // cache.
        let keeps_order = self.known_order().get(ns).copied().unwrap_or(true);
        let rules = Rules {
            key,
            rewrites: kind == BulkKind::Rewrite,
            creates_unmatched: self.policies.unmatched == Unmatched::Upsert,
        };
        let failed = |error: Malformed| damaged(ns, &error);
        let mut done = Vec::new();
        let mut run = Run::default();
        let mut identity = Vec::new();
        for write in writes {
            identity.clear();
            write_id_identity(write.document_id, &mut identity).map_err(failed)?;
            loop {
                let pushed = run.push(write, &identity, places, rules).map_err(failed)?;
                // In a collection whose writes keep their order, a change is sent at once.
                let is_last = keeps_order && !run.changes.is_empty();
                if pushed == Pushed::Added && !is_last {
                    break;
                }
                let once = run.unrepeatable();
                let sent = self.send_run(sending, std::mem::take(&mut run), places);
                if let Some(ended) = Box::pin(sent).await?.unless_done(&mut done, once) {
                    return Ok(ended);
                }
                if pushed == Pushed::Added {
                    break;
                }
            }
        }
        let sent = Box::pin(self.send_run(sending, run, places)).await?;
        Ok(sent.after(&done))
    }

    /// Sends writes to a collection that turned out to need no routing.
    async fn send_unsharded(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Sent, ConsumerError> {
        if kind == BulkKind::Rewrite {
            return Ok(Box::pin(self.rewrite(ns, writes, token)).await?.into());
        }
        let mut unrouted = writes.to_vec();
        for write in &mut unrouted {
            write.routing = crate::replay::plan::Routing::NONE;
        }
        self.send_in_parts(ns, kind, &unrouted, token).await
    }

    /// Sends writes in as many commands as the limits require.
    pub(crate) async fn send_in_parts(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Sent, ConsumerError> {
        let mut done = Vec::new();
        let mut rest = writes;
        while !rest.is_empty() {
            let cut = self.target.limits.cut(kind, rest);
            let others;
            let mut next = cut.next;
            // An index may have refused a document of an earlier part.
            if self.holds(ns) {
                others = self.without_held(ns, next).await?;
                next = &others;
            }
            let sent = Box::pin(self.send_routed(ns, kind, next, token)).await?;
            if let Some(ended) = sent.unless_done(&mut done, unrepeatable(cut.next)) {
                return Ok(ended);
            }
            rest = cut.rest;
        }
        Ok(Sent::Done)
    }

    /// Sends a run: the inserts, then the deletes, the updates, and the documents that change.
    async fn send_run(
        &self,
        sending: Sending<'_>,
        run: Run<'_, '_>,
        places: &mut Places,
    ) -> Result<Sent, ConsumerError> {
        let Sending { ns, key, token, .. } = sending;
        for kind in [BulkKind::Insert, BulkKind::Delete, BulkKind::Update] {
            let mut writes = Vec::new();
            for routed in run.routed.iter().filter(|routed| routed.kind == kind) {
                let routing = key.routing(&routed.values);
                writes.push(Write {
                    routing: routing.map_err(|error| damaged(ns, &error))?,
                    ..*routed.write
                });
            }
            if kind == BulkKind::Update && sending.kind == BulkKind::Insert {
                writes = self.without_present(ns, writes, token).await;
            }
            let sent = self.send_in_parts(ns, kind, &writes, token).await?;
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
        }
        self.report_unmatched(ns, &run.unmatched)?;
        for write in &run.ambiguous {
            let failure = WriteFailure::StoredTwice {
                entry: write.id,
                ns: ns.to_owned(),
                document_id: document_id(write),
            };
            self.refuse(ns, write, Reason::Write, None, failure)?;
        }
        for write in &run.zero_keys {
            self.refuse_zero_key(ns, write)?;
        }
        if run.changes.is_empty() {
            return Ok(Sent::Done);
        }
        let once = run.unrepeatable();
        let sent = Box::pin(self.send_changes(sending, run.changes, places)).await?;
        Ok(sent.after(&once))
    }

    /// Refuses a write that gives a field of the shard key the zero timestamp.
    pub(crate) fn refuse_zero_key(&self, ns: &str, write: &Write<'_>) -> Result<(), ConsumerError> {
        let failure = WriteFailure::ZeroShardKey {
            entry: write.id,
            ns: ns.to_owned(),
            document_id: document_id(write),
        };
        self.refuse(ns, write, Reason::Write, None, failure)
    }

    /// Turns inserts of documents that exist into replacements, and omits those that would change
    /// nothing.
    async fn without_present<'a>(
        &self,
        ns: &str,
        inserts: Vec<Write<'a>>,
        token: &Token,
    ) -> Vec<Write<'a>> {
        self.target
            .metrics
            .duplicate_inserts
            .inc_by(count(inserts.len()));
        let replacements = inserts.into_iter().map(|write| match write.action {
            Action::Insert(document) => Write {
                action: Action::Replace(document),
                ..write
            },
            _ => write,
        });
        self.without_unchanged(ns, replacements.collect(), token)
            .await
    }

    /// Counts updates of missing documents, which may become dead letters.
    pub(crate) fn report_unmatched(
        &self,
        ns: &str,
        writes: &[&Write<'_>],
    ) -> Result<(), ConsumerError> {
        if writes.is_empty() {
            return Ok(());
        }
        let missing: Vec<Write<'_>> = writes.iter().map(|write| **write).collect();
        self.count_unmatched(ns, &missing, missing.len())?;
        if self.is_dead_lettered(Reason::Unmatched) {
            for write in &missing {
                self.refuse_unmatched(ns, write)?;
            }
        }
        Ok(())
    }

    /// Looks up the values of the shard key with which the documents of these writes are stored. The read
    /// goes to the primaries of all shards, each of which returns only the documents that it owns. It
    /// waits for transactions that a shard has yet to commit.
    pub(crate) async fn places(
        &self,
        ns: &str,
        key: &ShardKey,
        writes: &[Write<'_>],
    ) -> Result<Places, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let projection = key.projection();
        let ids = writes.iter().map(|write| write.document_id);
        let fields = Fields::Paths(&projection);
        let command = find_command(collection, ids, self.settled().await?, fields);
        let failed = |error: Malformed| damaged(ns, &error);
        let documents = self
            .persist("looking up documents", || {
                self.read_documents(db, &command, Replies::All)
            })
            .await?;
        let mut places = Places::default();
        for document in &documents {
            let document = Document::new(document).map_err(failed)?;
            let Some(id) = document.get("_id").map_err(failed)? else {
                continue;
            };
            let identity = identity_of(ns, id)?;
            let values: Values = key.values_of(document).map_err(failed)?.into();
            match places.remove(&identity) {
                None => places.insert(identity, Place::At(values)),
                Some(Place::At(other)) => {
                    places.insert(identity, Place::Several(vec![other, values]))
                }
                Some(Place::Several(mut all)) => {
                    all.push(values);
                    places.insert(identity, Place::Several(all))
                }
                Some(other) => places.insert(identity, other),
            };
        }
        Ok(places)
    }
}

/// Returns the place of a document that is stored once, with these values.
pub(crate) fn place_at(values: &[u8]) -> Place {
    Place::At(Arc::from(values))
}
