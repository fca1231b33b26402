//! One bulk to its acknowledgement: cut to the server's limits, repeated, mended, bisected.

use std::sync::atomic::Ordering;

use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::error::ErrorKind;
use oplog_relay_core::json::{Mode, write_value};
use oplog_relay_core::runtime::mongo::{ANSWER, error_code, in_time, is_transient};
use oplog_relay_core::runtime::retry::Backoff;

use super::reply::{WriteError, WriteReply};
use super::{FIRST_PAUSE, LONGEST_PAUSE, MongoSink};
use crate::assignment::Token;
use crate::config::Unmatched;
use crate::dead_letter::Reason;
use crate::directive::{DUPLICATE_KEY, Directive, UNAUTHORIZED, rule_for};
use crate::error::ConsumerError;
use crate::plan::{Action, Bulk, BulkKind, CommandOptions, Write, statement_bytes, write_command};
use crate::sink::Applied;

/// How long the server may work on one command: below the session timeout of the group, so that
/// a write of a member that was declared dead is not executed late.
const MAX_TIME_MS: i64 = 30_000;
/// Code of our own time limit.
const TIME_LIMIT: i32 = 50;
/// Failures of one command after which it is cut in halves, to find the write that causes them.
const FAILURES_BEFORE_CUT: u32 = 3;
/// Failures of a single write, with the server answering in between, after which it is to blame.
const FAILURES_OF_ONE: u32 = 8;
/// Codes by which a server says that it does not know or allow `bypassDocumentValidation`.
const NO_BYPASS: [i32; 5] = [UNAUTHORIZED, 9, 72, 238, 40415];

/// What to do after an attempt.
enum Next<'w, 'a> {
    /// Go on with these, after a pause or at once.
    Go { rest: &'w [Write<'a>], pause: bool },
    /// Go on with these; what they do to held documents goes on top of what is held.
    GoBesideHeld(&'w [Write<'a>]),
    /// Send the halves one after the other.
    Halve,
}

impl MongoSink {
    /// Sends a bulk in as many commands as it takes.
    pub(super) async fn send_bulk(
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
            let (part, after) = self.limits.cut(bulk.kind, rest);
            if self.send(bulk.ns, bulk.kind, part, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            rest = after;
        }
        Ok(Applied::Done)
    }

    /// Sends writes that fit one command, until all are acknowledged.
    pub(super) async fn send(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut others;
        let mut rest = writes;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failures = 0;
        while !rest.is_empty() {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            let bypassed = self.bypass_validation.load(Ordering::Relaxed);
            let next = match self.run(ns, kind, rest).await? {
                Ok(reply) => {
                    self.readiness.target_reached();
                    self.after_reply(ns, kind, rest, reply, token).await?
                }
                Err(error) if bypassed && is_no_bypass(&error) => {
                    if self.bypass_validation.swap(false, Ordering::Relaxed) {
                        tracing::warn!(%error, "going on without bypassDocumentValidation");
                    }
                    Some(Next::Go { rest, pause: false })
                }
                Err(error) => Some(self.after_error(ns, rest, &error, &mut failures).await?),
            };
            match next {
                None => return Ok(Applied::Abandoned),
                Some(Next::Halve) => {
                    let (first, second) = rest.split_at(rest.len() / 2);
                    for half in [first, second] {
                        let sent = Box::pin(self.send(ns, kind, half, token)).await?;
                        if sent == Applied::Abandoned {
                            return Ok(Applied::Abandoned);
                        }
                    }
                    return Ok(Applied::Done);
                }
                Some(Next::GoBesideHeld(after)) => {
                    // Not by sending them here: each of them may be refused.
                    others = self.without_held(ns, after).await?;
                    rest = &others;
                    backoff.reset();
                    failures = 0;
                }
                Some(Next::Go { rest: left, pause }) => {
                    if left.len() < rest.len() {
                        backoff.reset();
                        failures = 0;
                    }
                    rest = left;
                    if pause && !rest.is_empty() && !backoff.sleep(&self.shutdown).await {
                        return Ok(Applied::Abandoned);
                    }
                }
            }
        }
        Ok(Applied::Done)
    }

