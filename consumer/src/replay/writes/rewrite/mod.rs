//! Rewrites: documents that are read, changed by this program and replaced.
//!
//! A rewrite is used for updates that no command can express, and for updates that a command cannot
//! apply to the stored document. A document belongs to one worker, so no other worker changes it
//! between the read and the write. Reads go to the primary, which has all writes that it
//! acknowledged.

use futures_util::StreamExt;
use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{
    REPLY_LIMIT, error_code, error_text, in_time, is_cursor_gone, is_transient,
};
use oplog_relay_runtime::retry::Backoff;
use rustc_hash::FxHashMap;

use crate::config::Unmatched;
use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::plan::{
    Action, Bulk, BulkKind, RewriteError, Routing, Write, restoring_zeros, rewritten,
};
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::find::{Fields, ReadLevel, find_command};
use crate::replay::writes::permits::acquire;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Number of documents that are read with one query.
const AT_ONCE: usize = 1_000;

/// Number of bytes of rewritten documents that are sent together. They are in memory twice (here and
/// in the command), in addition to the reply with the original documents.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Documents to rewrite: their writes in order, by canonical `_id`.
type Pending<'w, 'a> = FxHashMap<Vec<u8>, Vec<&'w Write<'a>>>;

/// The result of rewriting a document.
struct Outcome<'a> {
    /// The last write that changes the document.
    last: Write<'a>,
    document: Vec<u8>,
}

/// The reason why documents were not rewritten.
enum Failure {
    /// The target failed to return them; the read may be retried.
    Read(mongodb::error::Error),
    /// An error that ends the program.
    Fatal(ConsumerError),
}

impl From<mongodb::error::Error> for Failure {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Read(error)
    }
}

impl From<ConsumerError> for Failure {
    fn from(error: ConsumerError) -> Self {
        Self::Fatal(error)
    }
}

impl MongoSink {
    /// Rewrites the documents of a bulk after waiting for a permit.
    pub(crate) async fn rewrite_bulk(
        &self,
        bulk: &Bulk<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Some(_permit) = acquire(&self.permits.rewrites, token).await else {
            return Ok(Applied::Abandoned);
        };
        let mut writes = bulk.writes.clone();
        self.remove_zeros_of_refused(bulk.ns, &mut writes);
        self.rewrite(bulk.ns, &writes, token).await
    }

