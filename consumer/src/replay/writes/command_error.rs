//! What becomes of the writes of a command that fails as a whole.

use mongodb::bson::doc;
use mongodb::error::{Error, ErrorKind};
use oplog_relay_runtime::mongo::{ANSWER, error_code, error_text, in_time, is_transient};

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::plan::{Bulk, Write};
use crate::replay::target::MongoSink;
use crate::replay::writes::bulk::Next;
use crate::replay::writes::outcome::{document_id, shown};
use crate::replay::writes::reply::WriteReply;
use crate::worker::assignment::Token;

/// Code of the command's own time limit.
const TIME_LIMIT: i32 = 50;
/// Failures of one command after which it is cut in halves, to find the write that causes them.
const FAILURES_BEFORE_CUT: u32 = 3;
/// Failures of a single write, with the server answering in between, after which it is to blame.
const FAILURES_OF_ONE: u32 = 8;

impl MongoSink {
    /// Takes a command's failure; `failures` counts those with the target answering in between. What does
    /// not pass with time is cut in halves until one write is left, which then is treated as if
    /// it had been refused alone.
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
            return Err(ConsumerError::Refused(format!(
                "writes to {} (from entry {}) were refused (code {code}): {}: {}",
                bulk.ns,
                shown(bulk.writes.first().map(|write| write.id)),
                error_text(error),
                rule_for(code).reason
            )));
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
                let text = unexplained(bulk.ns, write, error);
                self.refuse(bulk.ns, write, (Reason::Write, None), text)?;
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
        self.metrics.count_error("target");
        self.readiness.target_failed(&error_text(error));
        // A target that is away fails whatever is sent.
        let was_sent = matches!(error.kind.as_ref(), ErrorKind::Io(_)) || code == Some(TIME_LIMIT);
        if was_sent && self.answers().await {
            *failures += 1;
        } else {
            *failures = 0;
        }
        if *failures > FAILURES_BEFORE_CUT {
            if writes.len() > 1 {
                let reason = error_text(error);
                let writes = writes.len();
                tracing::warn!(ns, writes, reason, "bisecting a bulk that keeps failing");
                return Ok(Next::Halve);
            }
            if let Some(write) = writes.first()
                && *failures > FAILURES_OF_ONE
                && code.is_none()
            {
                let text = unexplained(ns, write, error);
                self.refuse(ns, write, (Reason::Write, None), text)?;
                return Ok(Next::Go(Vec::new()));
            }
        }
        Ok(Next::Pause(writes.to_vec()))
    }

    /// Whether the target answers at all.
    async fn answers(&self) -> bool {
        let admin = self.client.database("admin");
        let ping = admin.run_command(doc! { "ping": 1 });
        in_time(ANSWER, ping).await.is_ok()
    }
}

fn unexplained(ns: &str, write: &Write<'_>, error: &Error) -> String {
    format!(
        "the target answers, but fails each time at entry {} for the document of {ns} with _id {}: \
         {}. The target cannot hold this document",
        write.id,
        document_id(write),
        error_text(error)
    )
}
