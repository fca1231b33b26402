//! Sends a bulk until it is acknowledged. The bulk is split by the server's limits, retried after
//! transient errors, and bisected if necessary.

use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_code, in_time, undecoded_reply};
use oplog_relay_runtime::retry::Backoff;

use crate::config::Unmatched;
use crate::error::ConsumerError;
use crate::replay::plan::{
    Action, Bulk, BulkKind, CommandOptions, Write, statement_bytes, write_command,
};
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::bypass::is_no_bypass;
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::reply::{WriteError, WriteReply};
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Time limit of a command on the server. It is shorter than the default session timeout of a group
/// (45 s), so that the server does not execute a write after its member was removed from the group.
pub(crate) const MAX_TIME_MS: i64 = 30_000;

/// The step after an attempt to send writes.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// These writes are sent at once.
    Go(Vec<Write<'a>>),
    /// These writes are sent at once, except those to held documents, which are applied to the held
    /// state.
    GoBesideHeld(Vec<Write<'a>>),
    /// These writes are sent again after a pause.
    Pause(Vec<Write<'a>>),
    /// The two halves of the writes are sent one after the other.
    Halve,
    /// Nothing more is sent, because the partition was revoked or the program ends.
    Abandon,
    /// Nothing more is sent, because a write was routed by a shard key that is out of date.
    Misrouted(Misrouted),
}

/// The outcome of sending writes.
#[derive(Debug)]
pub(crate) enum Sent {
    /// All writes are acknowledged.
    Done,
    /// The partition was revoked, or the program ends.
    Abandoned,
    /// A write was routed by a shard key that is out of date. Any of the writes may have been done; all
    /// but those in [`Misrouted::done`] may be repeated.
    Misrouted(Misrouted),
}

/// A write that a sharded cluster refused because of its shard key.
#[derive(Debug)]
pub(crate) struct Misrouted {
    /// The entry of the write.
    pub(crate) entry: EntryId,
    /// The refusal.
    pub(crate) error: WriteError,
    /// The acknowledged writes that must not be repeated.
    pub(crate) done: Vec<EntryId>,
}

/// Returns the entries whose writes must not be repeated once they are acknowledged.
pub(crate) fn unrepeatable<'w, 'a: 'w>(
    writes: impl IntoIterator<Item = &'w Write<'a>>,
) -> Vec<EntryId> {
    let once = writes
        .into_iter()
        .filter(|write| matches!(write.action, Action::AsIs { .. }));
    once.map(|write| write.id).collect()
}

/// Returns the writes that are to be sent again after a refusal.
pub(crate) fn without_done<'a>(writes: &[Write<'a>], done: &[EntryId]) -> Vec<Write<'a>> {
    let is_done =
        |write: &Write<'_>| matches!(write.action, Action::AsIs { .. }) && done.contains(&write.id);
    let mut left = writes.to_vec();
    left.retain(|write| !is_done(write));
    left
}

impl Sent {
    /// Returns the outcome of these writes and of earlier ones, of which `done` must not be repeated.
    pub(crate) fn after(mut self, done: &[EntryId]) -> Self {
        if let Self::Misrouted(misrouted) = &mut self {
            misrouted.done.extend_from_slice(done);
        }
        self
    }

    /// Returns `None` if all of these writes are acknowledged, and adds those that must not be repeated
    /// to `done`. Otherwise returns the outcome of these and of the earlier writes.
    pub(crate) fn unless_done(self, done: &mut Vec<EntryId>, once: Vec<EntryId>) -> Option<Self> {
        if matches!(self, Self::Done) {
            done.extend(once);
            return None;
        }
        Some(self.after(done))
    }
}

impl From<Applied> for Sent {
    fn from(applied: Applied) -> Self {
        match applied {
            Applied::Done => Self::Done,
            Applied::Abandoned => Self::Abandoned,
        }
    }
}

