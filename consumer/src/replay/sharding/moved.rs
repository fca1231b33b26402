//! Documents that get another shard key, and so may belong to another shard.
//!
//! A document moves in a transaction that deletes it and inserts its new form, so that readers, and the
//! replay after a crash, find it exactly once. Where the cluster runs no transactions, the document is
//! deleted and then inserted; until the insert is acknowledged, its last content is kept (see
//! `moving`). The entry that moves the document is committed only afterwards.

use mongodb::ClientSession;
use mongodb::bson::RawDocumentBuf;
use mongodb::error::{Error, ErrorKind, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::WriteConcern;
use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{
    REPLY_LIMIT, error_code, error_text, in_time, is_transient, undecoded_reply,
};
use oplog_relay_runtime::retry::Backoff;

use crate::error::ConsumerError;
use crate::replay::commands::DriverResult;
use crate::replay::damage::damaged;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::held_documents::key as held_key;
use crate::replay::plan::BulkKind;
use crate::replay::sharding::move_commands::{Move, MoveCommands, deletes_of};
use crate::replay::sharding::routed::Sending;
use crate::replay::sink::{MongoSink, count};
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::bulk::{Misrouted, Sent};
use crate::replay::writes::bypass::is_no_bypass;
use crate::replay::writes::outcome::refusal;
use crate::replay::writes::reply::{WriteError, WriteReply};
use crate::worker::applied::Applied;

/// Maximum number of documents that move in one transaction. It is small, because a transaction
/// conflicts with migrations of chunks.
const MOVES_AT_ONCE: usize = 100;
/// Number of attempts to commit one transaction.
const COMMITS: u32 = 3;
/// `IllegalOperation`
const ILLEGAL_OPERATION: i32 = 20;
/// Codes with which a deployment refuses transactions: `IllegalOperation`, `CommandNotFound`,
/// `CommandNotSupported`, `ReadConcernMajorityNotEnabled`, `NotImplemented` and
/// `OperationNotSupportedInTransaction`.
const NO_TRANSACTIONS: [i32; 6] = [ILLEGAL_OPERATION, 59, 115, 148, 238, 263];

/// The outcome of one attempt to run a transaction.
pub(crate) enum Transaction {
    Committed,
    /// The cluster refused a write.
    Refused(WriteError),
    /// A document is no longer where it was.
    Gone,
    /// The transaction may succeed later.
    Failed(Error),
    /// The cluster runs no transactions, for this reason.
    Unavailable(String),
}

impl MongoSink {
    /// Moves documents. Returns `Done` after all moves are acknowledged.
    pub(crate) async fn move_documents(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<Sent, ConsumerError> {
        for part in moves.chunks(MOVES_AT_ONCE) {
            let sent = if self.runs_transactions() {
                self.move_in_transaction(sending, part).await?
            } else {
                self.move_one_by_one(sending, part).await?
            };
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
        }
        Ok(Sent::Done)
    }

    /// Returns true if the target is a cluster that has not refused a transaction within the last minute.
    pub(crate) fn runs_transactions(&self) -> bool {
        let sharding = self.target.sharding.as_ref();
        sharding.is_some_and(super::known::Sharding::runs_transactions)
    }

    /// Records that documents must move without transactions for a minute.
    pub(crate) fn refuse_transactions(&self, ns: &str, reason: &str) {
        let sharding = self.target.sharding.as_ref();
        if sharding.is_some_and(super::known::Sharding::refuse_transactions) {
            tracing::warn!(
                ns,
                reason,
                "the target refuses transactions; moving documents by a delete and an insert, and trying \
                 a transaction every minute"
            );
        }
    }

    async fn move_in_transaction(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<Sent, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !sending.token.is_valid() {
                return Ok(Sent::Abandoned);
            }
            match self.try_transaction(sending, moves).await? {
                Transaction::Committed => {
                    self.target.readiness.target_reached();
                    self.target
                        .metrics
                        .moved_documents
                        .inc_by(count(moves.len()));
                    return Ok(Sent::Done);
                }
                // The reply to the deletes does not say which of the documents is gone.
                Transaction::Gone if moves.len() > 1 => {
                    return self.move_singly(sending, moves).await;
                }
                Transaction::Gone => return Ok(gone(moves)),
                Transaction::Unavailable(reason) => {
                    self.refuse_transactions(sending.ns, &reason);
                    return self.move_one_by_one(sending, moves).await;
                }
                Transaction::Refused(error) => {
                    if let [only] = moves {
                        match self.after_refused_move(sending, only, error).await? {
                            Some(sent) => return Ok(sent),
                            // The refusal is temporary.
                            None if backoff.sleep(&self.target.shutdown).await => continue,
                            None => return Ok(Sent::Abandoned),
                        }
                    }
                    return self.move_singly(sending, moves).await;
                }
                Transaction::Failed(error) => {
                    self.target.metrics.count_error("target");
                    self.target.readiness.target_failed(&error_text(&error));
                }
            }
            if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Sent::Abandoned);
            }
        }
    }

    /// Moves each document in a transaction of its own, after a common one was refused.
    async fn move_singly(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<Sent, ConsumerError> {
        for one in moves {
            let one = std::slice::from_ref(one);
            let sent = Box::pin(self.move_in_transaction(sending, one)).await?;
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
        }
        Ok(Sent::Done)
    }

    /// Handles the refusal of a single move. Returns `None` if it is to be repeated.
    pub(crate) async fn after_refused_move(
        &self,
        sending: Sending<'_>,
        one: &Move<'_>,
        error: WriteError,
    ) -> Result<Option<Sent>, ConsumerError> {
        let ns = sending.ns;
        let write = &one.write;
        if self.is_misrouted(&error, write) {
            return Ok(Some(Sent::Misrouted(Misrouted {
                entry: write.id,
                error,
                done: Vec::new(),
            })));
        }
        match self.directive(&error, write) {
            Directive::Retry => {
                self.wait_for_target(&error);
                return Ok(None);
            }
            Directive::Replace | Directive::Hold
                if self.may_be_accepted_later(ns, &error).await? =>
            {
                self.hold(ns, write, &error).await?;
            }
            Directive::Stop => return Err(refusal(ns, write, &error).into()),
            Directive::Replace
            | Directive::Hold
            | Directive::Rewrite
            | Directive::Skip
            | Directive::Refuse => self.refuse_write(ns, write, &error)?,
        }
        Ok(Some(Sent::Done))
    }

    /// Runs one transaction that moves documents, and classifies its error.
    pub(crate) async fn try_transaction(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<Transaction, ConsumerError> {
        let outcome = self.run_transaction(sending, moves).await?;
        Ok(match outcome {
            Ok(transaction) => transaction,
            Err(error) if matches!(error.kind.as_ref(), ErrorKind::Transaction { .. }) => {
                Transaction::Unavailable(error_text(&error))
            }
            Err(error) => match error_code(&error) {
                Some(code) if NO_TRANSACTIONS.contains(&code) => {
                    Transaction::Unavailable(error_text(&error))
                }
                Some(code)
                    if !is_transient(&error) && rule_for(code).directive != Directive::Retry =>
                {
                    Transaction::Refused(WriteError::of_command(code, error_text(&error)))
                }
                _ => Transaction::Failed(error),
            },
        })
    }

    async fn run_transaction(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<DriverResult<Transaction>, ConsumerError> {
        let commands = MoveCommands::new(sending, moves, self.target.bypass.is_wanted(sending.ns));
        let commands = commands.map_err(|error| damaged(sending.ns, &error))?;
        let expected = moves.iter().map(|one| one.stored.len()).sum();
        let outcome = Box::pin(self.delete_and_insert(sending.ns, &commands, expected)).await;
        let code = outcome.as_ref().err().and_then(error_code);
        if code.is_some_and(is_no_bypass) && commands.bypasses {
            // The next attempt is sent without the option.
            self.target.bypass.refuse(sending.ns);
            return Ok(outcome.or_else(|error| Ok(Transaction::Failed(error))));
        }
        Ok(outcome)
    }

    async fn delete_and_insert(
        &self,
        ns: &str,
        commands: &MoveCommands,
        expected: usize,
    ) -> DriverResult<Transaction> {
        let mut session = self.target.client.start_session().await?;
        let begin = session.start_transaction();
        begin.write_concern(WriteConcern::majority()).await?;
        let outcome = self.send_moves(ns, commands, expected, &mut session).await;
        if !matches!(outcome, Ok(Transaction::Committed)) {
            // An error here has no consequence: the server aborts the transaction of a session that ends.
            drop(in_time(REPLY_LIMIT, session.abort_transaction()).await);
            return outcome;
        }
        let mut commits = 1;
        loop {
            match in_time(REPLY_LIMIT, session.commit_transaction()).await {
                Ok(()) => return Ok(Transaction::Committed),
                // If the transaction was committed after all, the next attempt finds the document gone.
                Err(error)
                    if commits < COMMITS
                        && error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) =>
                {
                    commits += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_moves(
        &self,
        ns: &str,
        commands: &MoveCommands,
        expected: usize,
        session: &mut ClientSession,
    ) -> DriverResult<Transaction> {
        let deleted = self.run_in(ns, &commands.delete, session).await?;
        if let Some(error) = deleted.errors.into_iter().next() {
            return Ok(Transaction::Refused(error));
        }
        if deleted.n != expected {
            return Ok(Transaction::Gone);
        }
        let inserted = match self.run_in(ns, &commands.insert, session).await {
            // The cluster has accepted the transaction, so the code concerns the insert.
            Err(error) if error_code(&error) == Some(ILLEGAL_OPERATION) => {
                let text = error_text(&error);
                return Ok(Transaction::Refused(WriteError::of_command(
                    ILLEGAL_OPERATION,
                    text,
                )));
            }
            inserted => inserted?,
        };
        let mut errors = inserted.errors;
        if errors.is_empty()
            && let Some(restore) = &commands.restore
        {
            errors = self.run_in(ns, restore, session).await?.errors;
        }
        Ok(match errors.into_iter().next() {
            Some(error) => Transaction::Refused(error),
            None => Transaction::Committed,
        })
    }

    /// Runs a command in the transaction of a session.
    async fn run_in(
        &self,
        ns: &str,
        command: &[u8],
        session: &mut ClientSession,
    ) -> DriverResult<WriteReply> {
        let command = RawDocumentBuf::from_bytes(command.to_vec())?;
        let database = self.target.client.database(Namespace::split(ns).db);
        let running = database.run_raw_command(command).session(session);
        let bytes = match in_time(REPLY_LIMIT, running).await {
            Ok(reply) => reply.to_vec()?,
            Err(error) => match undecoded_reply(&error) {
                Some(bytes) => bytes.to_vec(),
                None => return Err(error),
            },
        };
        let reply = Document::new(&bytes).and_then(WriteReply::read);
        reply.map_err(|error| Error::custom(error.to_string()))
    }

    /// Moves documents without a transaction. The stored document is kept until the new form is
    /// acknowledged, even if the entry has the whole document: an earlier entry that is applied again
    /// after a crash needs it, and so does the refusal of the new form.
    async fn move_one_by_one(
        &self,
        sending: Sending<'_>,
        moves: &[Move<'_>],
    ) -> Result<Sent, ConsumerError> {
        let Sending { ns, token, .. } = sending;
        for one in moves {
            if !token.is_valid() {
                return Ok(Sent::Abandoned);
            }
            let read;
            let before = match one.before {
                Some(before) => Some(before),
                None => {
                    read = self.stored(ns, &one.write).await?;
                    read.as_deref()
                }
            };
            let note = match before {
                Some(before) => Some(self.note_moving(ns, &one.write, before).await?),
                None => None,
            };
            let deletes = deletes_of(sending, one).map_err(|error| damaged(ns, &error))?;
            let kind = BulkKind::Delete;
            let mut sent = Box::pin(self.send_routed(ns, kind, &deletes, token)).await?;
            if matches!(sent, Sent::Done) {
                sent = self.insert_moved(ns, one.write, token).await?;
            }
            if !matches!(sent, Sent::Done) {
                return Ok(sent);
            }
            let is_held = self
                .held()
                .contains_key(&held_key(ns, one.write.document_id)?);
            if self.is_refused(ns, &one.write) {
                let restored = self.restore_moving(ns, &one.write, token);
                if Box::pin(restored).await? == Applied::Abandoned {
                    return Ok(Sent::Abandoned);
                }
                continue;
            }
            if !is_held {
                self.delete_moving(ns, note.as_slice()).await?;
            }
            self.target.metrics.moved_documents.inc();
        }
        Ok(Sent::Done)
    }
}

/// Returns the outcome for a document that is no longer where it was.
fn gone(moves: &[Move<'_>]) -> Sent {
    let first = moves.first().expect("a transaction moves a document");
    Sent::Misrouted(Misrouted {
        entry: first.write.id,
        error: WriteError {
            text: "the document is no longer stored with its last shard key".to_owned(),
            ..WriteError::default()
        },
        done: Vec::new(),
    })
}
