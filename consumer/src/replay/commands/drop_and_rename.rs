//! Commands that end or move a collection, which has to be the one that they mean.
//!
//! A leader that was stopped between its last look and its command may send it when another one has
//! long run it, and the name belongs to a later collection; and a command whose answer was lost is
//! sent again. So the target's own UUID of the collection goes with a `drop` and a
//! `renameCollection` (`collectionUUID`: MongoDB 6.0): the server refuses with 361 if another
//! one stands there. Other targets get the name only, and so do views, which have no UUID, and time
//! series of servers that show them as views.

use mongodb::bson::{Bson, Document, Uuid, doc};
use oplog_relay_core::time_series;
use oplog_relay_runtime::mongo::error_code;
use oplog_relay_runtime::retry::Backoff;

use crate::error::ConsumerError;
use crate::replay::capabilities::{MISMATCH, NAMED_BY};
use crate::replay::catalog::{Note, Ran};
use crate::replay::commands::{Attempt, refused_by_target, unwritable};
use crate::replay::plan::command::done;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE, MongoSink};
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Looks and attempts until a command is given up.
const ATTEMPTS: u32 = 20;

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameHolder {
    Nothing,
    /// A view; or a collection of a target that has no UUIDs.
    Unnamed,
    Collection(Uuid),
}

impl MongoSink {
    /// What the target lists under a name.
    pub(crate) async fn listed(
        &self,
        db: &str,
        collection: &str,
    ) -> Result<Option<Document>, ConsumerError> {
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        let reply = self
            .persist("listing collections", || async {
                self.client.database(db).run_command(list.clone()).await
            })
            .await?;
        let batch = reply
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        let found = batch.ok().and_then(|batch| batch.first()?.as_document());
        Ok(found.cloned())
    }

    /// Looks what stands under a name.
    async fn standing(&self, db: &str, collection: &str) -> Result<NameHolder, ConsumerError> {
        let Some(found) = self.listed(db, collection).await? else {
            return Ok(NameHolder::Nothing);
        };
        let info = found.get_document("info").ok();
        Ok(match info.and_then(|info| info.get("uuid")) {
            Some(Bson::Binary(uuid)) => {
                let uuid = uuid.to_uuid();
                uuid.map_or(NameHolder::Unnamed, NameHolder::Collection)
            }
            _ => NameHolder::Unnamed,
        })
    }

    /// Runs a `drop`.
    pub(crate) async fn drop_life(
        &self,
        (db, collection): (&str, &str),
        (source, ran): (&str, &Ran),
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let standing = self.standing(db, collection).await?;
            // Only after that look: who ran it before has let later collections begin.
            if self.has_run(source, ran.id).await? {
                return Ok(Applied::Done);
            }
            let ns = format!("{db}.{collection}");
            self.end_suspensions_of(&ns).await?;
            if standing == NameHolder::Nothing {
                return Ok(done_with(token));
            }
            // Buckets are never named by their UUID: a server refuses that.
            let is_plain = time_series::of_buckets(collection).is_none();
            let uuid = standing.uuid().filter(|_| is_plain);
            let command = self.naming(doc! { "drop": collection }, uuid);
            let sent = self.run_unless_mismatched(db, &command, ran, token);
            if let Some(applied) = sent.await? {
                return Ok(applied);
            }
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Applied::Abandoned);
            }
            check_attempts(&backoff, ran)?;
        }
    }

    /// Moves a collection, unless it was moved.
    pub(crate) async fn rename(
        &self,
        (from, to, drop_target): ((&str, &str), &str, bool),
        note: &mut Note,
        source: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut standing = self.standing(from.0, from.1).await?;
        note.existed = standing != NameHolder::Nothing;
        note.life = standing.uuid();
        let begun = self.persist("noting a rename", || self.catalog.begin(source, note));
        let (existed, mut life) = begun.await?;
        let ran = &note.ran;
        let target = to.split_once('.').unwrap_or((to, ""));
        loop {
            // Only after that look: who ran it before has let later collections begin.
            if self.has_run(source, ran.id).await? {
                return Ok(Applied::Done);
            }
            if standing == NameHolder::Nothing && (existed || !drop_target) {
                // It was moved before a crash; or there was never anything to move.
                return Ok(done_with(token));
            }
            if standing == NameHolder::Nothing {
                return self.drop_life(target, (source, ran), token).await;
            }
            if life.is_some() && standing.uuid() != life {
                let there = self.standing(target.0, target.1).await?;
                if there.uuid() == life {
                    // It was moved before a crash, and a write of before the rename came late.
                    return self.drop_life(from, (source, ran), token).await;
                }
                // In another database it has another UUID.
                if from.0 != target.0 && there != NameHolder::Nothing {
                    return Ok(done_with(token));
                }
            }
            // One that the target made again meanwhile (resharded, restored) is meant as well.
            life = standing.uuid();
            let from_ns = format!("{}.{}", from.0, from.1);
            let command = doc! { "renameCollection": from_ns, "to": to, "dropTarget": drop_target };
            let command = self.naming(command, life);
            if drop_target {
                self.end_suspensions_of(to).await?;
            }
            let sent = self.run_unless_mismatched("admin", &command, ran, token);
            if let Some(applied) = sent.await? {
                return Ok(applied);
            }
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Applied::Abandoned);
            }
            check_attempts(&backoff, ran)?;
            standing = self.standing(from.0, from.1).await?;
        }
    }

    fn naming(&self, mut command: Document, uuid: Option<Uuid>) -> Document {
        if let Some(uuid) = uuid.filter(|_| self.takes_uuids) {
            command.insert(NAMED_BY, uuid);
        }
        command
    }

    /// Runs a command; `None` if another collection stands there than the one that it names.
    async fn run_unless_mismatched(
        &self,
        db: &str,
        command: &Document,
        ran: &Ran,
        token: &Token,
    ) -> Result<Option<Applied>, ConsumerError> {
        let bytes = command.to_vec().map_err(|error| unwritable(ran, &error))?;
        let accept = &[done::NO_COLLECTION];
        Ok(
            match self
                .attempt(db, &bytes, accept, (ran, false), token)
                .await?
            {
                Attempt::Done => Some(Applied::Done),
                Attempt::Abandoned => Some(Applied::Abandoned),
                Attempt::Refused(error) if error_code(&error) == Some(MISMATCH) => {
                    tracing::info!(ns = ran.ns, entry = %ran.id, %command, "another collection stands there by now");
                    None
                }
                Attempt::Refused(error) => return Err(refused_by_target(ran, &error)),
            },
        )
    }
}

/// There is nothing left to do, which only the partition's owner may note.
pub(crate) fn done_with(token: &Token) -> Applied {
    if token.is_valid() {
        Applied::Done
    } else {
        Applied::Abandoned
    }
}

/// A target that lists another UUID than it takes would be asked without an end.
fn check_attempts(backoff: &Backoff, ran: &Ran) -> Result<(), ConsumerError> {
    if backoff.attempts() < ATTEMPTS {
        return Ok(());
    }
    Err(ConsumerError::Refused(format!(
        "the command of entry {} for {}: the target says again and again that another collection \
         stands there than the one that it lists (code {MISMATCH})",
        ran.id, ran.ns
    )))
}

impl NameHolder {
    const fn uuid(self) -> Option<Uuid> {
        match self {
            Self::Collection(uuid) => Some(uuid),
            Self::Nothing | Self::Unnamed => None,
        }
    }
}
