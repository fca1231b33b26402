//! Handles a command that fails as a whole.

use mongodb::bson::doc;
use mongodb::error::{Error, ErrorKind};
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_code, error_text, in_time, is_transient};

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::plan::Bulk;
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::Next;
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::outcome::document_id;
use crate::replay::writes::reply::WriteReply;
use crate::worker::assignment::Token;

/// Error code `MaxTimeMSExpired`.
const TIME_LIMIT: i32 = 50;
/// Number of failures of one command after which it is bisected, to find the write that causes
/// them.
const FAILURES_BEFORE_BISECTION: u32 = 3;
/// Number of failures of a single write without an error code, while the server replies to other
/// commands, after which the write is refused.
const FAILURES_BEFORE_REFUSAL: u32 = 8;

impl MongoSink {
    /// Handles a command's failure. `failures` counts the failures while the target replied to
    /// other commands. An error with the directive `Stop` ends the program. After any other error
    /// that is not transient, the command is bisected until one write is left, which is then
    /// handled as if it had been refused individually.
    pub(crate) async fn after_error<'a>(
        &self,
        bulk: &Bulk<'a>,
        error: &Error,
        failures: &mut u32,
        token: &Token,
    ) -> Result<Next<'a>, ConsumerError> {
        let code = error_code(error);
        let directive = code.map(|code| rule_for(code).directive);
        if directive == Some(Directive::Retry) || is_transient(error) {
            return self.after_transient(bulk, error, failures).await;
        }
        if let Some(code) = code.filter(|_| directive == Some(Directive::Stop)) {
            let Some(first) = bulk.writes.first() else {
                // A bulk without writes has nothing that could be refused.
                return Ok(Next::Go(Vec::new()));
            };
            return Err(WriteFailure::BulkRefused {
                ns: bulk.ns.to_owned(),
                first: first.id,
                code,
                text: error_text(error),
            }
            .into());
        }
        let [write] = bulk.writes.as_slice() else {
            tracing::debug!(
                ns = bulk.ns,
                writes = bulk.writes.len(),
                reason = error_text(error),
                "bisecting a bulk that was refused as a whole"
            );
            return Ok(Next::Halve);
        };
        match code {
            Some(code) => {
                let reply = WriteReply::refused(code, error_text(error));
                Box::pin(self.after_reply(bulk, reply, token)).await
            }
            None => {
                let failure = WriteFailure::Failed {
                    entry: write.id,
                    ns: bulk.ns.to_owned(),
                    document_id: document_id(write),
                    text: error_text(error),
                };
                self.refuse(bulk.ns, write, Reason::Write, None, failure)?;
                Ok(Next::Go(Vec::new()))
            }
        }
    }

    async fn after_transient<'a>(
        &self,
        bulk: &Bulk<'a>,
        error: &Error,
        failures: &mut u32,
    ) -> Result<Next<'a>, ConsumerError> {
        let (ns, writes) = (bulk.ns, bulk.writes.as_slice());
        let code = error_code(error);
        self.target.metrics.count_error("target");
        self.target.readiness.target_failed(&error_text(error));
        // Every command fails while a target is down, so a failure counts only if the target replies
        // to other commands.
        let was_sent = matches!(error.kind.as_ref(), ErrorKind::Io(_)) || code == Some(TIME_LIMIT);
        if was_sent && self.answers().await {
            *failures += 1;
        } else {
            *failures = 0;
        }
        if *failures > FAILURES_BEFORE_BISECTION {
            if writes.len() > 1 {
                let reason = error_text(error);
                let writes = writes.len();
                tracing::warn!(ns, writes, reason, "bisecting a bulk that keeps failing");
                return Ok(Next::Halve);
            }
            if let Some(write) = writes.first()
                && *failures > FAILURES_BEFORE_REFUSAL
                && code.is_none()
            {
                let failure = WriteFailure::FailsRepeatedly {
                    entry: write.id,
                    ns: ns.to_owned(),
                    document_id: document_id(write),
                    text: error_text(error),
                };
                self.refuse(ns, write, Reason::Write, None, failure)?;
                return Ok(Next::Go(Vec::new()));
            }
        }
        Ok(Next::Pause(writes.to_vec()))
    }

    /// Returns true if the target replies to a ping.
    async fn answers(&self) -> bool {
        let admin = self.target.client.database("admin");
        let ping = admin.run_command(doc! { "ping": 1 });
        in_time(REPLY_LIMIT, ping).await.is_ok()
    }
}
