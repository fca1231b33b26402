//! Writes held documents to a collection whose documents are distributed over shards.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_runtime::mongo::error_text;
use oplog_relay_runtime::retry::Backoff;

use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::directive::Directive;
use crate::replay::held_documents::held_document::{HeldDocument, IdentifiedDocument, read};
use crate::replay::held_documents::{Tried, identity_of, is_index_refusal, key};
use crate::replay::plan::{Action, BulkKind, Routing, Write};
use crate::replay::sharding::move_commands::{Move, deletes_of};
use crate::replay::sharding::moved::Transaction;
use crate::replay::sharding::routed::{ATTEMPTS, Sending};
use crate::replay::sharding::run::{Values, stored_values};
use crate::replay::sharding::shard_key::ShardKey;
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::replay::writes::bulk::Sent;
use crate::replay::writes::outcome::refusal;
use crate::replay::writes::reply::WriteError;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// The outcome of one attempt.
enum Attempt {
    Done(Tried),
    /// The document must be looked up again, after a pause.
    Again,
    /// The cluster refuses the document because of its shard key, so that the key and the document must
    /// be looked up again.
    Misrouted(WriteError),
}

/// A held document as it is written.
#[derive(Clone, Copy)]
struct Placing<'p> {
    held: &'p HeldDocument,
    document: Document<'p>,
    /// The insert of the document.
    write: Write<'p>,
}

impl MongoSink {
    /// Tries to write a held document until there is an outcome. Before the replay stops, a stored form
    /// that was deleted to be moved is restored.
    pub(crate) async fn try_held_sharded(
        &self,
        ns: &str,
        held: &HeldDocument,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        let settled = self.settle_held(ns, held, token).await;
        if let Err(error) = &settled {
            Box::pin(self.restore_one_held(ns, held, error, token)).await;
        }
        settled
    }