    /// Reads, changes and replaces the documents of these writes. A missing document counts as an
    /// update that did not find a document.
    pub(crate) async fn rewrite(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let others;
        let mut rest = writes;
        if self.holds(ns) {
            others = self.without_held(ns, writes).await?;
            rest = &others;
        }
        if self.is_spread(ns).await? {
            return self.send_sharded(ns, BulkKind::Rewrite, rest, token).await;
        }
        while !rest.is_empty() {
            let mut pending = Pending::default();
            let taken = take(rest, &mut pending).map_err(|error| damaged(ns, &error))?;
            if self.rewrite_pending(ns, pending, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            (_, rest) = rest.split_at(taken);
        }
        Ok(Applied::Done)
    }

    async fn rewrite_pending(
        &self,
        ns: &str,
        mut pending: Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            match self.rewrite_found(ns, &mut pending, token).await {
                Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
                Ok(Applied::Done) => return self.rewrite_missing(ns, &pending, token).await,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Read(error)) => self.after_failed_read(ns, &error)?,
            }
            if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Applied::Abandoned);
            }
        }
    }

    /// Rewrites the documents that exist, and removes them from `pending`.
    async fn rewrite_found(
        &self,
        ns: &str,
        pending: &mut Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, Failure> {
        let Namespace { db, collection } = Namespace::split(ns);
        let ids = pending.values().filter_map(|writes| writes.first());
        let ids = ids.map(|write| write.document_id);
        let command = find_command(collection, ids, ReadLevel::Local, Fields::All);
        let command = RawDocumentBuf::from_bytes(command).map_err(mongodb::error::Error::from)?;
        let database = self.target.client.database(db);
        let cursor = database.run_raw_cursor_command(command).batch();
        let mut cursor = in_time(REPLY_LIMIT, cursor).await?;
        let refuse =
            |write: &Write<'_>, failure| self.refuse(ns, write, Reason::Write, None, failure);
        while let Some(reply) =
            in_time(REPLY_LIMIT, async { cursor.next().await.transpose() }).await?
        {
            self.target.readiness.target_reached();
            let (mut outcomes, mut bytes) = (Vec::new(), 0);
            for element in reply.doc_slices()?.into_iter() {
                let element = element.map_err(mongodb::error::Error::from)?;
                if let Some(document) = element.as_document()
                    && let Some(made) = outcome(ns, document.as_bytes(), pending, &refuse)?
                {
                    bytes += made.document.len();
                    outcomes.push(made);
                }
                if bytes < BYTES_AT_ONCE {
                    continue;
                }
                bytes = 0;
                if self.send_outcomes(ns, &outcomes, token).await? == Applied::Abandoned {
                    return Ok(Applied::Abandoned);
                }
                outcomes.clear();
            }
            drop(reply);
            if self.send_outcomes(ns, &outcomes, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    /// Returns `Ok` if a failed read may be retried.
    fn after_failed_read(
        &self,
        ns: &str,
        error: &mongodb::error::Error,
    ) -> Result<(), ConsumerError> {
        let rule = error_code(error).map(rule_for);
        let retry = rule.is_some_and(|rule| rule.directive == Directive::Retry);
        if !retry && !is_transient(error) && !is_cursor_gone(error) {
            return Err(WriteFailure::Unreadable {
                ns: ns.to_owned(),
                reason: error_text(error),
            }
            .into());
        }
        self.target.metrics.count_error("target");
        self.target.readiness.target_failed(&error_text(error));
        Ok(())
    }

    async fn send_outcomes(
        &self,
        ns: &str,
        outcomes: &[Outcome<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut writes = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let write = |action| Write {
                action,
                routing: Routing::NONE,
                ..outcome.last
            };
            let failed = |error: Malformed| damaged(ns, &error);
            let document = Document::new(&outcome.document).map_err(failed)?;
            let action = Action::Rewritten(document);
            writes.push(write(action));
            writes.extend(self.restoring_zeros(ns, action)?.map(write));
        }
        let count = u64::try_from(outcomes.len()).expect("a count has at most 64 bits");
        self.target.metrics.rewritten_documents.inc_by(count);
        let kind = BulkKind::Update;
        let bulk = Bulk { ns, kind, writes };
        Box::pin(self.send_bulk(&bulk, token)).await
    }

    /// Returns the action that must follow this one to restore the zero timestamps of its document. A
    /// program that ends between the two leaves the server's time in them, and an update that is applied
    /// again would not notice. So there is none if the target can store the document as it is.
    pub(crate) fn restoring_zeros<'a>(
        &self,
        ns: &str,
        action: Action<'a>,
    ) -> Result<Option<Action<'a>>, ConsumerError> {
        let accepts_literals = self.target.accepts_literals;
        Ok(restoring_zeros(action, accepts_literals).map_err(|error| damaged(ns, &error))?)
    }

    /// Counts the updates of missing documents, which may become dead letters. The documents are
    /// created instead with `--unmatched upsert`.
    async fn rewrite_missing(
        &self,
        ns: &str,
        pending: &Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if self.policies.unmatched != Unmatched::Upsert {
            let missing = pending.values().flatten();
            let mut missing: Vec<Write<'_>> = missing.map(|write| **write).collect();
            missing.sort_by_key(|write| write.id);
            if !missing.is_empty() {
                self.count_unmatched(ns, &missing, missing.len())?;
            }
            if self.is_dead_lettered(Reason::Unmatched) {
                missing
                    .iter()
                    .try_for_each(|write| self.refuse_unmatched(ns, write))?;
            }
            return Ok(Applied::Done);
        }
        self.create_missing(ns, pending, token).await
    }

    /// Creates documents that have only the fields that their updates set. They are sent in the order of
    /// their entries, because the collection may keep its order.
    async fn create_missing(
        &self,
        ns: &str,
        pending: &Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let failed = |error: Malformed| damaged(ns, &error);
        let refuse =
            |write: &Write<'_>, failure| self.refuse(ns, write, Reason::Write, None, failure);
        let mut created = Vec::new();
        for updates in pending.values() {
            let mut updates = updates.clone();
            let Some(first) = updates.first().copied() else {
                continue;
            };
            let document = from_updates(ns, first.document_id, &mut updates, &refuse)?;
            if let Some(last) = updates.last() {
                created.push(Outcome {
                    last: **last,
                    document,
                });
            }
        }
        created.sort_by_key(|outcome| outcome.last.id);
        let mut writes = Vec::new();
        for Outcome { last, document } in &created {
            let document = Document::new(document).map_err(failed)?;
            let action = Action::Replace(document);
            writes.push(Write { action, ..*last });
            let restoring = self.restoring_zeros(ns, action)?;
            writes.extend(restoring.map(|action| Write { action, ..*last }));
        }
        let kind = BulkKind::Update;
        let bulk = Bulk { ns, kind, writes };
        Box::pin(self.send_bulk(&bulk, token)).await
    }
}

/// Groups the writes of the first [`AT_ONCE`] documents. Returns the number of those writes.
fn take<'w, 'a>(
    writes: &'w [Write<'a>],
    pending: &mut Pending<'w, 'a>,
) -> Result<usize, Malformed> {
    let mut identity = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        identity.clear();
        write_id_identity(write.document_id, &mut identity)?;
        if let Some(writes) = pending.get_mut(&identity) {
            writes.push(write);
        } else if pending.len() == AT_ONCE {
            return Ok(index);
        } else {
            pending.insert(identity.clone(), vec![write]);
        }
    }
    Ok(writes.len())
}

