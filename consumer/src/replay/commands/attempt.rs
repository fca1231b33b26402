//! Sends a command to the target until the target accepts or refuses it.

use mongodb::bson::{Document, RawDocumentBuf};
use oplog_relay_core::document::{self, DocumentBuilder, Malformed, kind};
use oplog_relay_runtime::mongo::{
    REPLY_LIMIT, error_code, error_text, is_transient, undecoded_reply,
};
use oplog_relay_runtime::retry::Backoff;

use crate::error::ConsumerError;
use crate::replay::catalog::Ran;
use crate::replay::commands::refused_options::{Fallback, without};
use crate::replay::commands::{DriverResult, Execution, refused_by_target, unwritable};
use crate::replay::directive::{Directive, rule_for};
use crate::replay::plan::translation::done;
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::reply::WriteReply;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// The outcome of an attempt to run a command.
pub(crate) enum Attempt {
    /// The command has run, or has nothing left to do.
    Done,
    /// The partition was revoked, or the program ends.
    Abandoned,
    /// The target refuses the command with this error.
    Refused(mongodb::error::Error),
}

impl MongoSink {
    /// Runs a command, or `otherwise` if the target refuses the command. If the target refuses
    /// both, and the last one because of an option that may be left out, both are tried again
    /// without it.
    pub(crate) async fn run_accepted(
        &self,
        command: &[u8],
        otherwise: Option<&[u8]>,
        execution: Execution<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Execution { db, ran, .. } = execution;
        let tries = [Some(command), otherwise].into_iter().flatten();
        let mut tries: Vec<Vec<u8>> = tries.map(<[u8]>::to_vec).collect();
        loop {
            let mut refused = None;
            for command in &tries {
                match self.attempt(command, execution, token).await? {
                    Attempt::Done => return Ok(Applied::Done),
                    Attempt::Abandoned => return Ok(Applied::Abandoned),
                    Attempt::Refused(error) => refused = Some((command, error)),
                }
            }
            let Some((command, error)) = refused else {
                // Without the options that were left out, nothing remains to be run.
                return Ok(Applied::Done);
            };
            match self.fallback_for(db, command, ran, &error, token).await? {
                Fallback::None => return Err(refused_by_target(ran, &error).into()),
                Fallback::Done => return Ok(Applied::Done),
                Fallback::Abandoned => return Ok(Applied::Abandoned),
                Fallback::Without(option) => tries = without_option(&tries, &option, ran)?,
            }
        }
    }

    /// Runs a command, and retries it after transient errors until the target accepts or refuses
    /// it. Of a `createIndexes` whose indexes exist in part, only the missing indexes are then
    /// built.
    pub(crate) async fn attempt(
        &self,
        command: &[u8],
        execution: Execution<'_>,
        token: &Token,
    ) -> Result<Attempt, ConsumerError> {
        let Execution {
            db, accept, ran, ..
        } = execution;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(Attempt::Abandoned);
            }
            let error = match self.send_command(db, command, ran).await? {
                Ok(reply) if self.is_acknowledged(&reply)? => {
                    self.target.readiness.target_reached();
                    return Ok(Attempt::Done);
                }
                Ok(_) if backoff.sleep(&self.target.shutdown).await => continue,
                Ok(_) => return Ok(Attempt::Abandoned),
                Err(error) => error,
            };
            let code = error_code(&error);
            if code.is_some_and(|code| accept.contains(&code)) {
                if code == Some(done::TAKEN) {
                    self.check_options(db, command, ran).await?;
                }
                if code == Some(done::SHARD_KEY_INDEX) {
                    tracing::warn!(
                        ns = ran.ns,
                        entry = %ran.id,
                        "keeping an index that the source dropped, because the target needs it for the \
                         shard key of the collection"
                    );
                }
                if code.is_some_and(|code| done::INDEX_TAKEN.contains(&code)) {
                    let Some(rest) = self.missing_indexes(command, execution).await? else {
                        return Ok(Attempt::Done);
                    };
                    let rest = rest.to_vec().map_err(|error| unwritable(ran, &error))?;
                    let strict = Execution {
                        accept: &[],
                        ..execution
                    };
                    return Box::pin(self.attempt(&rest, strict, token)).await;
                }
                return Ok(Attempt::Done);
            }
            let directive = code.map(|code| rule_for(code).directive);
            if directive != Some(Directive::Retry) && !is_transient(&error) {
                return Ok(Attempt::Refused(error));
            }
            self.target.readiness.target_failed(&error_text(&error));
            self.target.metrics.count_error("target");
            if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Attempt::Abandoned);
            }
        }
    }

    /// Sends a command with majority write concern and waits for its reply without a time limit,
    /// because an index build may take hours.
    async fn send_command(
        &self,
        db: &str,
        command: &[u8],
        ran: &Ran,
    ) -> Result<DriverResult<WriteReply>, ConsumerError> {
        let command = with_majority(command)
            .ok()
            .and_then(|command| RawDocumentBuf::from_bytes(command).ok());
        let command = command.ok_or_else(|| unwritable(ran, &"it is not a document"))?;
        let database = self.target.client.database(db);
        let running = database.run_raw_command(command).into_future();
        tokio::pin!(running);
        loop {
            match tokio::time::timeout(REPLY_LIMIT, &mut running).await {
                Ok(Err(error)) => {
                    let reply = undecoded_reply(&error).map(document::Document::new);
                    let reply = reply.map(|reply| reply.and_then(WriteReply::read));
                    return Ok(match reply {
                        Some(Ok(reply)) => without_errors(reply),
                        Some(Err(_)) | None => Err(error),
                    });
                }
                Ok(Ok(answer)) => {
                    let bytes = answer.to_vec().map_err(|error| unwritable(ran, &error))?;
                    let reply = document::Document::new(&bytes).and_then(WriteReply::read);
                    let reply = reply.map_err(|error| unwritable(ran, &error))?;
                    return Ok(without_errors(reply));
                }
                Err(_) => {
                    let reason = format!("the command of entry {} is still running", ran.id);
                    tracing::warn!(ns = ran.ns, reason);
                    self.target.readiness.target_failed(&reason);
                }
            }
        }
    }
}

/// Returns the first refused write as the error of its command: a server reports it in a reply that is
/// otherwise successful.
fn without_errors(reply: WriteReply) -> DriverResult<WriteReply> {
    match reply.errors.first() {
        Some(error) => Err(error.as_command_error()),
        None => Ok(reply),
    }
}

/// Returns the commands without an option. A command that then has nothing left to do is removed.
fn without_option(
    commands: &[Vec<u8>],
    option: &str,
    ran: &Ran,
) -> Result<Vec<Vec<u8>>, ConsumerError> {
    let mut left = Vec::new();
    for command in commands {
        let command =
            Document::from_reader(command.as_slice()).map_err(|error| unwritable(ran, &error))?;
        if let Some(rest) = without(&command, option) {
            left.push(rest.to_vec().map_err(|error| unwritable(ran, &error))?);
        }
    }
    Ok(left)
}

/// Sets the write concern of a command to majority.
fn with_majority(command: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::with_capacity(command.len() + 64);
    let mut whole = DocumentBuilder::start(&mut bytes);
    for element in document::Document::new(command)?.elements() {
        let element = element?;
        if element.name != b"writeConcern" {
            whole.element(element);
        }
    }
    whole.nested("writeConcern", kind::DOCUMENT, |concern| {
        concern.str("w", "majority");
    });
    whole.finish();
    Ok(bytes)
}