    pub(super) async fn run(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
    ) -> Result<Result<WriteReply, mongodb::error::Error>, ConsumerError> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let options = CommandOptions {
            bypass_validation: self.bypass_validation.load(Ordering::Relaxed),
            upsert_unmatched: self.unmatched == Unmatched::Upsert,
            max_time_ms: MAX_TIME_MS,
        };
        let bytes: usize = writes.iter().map(statement_bytes).sum();
        let mut command = Vec::with_capacity(bytes + 256);
        let damaged = |error: &dyn std::fmt::Display| {
            ConsumerError::Refused(format!("writes to {ns} are no valid command: {error}"))
        };
        write_command(collection, kind, writes, options, &mut command)
            .map_err(|error| damaged(&error))?;
        let command = RawDocumentBuf::from_bytes(command).map_err(|error| damaged(&error))?;
        let _turn = self.limits.turn(kind).await;
        let database = self.client.database(db);
        let reply = in_time(ANSWER, database.run_raw_command(command)).await;
        Ok(reply.map(|reply| WriteReply::read(&reply)))
    }

    /// Takes an answer; `None` if what had to be mended was abandoned.
    async fn after_reply<'w, 'a>(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &'w [Write<'a>],
        reply: WriteReply,
        token: &Token,
    ) -> Result<Option<Next<'w, 'a>>, ConsumerError> {
        if !self.is_kept(&reply)? {
            return Ok(Some(Next::Go {
                rest: writes,
                pause: true,
            }));
        }
        match kind {
            BulkKind::Update | BulkKind::Rewrite => {
                self.after_updates(ns, writes, &reply, token).await
            }
            BulkKind::Insert | BulkKind::Delete => {
                self.after_unordered(ns, kind, writes, &reply, token).await
            }
        }
    }

    async fn after_updates<'w, 'a>(
        &self,
        ns: &str,
        writes: &'w [Write<'a>],
        reply: &WriteReply,
        token: &Token,
    ) -> Result<Option<Next<'w, 'a>>, ConsumerError> {
        let refused = reply.errors.first();
        let executed = refused
            .map_or(writes.len(), |error| error.index)
            .min(writes.len());
        let unmatched = executed.saturating_sub(reply.n);
        if unmatched > 0 {
            let executed = writes.get(..executed).unwrap_or_default();
            self.count_unmatched(ns, executed, unmatched)?;
            if self.buries(Reason::Unmatched) {
                self.bury_unmatched(ns, executed).await?;
            }
        }
        let (Some(error), Some((write, after))) = (
            refused,
            writes.get(executed..).and_then(<[Write<'_>]>::split_first),
        ) else {
            return Ok(Some(Next::Go {
                rest: &[],
                pause: false,
            }));
        };
        let rest = writes.get(executed..).unwrap_or_default();
        let (rest, pause) = match (rule_for(error.code).directive, write.action) {
            (Directive::Retry, _) => (rest, true),
            (Directive::Skip, _) => (after, false),
            // Another upsert of the same document was faster.
            (Directive::Replace, _) if error.id_index == Some(true) => (rest, true),
            (Directive::Rewrite, Action::Modify(_) | Action::Fields(_) | Action::Diff(_)) => {
                tracing::debug!(ns, id = %write.id, code = error.code, "rewriting a document");
                let one = std::slice::from_ref(write);
                if self.rewrite(ns, one, token).await? == Applied::Abandoned {
                    return Ok(None);
                }
                (after, false)
            }
            (Directive::Replace | Directive::Hold, _) if self.may_pass(ns, error).await? => {
                self.hold(ns, write, error).await?;
                return Ok(Some(Next::GoBesideHeld(after)));
            }
            (Directive::Replace | Directive::Hold | Directive::Rewrite | Directive::Refuse, _) => {
                self.refuse_write(ns, write, error)?;
                (after, false)
            }
            (Directive::Stop, _) => return Err(ConsumerError::Refused(refusal(ns, write, error))),
        };
        Ok(Some(Next::Go { rest, pause }))
    }

    async fn after_unordered<'w, 'a>(
        &self,
        ns: &str,
        kind: BulkKind,
        writes: &'w [Write<'a>],
        reply: &WriteReply,
        token: &Token,
    ) -> Result<Option<Next<'w, 'a>>, ConsumerError> {
        let (mut replacements, mut again) = (Vec::new(), Vec::new());
        let mut is_busy = false;
        for error in &reply.errors {
            let Some(write) = writes.get(error.index) else {
                continue;
            };
            match (rule_for(error.code).directive, write.action) {
                (Directive::Replace, Action::Insert(document)) if error.id_index != Some(false) => {
                    replacements.push(Write {
                        action: Action::Replace(document),
                        ..*write
                    });
                }
                (Directive::Replace | Directive::Hold, _) if self.may_pass(ns, error).await? => {
                    self.hold(ns, write, error).await?;
                }
                (Directive::Retry, _) => {
                    is_busy = true;
                    again.push(*write);
                }
                (Directive::Skip, _) => {}
                (
                    Directive::Replace | Directive::Hold | Directive::Rewrite | Directive::Refuse,
                    _,
                ) => {
                    self.refuse_write(ns, write, error)?;
                }
                (Directive::Stop, _) => {
                    return Err(ConsumerError::Refused(refusal(ns, write, error)));
                }
            }
        }
        self.metrics
            .duplicate_inserts
            .inc_by(count(replacements.len()));
        if is_busy {
            // They come back at once.
            self.metrics.count_error("target");
            tokio::time::sleep(FIRST_PAUSE).await;
        }
        let replacements = self.without_present(ns, replacements).await;
        for (kind, writes) in [(BulkKind::Update, replacements), (kind, again)] {
            let writes = Bulk { ns, kind, writes };
            if Box::pin(self.send_bulk(&writes, token)).await? == Applied::Abandoned {
                return Ok(None);
            }
        }
        Ok(Some(Next::Go {
            rest: &[],
            pause: false,
        }))
    }

    /// Whether a document that an index refused may pass later: a duplicate key only where the
    /// collection has a unique index, by which its order is kept, or had it until just now.
    async fn may_pass(&self, ns: &str, error: &WriteError) -> Result<bool, ConsumerError> {
        let is_unique = error.code == DUPLICATE_KEY;
        Ok(!is_unique || self.is_ordered_now(ns).await? || self.has_suspended_of(ns).await?)
    }

    fn refuse_write(
        &self,
        ns: &str,
        write: &Write<'_>,
        error: &WriteError,
    ) -> Result<(), ConsumerError> {
        let reason = (Reason::Write, Some(error.code));
        self.refuse(ns, write, reason, refusal(ns, write, error))
    }

    pub(super) fn count_unmatched(
        &self,
        ns: &str,
        executed: &[Write<'_>],
        unmatched: usize,
    ) -> Result<(), ConsumerError> {
        self.metrics.unmatched_updates.inc_by(count(unmatched));
        let ids = executed
            .first()
            .map(|write| write.id)
            .zip(executed.last().map(|write| write.id));
        if self.unmatched == Unmatched::Stop {
            let (first, last) = ids.unzip();
            return Err(ConsumerError::Refused(format!(
                "{unmatched} of the updates of {ns} in the entries {} to {} found no document on \
                 the target. The target lacks what the source had: replay from the beginning into \
                 an empty target, or go on with --unmatched count",
                shown(first),
                shown(last)
            )));
        }
        tracing::debug!(ns, unmatched, "updates found no document");
        Ok(())
    }

    /// Whether what was executed will stay: what no majority has a failover may undo, and only a
    /// repetition tells.
    pub(super) fn is_kept(&self, reply: &WriteReply) -> Result<bool, ConsumerError> {
        let Some((code, text)) = reply.concern.as_ref() else {
            return Ok(true);
        };
        if rule_for(*code).directive != Directive::Retry {
            let reason = format!("the target's write concern failed ({code}): {text}");
            return Err(ConsumerError::Refused(reason));
        }
        self.readiness.target_failed(text);
        self.metrics.count_error("write_concern");
        Ok(false)
    }

    /// Takes a command's failure; `failures` of it so far, with the target answering in between.
    async fn after_error<'w, 'a>(
        &self,
        ns: &str,
        writes: &'w [Write<'a>],
        error: &mongodb::error::Error,
        failures: &mut u32,
    ) -> Result<Next<'w, 'a>, ConsumerError> {
        let code = error_code(error);
        let rule = code.map(rule_for);
        let retry = rule.is_some_and(|rule| rule.directive == Directive::Retry);
        if !retry && !is_transient(error) {
            let reason = rule.map_or("the target refuses the write", |rule| rule.reason);
            return Err(ConsumerError::Refused(format!(
                "writes to {ns} (from entry {}) were refused: {}: {reason}",
                shown(writes.first().map(|write| write.id)),
                error.kind
            )));
        }
        self.metrics.count_error("target");
        self.readiness.target_failed(&error.kind.to_string());
        // A target that is away fails whatever is sent.
        let was_sent = matches!(error.kind.as_ref(), ErrorKind::Io(_)) || code == Some(TIME_LIMIT);
        if !was_sent || !self.answers().await {
            *failures = 0;
        } else {
            *failures += 1;
        }
        if *failures > FAILURES_BEFORE_CUT {
            if writes.len() > 1 {
                tracing::warn!(ns, writes = writes.len(), %error, "bisecting a bulk that keeps failing");
                return Ok(Next::Halve);
            }
            if let Some(write) = writes.first()
                && *failures > FAILURES_OF_ONE
                && code.is_none()
            {
                self.refuse(ns, write, (Reason::Write, None), poison(ns, write, error))?;
                return Ok(Next::Go {
                    rest: &[],
                    pause: false,
                });
            }
        }
        Ok(Next::Go {
            rest: writes,
            pause: true,
        })
    }

    /// Whether the target answers at all.
    async fn answers(&self) -> bool {
        let admin = self.client.database("admin");
        let ping = admin.run_command(doc! { "ping": 1 });
        in_time(ANSWER, ping).await.is_ok()
    }
}