impl MongoSink {
    /// Sends a bulk in as many commands as the limits require. Writes to held documents are applied
    /// to the held state instead.
    pub(crate) async fn send_bulk(
        &self,
        bulk: &Bulk<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let others;
        let mut rest = bulk.writes.as_slice();
        if self.holds(bulk.ns) {
            others = self.without_held(bulk.ns, rest).await?;
            rest = &others;
        }
        if self.is_spread(bulk.ns).await? {
            return self.send_sharded(bulk.ns, bulk.kind, rest, token).await;
        }
        while !rest.is_empty() {
            let cut = self.target.limits.cut(bulk.kind, rest);
            if self.send(bulk.ns, bulk.kind, cut.next, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            rest = cut.rest;
        }
        Ok(Applied::Done)
    }

    /// Sends writes that fit in one command, until all are acknowledged. If a sharded cluster refuses
    /// them because of their shard key, the key is read again.
    pub(crate) async fn send(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        match self.send_routed(ns, kind, writes, token).await? {
            Sent::Done => Ok(Applied::Done),
            Sent::Abandoned => Ok(Applied::Abandoned),
            Sent::Misrouted(misrouted) => {
                self.forget_shard_key(ns);
                let left = without_done(writes, &misrouted.done);
                self.send_sharded(ns, kind, &left, token).await
            }
        }
    }

    /// Sends writes that fit in one command, until all are acknowledged or one has the wrong shard key.
    pub(crate) async fn send_routed(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Sent, ConsumerError> {
        let mut rest = writes.to_vec();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failures = 0;
        loop {
            self.remove_zeros_of_refused(ns, &mut rest);
            if rest.is_empty() {
                return Ok(Sent::Done);
            }
            if !token.is_valid() {
                return Ok(Sent::Abandoned);
            }
            let bulk = Bulk {
                ns,
                kind,
                writes: rest,
            };
            let next = match self.run(ns, kind, &bulk.writes).await? {
                Ok(reply) => self.after_reply(&bulk, reply, token).await?,
                Err(error) => {
                    self.after_error(&bulk, &error, &mut failures, token)
                        .await?
                }
            };
            let (left, pauses) = match next {
                Next::Abandon => return Ok(Sent::Abandoned),
                Next::Misrouted(mut misrouted) => {
                    let was_sent =
                        |write: &&Write<'_>| !bulk.writes.iter().any(|left| left.id == write.id);
                    let sent = writes.iter().filter(was_sent);
                    misrouted.done.extend(unrepeatable(sent));
                    return Ok(Sent::Misrouted(misrouted));
                }
                Next::Halve => return self.send_halves(&bulk, token).await,
                Next::Go(left) => (left, false),
                // Only the held state is updated here; `try_held` sends the held documents later.
                Next::GoBesideHeld(left) => (self.without_held(ns, &left).await?, false),
                Next::Pause(left) => (left, true),
            };
            if !pauses {
                self.target.readiness.target_reached();
            }
            if left.len() < bulk.writes.len() {
                backoff.reset();
                failures = 0;
            }
            rest = left;
            if pauses && !rest.is_empty() && !backoff.sleep(&self.target.shutdown).await {
                return Ok(Sent::Abandoned);
            }
        }
    }

    /// Sends the two halves of a bulk, one after the other.
    async fn send_halves(&self, bulk: &Bulk<'_>, token: &Token) -> Result<Sent, ConsumerError> {
        let (first, second) = bulk.writes.split_at(bulk.writes.len() / 2);
        let mut done = Vec::new();
        for half in [first, second] {
            let sent = Box::pin(self.send_routed(bulk.ns, bulk.kind, half, token)).await?;
            if let Some(ended) = sent.unless_done(&mut done, unrepeatable(half)) {
                return Ok(ended);
            }
        }
        Ok(Sent::Done)
    }

    /// Runs one command. If the target may have refused it because of `bypassDocumentValidation`,
    /// the command is sent again without this option.
    pub(crate) async fn run(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
    ) -> Result<mongodb::error::Result<WriteReply>, ConsumerError> {
        let bypasses = kind != BulkKind::Delete && self.target.bypass.is_wanted(ns);
        let reply = self.run_once(ns, kind, writes, bypasses).await?;
        let code = reply.as_ref().err().and_then(error_code);
        if !bypasses || !code.is_some_and(is_no_bypass) {
            return Ok(reply);
        }
        let reply = self.run_once(ns, kind, writes, false).await?;
        if reply.is_ok() {
            tracing::warn!(
                ns,
                code,
                "the target refuses bypassDocumentValidation; its validators apply to the replay"
            );
            self.target.bypass.refuse(ns);
        }
        Ok(reply)
    }

    async fn run_once(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        bypass_validation: bool,
    ) -> Result<mongodb::error::Result<WriteReply>, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let options = CommandOptions {
            bypass_validation,
            upsert_unmatched: self.policies.unmatched == Unmatched::Upsert,
            max_time_ms: MAX_TIME_MS,
            literal_zeros: self.target.accepts_literals,
            in_transaction: false,
        };
        let bytes: usize = writes.iter().map(statement_bytes).sum();
        let mut command = Vec::with_capacity(bytes + 256);
        let damaged = |error: &dyn std::fmt::Display| WriteFailure::Unencodable {
            ns: ns.to_owned(),
            reason: error.to_string(),
        };
        write_command(collection, kind, writes, options, &mut command)
            .map_err(|error| damaged(&error))?;
        let command = RawDocumentBuf::from_bytes(command).map_err(|error| damaged(&error))?;
        let _permit = self.target.limits.permit(kind).await;
        let database = self.target.client.database(db);
        let reply = in_time(REPLY_LIMIT, database.run_raw_command(command)).await;
        let unreadable = |error: &dyn std::fmt::Display| WriteFailure::ReplyUnreadable {
            ns: ns.to_owned(),
            reason: error.to_string(),
        };
        let bytes = match reply {
            Ok(reply) => reply.to_vec().map_err(|error| unreadable(&error))?,
            Err(error) => match undecoded_reply(&error) {
                Some(bytes) => bytes.to_vec(),
                None => return Ok(Err(error)),
            },
        };
        let reply = Document::new(&bytes).and_then(WriteReply::read);
        Ok(Ok(reply.map_err(|error| unreadable(&error))?))
    }
}