/// Returns the rewritten document; `None` if nothing changes. An update that cannot be applied is
/// passed to `refuse`, and the later updates are still applied.
fn outcome<'a>(
    ns: &str,
    stored: &[u8],
    pending: &mut Pending<'_, 'a>,
    refuse: &dyn Fn(&Write<'_>, WriteFailure) -> Result<(), ConsumerError>,
) -> Result<Option<Outcome<'a>>, ConsumerError> {
    let failed = |error: Malformed| damaged(ns, &error);
    let stored = Document::new(stored).map_err(failed)?;
    let Some(document_id) = stored.get("_id").map_err(failed)? else {
        return Ok(None);
    };
    let mut identity = Vec::new();
    write_id_identity(document_id, &mut identity).map_err(failed)?;
    let mut writes = pending.remove(&identity).unwrap_or_default();
    let document = with_updates(ns, stored, &mut writes, refuse)?;
    let Some(last) = writes.last() else {
        return Ok(None);
    };
    if document == stored.as_bytes() {
        return Ok(None);
    }
    Ok(Some(Outcome {
        last: **last,
        document,
    }))
}

/// Applies updates to a document. Those that cannot be applied are passed to `refuse` and removed.
pub(crate) fn with_updates(
    ns: &str,
    stored: Document<'_>,
    writes: &mut Vec<&Write<'_>>,
    refuse: &dyn Fn(&Write<'_>, WriteFailure) -> Result<(), ConsumerError>,
) -> Result<Vec<u8>, ConsumerError> {
    loop {
        let error = match rewritten(stored, writes.iter().copied()) {
            Ok(document) => return Ok(document),
            Err(error) => error,
        };
        let position = writes.iter().position(|write| write.id == error.id);
        let write = position.map(|index| writes.remove(index));
        let failure = inapplicable(ns, error);
        match write {
            Some(write) => refuse(write, failure)?,
            None => return Err(failure.into()),
        }
    }
}

/// Returns a document that has only the fields that its updates set. Those that cannot be applied are
/// passed to `refuse` and removed.
fn from_updates(
    ns: &str,
    document_id: Element<'_>,
    writes: &mut Vec<&Write<'_>>,
    refuse: &dyn Fn(&Write<'_>, WriteFailure) -> Result<(), ConsumerError>,
) -> Result<Vec<u8>, ConsumerError> {
    let mut bytes = Vec::new();
    let mut builder = DocumentBuilder::start(&mut bytes);
    builder.element(document_id);
    builder.finish();
    let empty = Document::new(&bytes).map_err(|error| damaged(ns, &error))?;
    with_updates(ns, empty, writes, refuse)
}

pub(crate) fn inapplicable(ns: &str, error: RewriteError) -> WriteFailure {
    WriteFailure::Inapplicable {
        ns: ns.to_owned(),
        entry: error.id,
        source: error.error,
    }
}

#[cfg(test)]
mod tests;