    /// Tries to write a held document, either in place of its stored form or by moving it, until there
    /// is an outcome.
    async fn settle_held(
        &self,
        ns: &str,
        held: &HeldDocument,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        let failed = |error: Malformed| damaged(ns, &error);
        let IdentifiedDocument {
            document,
            document_id,
        } = read(ns, &held.document)?;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(Tried::Abandoned);
            }
            let key = self.shard_key_of(ns).await?;
            // A collection that is no longer sharded needs no values.
            let (values, routing);
            let sending;
            match &key {
                Some(key) if key.has_zero_timestamp(document).map_err(failed)? => {
                    return self.refuse_held_zero_key(ns, held, token).await;
                }
                Some(key) => {
                    values = key.values_of(document).map_err(failed)?;
                    routing = key.routing(&values).map_err(failed)?;
                    let kind = BulkKind::Update;
                    sending = Some(Sending {
                        ns,
                        kind,
                        key,
                        token,
                    });
                }
                None => (routing, sending) = (Routing::NONE, None),
            }
            let write = Write {
                routing,
                ..held.write(document_id, Action::Insert(document))
            };
            let placing = Placing {
                held,
                document,
                write,
            };
            let attempt = match sending {
                Some(sending) => Box::pin(self.place_held(sending, placing)).await?,
                None => self.replace_held(ns, placing, token).await?,
            };
            let tried = self.after_attempt(ns, placing, attempt, &mut backoff, token);
            if let Some(tried) = Box::pin(tried).await? {
                return Ok(tried);
            }
            self.forget_shard_key(ns);
        }
    }

    /// Refuses a held document that has the zero timestamp in a field of the shard key.
    async fn refuse_held_zero_key(
        &self,
        ns: &str,
        held: &HeldDocument,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        let IdentifiedDocument {
            document,
            document_id,
        } = read(ns, &held.document)?;
        let write = held.write(document_id, Action::Insert(document));
        self.refuse_zero_key(ns, &write)?;
        let placing = Placing {
            held,
            document,
            write,
        };
        self.give_up(ns, placing, token).await
    }

    /// Waits before another attempt, which is necessary if there is no outcome. A document that the
    /// cluster keeps refusing because of its shard key is refused.
    async fn after_attempt(
        &self,
        ns: &str,
        placing: Placing<'_>,
        attempt: Attempt,
        backoff: &mut Backoff,
        token: &Token,
    ) -> Result<Option<Tried>, ConsumerError> {
        match attempt {
            Attempt::Done(tried) => return Ok(Some(tried)),
            Attempt::Misrouted(error) => {
                let is_last = backoff.attempts() >= ATTEMPTS;
                if is_last && !self.waits_for_orphan(ns, &error).await? {
                    self.refuse_misrouted(ns, &placing.write, &error)?;
                    return Ok(Some(self.give_up(ns, placing, token).await?));
                }
                self.wait_for_target(&error);
            }
            Attempt::Again => {}
        }
        let goes_on = backoff.sleep(&self.target.shutdown).await;
        Ok((!goes_on).then_some(Tried::Abandoned))
    }

    /// Completes the refusal of a held document, and restores its stored form if it was being moved.
    async fn give_up(
        &self,
        ns: &str,
        placing: Placing<'_>,
        token: &Token,
    ) -> Result<Tried, ConsumerError> {
        let Placing { held, write, .. } = placing;
        self.complete_refusal(ns, held, &write)?;
        let held_key = key(ns, write.document_id)?;
        // A document that is held is not restored.
        self.held().remove(&held_key);
        match Box::pin(self.restore_moving(ns, &write, token)).await? {
            Applied::Done => Ok(Tried::DeadLettered),
            Applied::Abandoned => Ok(Tried::Abandoned),
        }
    }

    /// Writes a held document in place if its stored form has the same shard key or does not exist, and
    /// moves it otherwise.
    async fn place_held(
        &self,
        sending: Sending<'_>,
        placing: Placing<'_>,
    ) -> Result<Attempt, ConsumerError> {
        let Sending { ns, key, token, .. } = sending;
        let Placing { write, .. } = placing;
        let stored = self.stored_values_of(ns, key, &write).await?;
        let is_in_place = match stored.as_slice() {
            [] => true,
            [only] => **only == *write.routing.values.as_bytes(),
            _ => false,
        };
        if is_in_place {
            let attempt = self.replace_held(ns, placing, token).await?;
            if let Attempt::Done(Tried::Released) = attempt {
                self.end_moving(ns, &write).await?;
            }
            return Ok(attempt);
        }
        let one = Move {
            write,
            stored: &stored,
            before: None,
        };
        if self.runs_transactions() {
            return self.move_held(sending, placing, one).await;
        }
        // Only the stored form is deleted here; the next attempt inserts the held document.
        if let Some(before) = self.stored(ns, &write).await? {
            self.note_moving(ns, &write, &before).await?;
        }
        let deletes = deletes_of(sending, &one).map_err(|error| damaged(ns, &error))?;
        let sent = Box::pin(self.send_routed(ns, BulkKind::Delete, &deletes, token)).await?;
        Ok(match sent {
            Sent::Abandoned => Attempt::Done(Tried::Abandoned),
            Sent::Done => Attempt::Again,
            Sent::Misrouted(misrouted) => Attempt::Misrouted(misrouted.error),
        })
    }

    /// Returns the values of the shard key with which the document of a write is stored.
    async fn stored_values_of(
        &self,
        ns: &str,
        key: &ShardKey,
        write: &Write<'_>,
    ) -> Result<Vec<Values>, ConsumerError> {
        let mut places = self.places(ns, key, std::slice::from_ref(write)).await?;
        let identity = identity_of(ns, write.document_id)?;
        Ok(stored_values(places.remove(&identity)))
    }

    /// Moves a held document in a transaction.
    async fn move_held(
        &self,
        sending: Sending<'_>,
        placing: Placing<'_>,
        one: Move<'_>,
    ) -> Result<Attempt, ConsumerError> {
        let Sending { ns, token, .. } = sending;
        Ok(
            match self
                .try_transaction(sending, std::slice::from_ref(&one))
                .await?
            {
                Transaction::Committed => {
                    self.target.metrics.moved_documents.inc();
                    Attempt::Done(Tried::Released)
                }
                Transaction::Refused(error) => {
                    self.after_refused_held(ns, placing, error, token).await?
                }
                Transaction::Gone => Attempt::Again,
                Transaction::Failed(error) => {
                    self.target.metrics.count_error("target");
                    self.target.readiness.target_failed(&error_text(&error));
                    Attempt::Again
                }
                Transaction::Unavailable(reason) => {
                    self.refuse_transactions(ns, &reason);
                    Attempt::Again
                }
            },
        )
    }

    /// Handles the refusal to move a held document.
    async fn after_refused_held(
        &self,
        ns: &str,
        placing: Placing<'_>,
        error: WriteError,
        token: &Token,
    ) -> Result<Attempt, ConsumerError> {
        let Placing { write, .. } = placing;
        if self.is_misrouted(&error, &write) {
            return Ok(Attempt::Misrouted(error));
        }
        if is_index_refusal(&error) {
            return Ok(Attempt::Done(Tried::Refused(error)));
        }
        match self.directive(&error, &write) {
            Directive::Retry => {
                self.wait_for_target(&error);
                return Ok(Attempt::Again);
            }
            Directive::Stop => return Err(refusal(ns, &write, &error).into()),
            _ => self.refuse_write(ns, &write, &error)?,
        }
        Ok(Attempt::Done(self.give_up(ns, placing, token).await?))
    }

    /// Replaces the stored form of a held document, or inserts the document if there is none.
    async fn replace_held(
        &self,
        ns: &str,
        placing: Placing<'_>,
        token: &Token,
    ) -> Result<Attempt, ConsumerError> {
        let Placing {
            document, write, ..
        } = placing;
        let replace = [Write {
            action: Action::Replace(document),
            ..write
        }];
        if let Ok(reply) = self.run(ns, BulkKind::Update, &replace).await? {
            match reply.errors.into_iter().next() {
                Some(error) if self.is_misrouted(&error, &write) => {
                    return Ok(Attempt::Misrouted(error));
                }
                Some(error) if is_index_refusal(&error) => {
                    return Ok(Attempt::Done(Tried::Refused(error)));
                }
                None if reply.concern.is_none() => {
                    let [write] = replace;
                    return Ok(Attempt::Done(self.restore_zeros(ns, write, token).await?));
                }
                Some(_) | None => {}
            }
        }
        // This handles any other error, after which the next attempt shows whether the write
        // succeeded.
        let sent = Box::pin(self.send_routed(ns, BulkKind::Update, &replace, token)).await?;
        match sent {
            Sent::Abandoned => return Ok(Attempt::Done(Tried::Abandoned)),
            Sent::Misrouted(misrouted) => return Ok(Attempt::Misrouted(misrouted.error)),
            Sent::Done => {}
        }
        if self.is_refused(ns, &write) {
            return Ok(Attempt::Done(self.give_up(ns, placing, token).await?));
        }
        Ok(Attempt::Again)
    }
}
