//! Handles the writes that a target refuses individually.

use oplog_relay_core::json::{Mode, write_value};

use crate::config::Unmatched;
use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::directive::{
    DUPLICATE_KEY, Directive, IMMUTABLE_FIELD, directive_for, rule_for,
};
use crate::replay::plan::{Action, Bulk, BulkKind, Routing, Write};
use crate::replay::sink::{MongoSink, count};
use crate::replay::writes::bulk::{Misrouted, Next, unrepeatable};
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::reply::{ConcernError, WriteError, WriteReply};
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Codes with which a sharded cluster refuses a write whose filter does not have the shard key
/// (`ShardKeyNotFound`, and `InvalidOptions` from servers before 7.0), or that changes it
/// (`IllegalOperation`, `WouldChangeOwningShard`, and 31025 from servers since 4.2).
const MISROUTED: [i32; 5] = [20, 61, 72, 283, 31025];

impl MongoSink {
    /// Handles the reply to a bulk.
    pub(crate) async fn after_reply<'a>(
        &self,
        bulk: &Bulk<'a>,
        reply: WriteReply,
        token: &Token,
    ) -> Result<Next<'a>, ConsumerError> {
        if !self.is_acknowledged(&reply)? {
            return Ok(Next::Pause(bulk.writes.clone()));
        }
        match bulk.kind {
            BulkKind::Update | BulkKind::Rewrite => self.after_updates(bulk, &reply, token).await,
            BulkKind::Insert | BulkKind::Delete => self.after_unordered(bulk, &reply, token).await,
        }
    }

    /// Returns the directive for a refused write.
    pub(crate) fn directive(&self, error: &WriteError, write: &Write<'_>) -> Directive {
        let creates = match write.action {
            Action::Insert(_) | Action::Replace(_) => true,
            Action::Modify(_) | Action::Fields(_) => self.policies.unmatched == Unmatched::Upsert,
            Action::AsIs { upsert, .. } => upsert || self.policies.unmatched == Unmatched::Upsert,
            Action::Diff(_) | Action::Rewritten(_) | Action::Zeros(_) | Action::Delete => false,
        };
        directive_for(error.code, creates)
    }

    /// Returns true if a refusal shows that the shard key that this program knows is out of date, or
    /// that the document is not where it was.
    pub(crate) fn is_misrouted(&self, error: &WriteError, write: &Write<'_>) -> bool {
        if self.target.sharding.is_none() {
            return false;
        }
        let is_routed = write.routing != Routing::NONE;
        MISROUTED.contains(&error.code)
            || (is_routed && error.code == DUPLICATE_KEY && error.id_index == Some(true))
    }

    async fn after_updates<'a>(
        &self,
        bulk: &Bulk<'a>,
        reply: &WriteReply,
        token: &Token,
    ) -> Result<Next<'a>, ConsumerError> {
        let (ns, writes) = (bulk.ns, bulk.writes.as_slice());
        let refused = reply.errors.first();
        // A server stops at the first refusal, so the writes after it were not attempted.
        let executed = refused.map_or(writes.len(), |error| error.index.min(writes.len()));
        self.count_executed(ns, writes.get(..executed).unwrap_or_default(), reply.n)
            .await?;
        let rest = writes.get(executed..).unwrap_or_default();
        let (Some(error), Some((write, after))) = (refused, rest.split_first()) else {
            return Ok(Next::Go(Vec::new()));
        };
        if self.is_misrouted(error, write) {
            let executed = writes.get(..executed).unwrap_or_default();
            return Ok(misrouted(error, write, executed));
        }
        let (rest, after) = (|| rest.to_vec(), || after.to_vec());
        Ok(match (self.directive(error, write), write.action) {
            (Directive::Retry, _) => {
                self.wait_for_target(error);
                Next::Pause(rest())
            }
            (Directive::Skip, _) => Next::Go(after()),
            // A concurrent upsert of the same document was faster.
            (Directive::Replace, _) if error.id_index == Some(true) => Next::Pause(rest()),
            (Directive::Rewrite, Action::Modify(_) | Action::Fields(_) | Action::Diff(_)) => {
                tracing::debug!(ns, id = %write.id, code = error.code, "rewriting a document");
                let one = std::slice::from_ref(write);
                match self.rewrite(ns, one, token).await? {
                    Applied::Done => Next::Go(after()),
                    Applied::Abandoned => Next::Abandon,
                }
            }
            (Directive::Replace | Directive::Hold, _)
                if self.may_be_accepted_later(ns, error).await? =>
            {
                self.hold(ns, write, error).await?;
                Next::GoBesideHeld(after())
            }
            (Directive::Refuse, _) if error.code == IMMUTABLE_FIELD => {
                self.after_immutable_field(ns, &rest(), error).await?
            }
            (Directive::Replace | Directive::Hold | Directive::Rewrite | Directive::Refuse, _) => {
                self.refuse_write(ns, write, error)?;
                Next::Go(after())
            }
            (Directive::Stop, _) => return Err(refusal(ns, write, error).into()),
        })
    }

    async fn after_unordered<'a>(
        &self,
        bulk: &Bulk<'a>,
        reply: &WriteReply,
        token: &Token,
    ) -> Result<Next<'a>, ConsumerError> {
        let ns = bulk.ns;
        let (mut replacements, mut again) = (Vec::new(), Vec::new());
        let mut busy = None;
        for error in &reply.errors {
            let Some(write) = bulk.writes.get(error.index) else {
                continue;
            };
            if self.is_misrouted(error, write) {
                return Ok(misrouted(error, write, &[]));
            }
            match (self.directive(error, write), write.action) {
                (Directive::Replace, Action::Insert(document)) if error.id_index != Some(false) => {
                    replacements.push(Write {
                        action: Action::Replace(document),
                        ..*write
                    });
                }
                (Directive::Replace | Directive::Hold, _)
                    if self.may_be_accepted_later(ns, error).await? =>
                {
                    self.hold(ns, write, error).await?;
                }
                (Directive::Retry, _) => {
                    busy = Some(error);
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
                    return Err(refusal(ns, write, error).into());
                }
            }
        }
        self.target
            .metrics
            .duplicate_inserts
            .inc_by(count(replacements.len()));
        let writes = self.without_unchanged(ns, replacements, token).await;
        let kind = BulkKind::Update;
        let replaced = Box::pin(self.send_bulk(&Bulk { ns, kind, writes }, token)).await?;
        Ok(match (replaced, busy) {
            (Applied::Abandoned, _) => Next::Abandon,
            (Applied::Done, None) => Next::Go(again),
            (Applied::Done, Some(error)) => {
                self.wait_for_target(error);
                Next::Pause(again)
            }
        })
    }

    /// Returns true if an index may later accept a document that it refused. For a duplicate key, this
    /// is possible only if the writes of the collection keep their order, as they do with a unique
    /// index, or if an index of the collection is suspended.
    pub(crate) async fn may_be_accepted_later(
        &self,
        ns: &str,
        error: &WriteError,
    ) -> Result<bool, ConsumerError> {
        let is_unique = error.code == DUPLICATE_KEY;
        Ok(!is_unique || self.is_ordered_now(ns).await? || self.has_suspended_of(ns).await?)
    }

    /// Reports a target that refuses writes temporarily.
    pub(crate) fn wait_for_target(&self, error: &WriteError) {
        self.target.metrics.count_error("target");
        let reason = rule_for(error.code).reason;
        self.target
            .readiness
            .target_failed(&format!("{reason} (code {}): {}", error.code, error.text));
    }

    pub(crate) fn refuse_write(
        &self,
        ns: &str,
        write: &Write<'_>,
        error: &WriteError,
    ) -> Result<(), ConsumerError> {
        let failure = refusal(ns, write, error);
        self.refuse(ns, write, Reason::Write, Some(error.code), failure)
    }

    /// Counts the executed updates that found no document. They become dead letters if the operator
    /// has configured that.
    async fn count_executed(
        &self,
        ns: &str,
        executed: &[Write<'_>],
        matched: usize,
    ) -> Result<(), ConsumerError> {
        let unmatched = executed.len().saturating_sub(matched);
        if unmatched > 0 {
            self.count_unmatched(ns, executed, unmatched)?;
            if self.is_dead_lettered(Reason::Unmatched) {
                self.dead_letter_unmatched(ns, executed).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn count_unmatched(
        &self,
        ns: &str,
        executed: &[Write<'_>],
        unmatched: usize,
    ) -> Result<(), ConsumerError> {
        self.target
            .metrics
            .unmatched_updates
            .inc_by(count(unmatched));
        if self.policies.unmatched == Unmatched::Stop
            && let (Some(first), Some(last)) = (executed.first(), executed.last())
        {
            return Err(WriteFailure::StoppedAtUnmatched {
                unmatched,
                ns: ns.to_owned(),
                first: first.id,
                last: last.id,
            }
            .into());
        }
        tracing::debug!(ns, unmatched, "updates found no document");
        Ok(())
    }

    /// Returns true if a majority has acknowledged the writes. Otherwise a failover may roll them
    /// back, so they must be sent again. A permanent write concern error is returned as an error.
    pub(crate) fn is_acknowledged(&self, reply: &WriteReply) -> Result<bool, ConsumerError> {
        let Some(ConcernError { code, text }) = &reply.concern else {
            return Ok(true);
        };
        if rule_for(*code).directive != Directive::Retry {
            let (code, text) = (*code, text.clone());
            return Err(WriteFailure::WriteConcern { code, text }.into());
        }
        self.target.readiness.target_failed(text);
        self.target.metrics.count_error("write_concern");
        Ok(false)
    }
}

/// Formats the `_id` of the write's document as JSON for messages, truncated to a maximum length.
pub(crate) fn document_id(write: &Write<'_>) -> String {
    const SHOWN: usize = 200;
    let mut text = Vec::new();
    if write_value(write.document_id, Mode::Relaxed, &mut text).is_err() {
        return "(unreadable)".to_owned();
    }
    let text = String::from_utf8_lossy(&text);
    text.chars().take(SHOWN).collect()
}

fn misrouted<'a>(error: &WriteError, write: &Write<'a>, executed: &[Write<'_>]) -> Next<'a> {
    Next::Misrouted(Misrouted {
        entry: write.id,
        error: error.clone(),
        done: unrepeatable(executed),
    })
}

pub(crate) fn refusal(ns: &str, write: &Write<'_>, error: &WriteError) -> WriteFailure {
    WriteFailure::Refused {
        entry: write.id,
        ns: ns.to_owned(),
        document_id: document_id(write),
        code: error.code,
        text: error.text.clone(),
    }
}
