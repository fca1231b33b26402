//! Sends a bulk until it is acknowledged. The bulk is split by the server's limits, retried after
//! transient errors, and bisected if necessary.

use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_code, in_time, undecoded_reply};
use oplog_relay_runtime::retry::Backoff;

use crate::config::Unmatched;
use crate::error::ConsumerError;
use crate::replay::plan::{Bulk, BulkKind, CommandOptions, Write, statement_bytes, write_command};
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::bypass::is_no_bypass;
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::reply::WriteReply;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Time limit of a command on the server. It is shorter than the default session timeout of a group
/// (45 s), so that the server does not execute a write after its member was removed from the group.
const MAX_TIME_MS: i64 = 30_000;

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
    /// Nothing more is sent, because the partition was revoked.
    Abandon,
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
        while !rest.is_empty() {
            let cut = self.target.limits.cut(bulk.kind, rest);
            if self.send(bulk.ns, bulk.kind, cut.next, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            rest = cut.rest;
        }
        Ok(Applied::Done)
    }

    /// Sends writes that fit in one command, until all are acknowledged.
    pub(crate) async fn send(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut rest = writes.to_vec();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failures = 0;
        while !rest.is_empty() {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
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
                Next::Abandon => return Ok(Applied::Abandoned),
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
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    async fn send_halves(&self, bulk: &Bulk<'_>, token: &Token) -> Result<Applied, ConsumerError> {
        let (first, second) = bulk.writes.split_at(bulk.writes.len() / 2);
        for half in [first, second] {
            let sent = Box::pin(self.send(bulk.ns, bulk.kind, half, token)).await?;
            if sent == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    /// Runs one command. If the target refuses `bypassDocumentValidation`, the command is sent
    /// again without it.
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