fn is_no_bypass(error: &mongodb::error::Error) -> bool {
    error_code(error).is_some_and(|code| NO_BYPASS.contains(&code))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn shown(id: Option<oplog_relay_core::position::EntryId>) -> String {
    id.map_or_else(|| "?".to_owned(), |id| id.to_string())
}

/// The write's document, for messages: `_id` as JSON, cut where it is long.
fn document_id(write: &Write<'_>) -> String {
    const SHOWN: usize = 200;
    let mut text = Vec::new();
    if write_value(write.document_id, Mode::Relaxed, &mut text).is_err() {
        return "(unreadable)".to_owned();
    }
    let text = String::from_utf8_lossy(&text);
    text.chars().take(SHOWN).collect()
}

fn refusal(ns: &str, write: &Write<'_>, error: &WriteError) -> String {
    let reason = if error.code == DUPLICATE_KEY {
        "another document of the target has the same value under a unique index. Either the \
         target is ahead of the entries replayed, or it has documents of its own: drop that index \
         on the target until the replay has caught up, or replay into an empty target"
    } else {
        rule_for(error.code).reason
    };
    format!(
        "the target refused entry {} for the document of {ns} with _id {} (code {}): {}: {reason}",
        write.id,
        document_id(write),
        error.code,
        error.text
    )
}

fn poison(ns: &str, write: &Write<'_>, error: &mongodb::error::Error) -> String {
    format!(
        "the target answers, but fails each time at entry {} for the document of {ns} with _id {}: \
         {}. The target cannot hold this document",
        write.id,
        document_id(write),
        error.kind
    )
}
