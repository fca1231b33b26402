//! Commands that drop or rename a collection, and must not affect a later collection of that name.
//!
//! The member that runs a command may be suspended between its last check and the command. It then
//! sends the command long after another member has run it, when the name may belong to a later
//! collection. A command is also sent again if its reply was lost. Therefore the collection's UUID
//! on the target is sent with `drop` and `renameCollection` (`collectionUUID`, since MongoDB 6.0),
//! and the server refuses with code 361 if the name belongs to another collection. Only the name is
//! sent to older targets, and for objects whose UUID does not exist or is refused: views, time
//! series that are views over their buckets, and buckets collections.

use mongodb::bson::{Bson, Document, Uuid, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::time_series;
use oplog_relay_runtime::mongo::error_code;
use oplog_relay_runtime::retry::Backoff;

use crate::error::ConsumerError;
use crate::replay::capabilities::{COLLECTION_UUID, MISMATCH};
use crate::replay::catalog::{BegunRename, Note, Ran};
use crate::replay::commands::attempt::Attempt;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::commands::{Execution, Running, refused_by_target, unwritable};
use crate::replay::plan::translation::done;
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Number of attempts, each with a new lookup of the collection's UUID, before a command fails.
const ATTEMPTS: u32 = 20;

/// The object that has a name on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameHolder {
    Nothing,
    /// A view or time series, or a collection on a target without UUIDs.
    WithoutUuid,
    Collection(Uuid),
}

/// A rename of a collection on the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rename<'r> {
    /// The old name.
    pub(crate) from: Namespace<'r>,
    /// The new name, `db.collection`.
    pub(crate) to: &'r str,
    /// True if the collection that has the new name is dropped.
    pub(crate) drop_target: bool,
}

impl MongoSink {
    /// Returns the `listCollections` entry of a name, if it exists.
    pub(crate) async fn listed(
        &self,
        namespace: Namespace<'_>,
    ) -> Result<Option<Document>, ConsumerError> {
        let Namespace { db, collection } = namespace;
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        let reply = self
            .persist("listing collections", || async {
                self.target
                    .client
                    .database(db)
                    .run_command(list.clone())
                    .await
            })
            .await?;
        let batch = reply
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        let found = batch.ok().and_then(|batch| batch.first()?.as_document());
        Ok(found.cloned())
    }

    /// Looks up the object that has a name on the target.
    async fn name_holder(&self, namespace: Namespace<'_>) -> Result<NameHolder, ConsumerError> {
        let Some(found) = self.listed(namespace).await? else {
            return Ok(NameHolder::Nothing);
        };
        let info = found.get_document("info").ok();
        Ok(match info.and_then(|info| info.get("uuid")) {
            Some(Bson::Binary(uuid)) => {
                let uuid = uuid.to_uuid();
                uuid.map_or(NameHolder::WithoutUuid, NameHolder::Collection)
            }
            _ => NameHolder::WithoutUuid,
        })
    }

    /// Drops the collection, view or time series that has a name, unless the command has run already.
    pub(crate) async fn drop_collection(
        &self,
        namespace: Namespace<'_>,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Namespace { db, collection } = namespace;
        let Running { source, ran } = running;
        self.report_lost_key(&namespace.to_string());
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let holder = self.name_holder(namespace).await?;
            // This check must follow the lookup: after another member has run the command, the name
            // may belong to a later collection.
            if self.has_run(source, ran.id).await? {
                return Ok(Applied::Done);
            }
            self.end_suspensions_of(&namespace.to_string()).await?;
            if holder == NameHolder::Nothing {
                return Ok(done_with(token));
            }
            // Servers refuse the UUID of a buckets collection.
            let is_plain = time_series::of_buckets(collection).is_none();
            let uuid = holder.uuid().filter(|_| is_plain);
            let command = self.with_uuid(doc! { "drop": collection }, uuid);
            let sent = self.run_unless_mismatched(db, &command, ran, token);
            if let Some(applied) = sent.await? {
                return Ok(applied);
            }
            if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Applied::Abandoned);
            }
            check_attempts(&backoff, ran)?;
        }
    }

    /// Renames a collection, unless the rename has run already.
    pub(crate) async fn rename(
        &self,
        rename: Rename<'_>,
        note: &mut Note,
        source: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Rename {
            from,
            to,
            drop_target,
        } = rename;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut holder = self.name_holder(from).await?;
        note.existed = holder != NameHolder::Nothing;
        note.target_uuid = holder.uuid();
        let begun = self.persist("recording a rename in the catalog", || {
            self.catalog.begin(source, note)
        });
        let BegunRename {
            existed,
            target_uuid: mut uuid,
        } = begun.await?;
        let ran = &note.ran;
        let running = Running { source, ran };
        let target = Namespace::split(to);
        loop {
            // This check must follow the lookup: after another member has run the command, the name
            // may belong to a later collection.
            if self.has_run(source, ran.id).await? {
                return Ok(Applied::Done);
            }
            if holder == NameHolder::Nothing && (existed || !drop_target) {
                // It was renamed before a crash, or it never existed.
                return Ok(done_with(token));
            }
            if holder == NameHolder::Nothing {
                // The target does not have the collection to rename. What remains of the command is
                // that it drops the collection with the new name.
                return self.drop_collection(target, running, token).await;
            }
            if uuid.is_some() && holder.uuid() != uuid {
                let new_holder = self.name_holder(target).await?;
                if new_holder.uuid() == uuid {
                    // It was renamed before a crash, and a delayed write from before the rename
                    // created a collection with the old name again.
                    return self.drop_collection(from, running, token).await;
                }
                // A rename to another database copies the collection, which then has another UUID.
                if from.db != target.db && new_holder != NameHolder::Nothing {
                    return Ok(done_with(token));
                }
            }
            // The target may have created the collection again (resharding, restore): its new UUID
            // is used.
            uuid = holder.uuid();
            let from_ns = from.to_string();
            let command = doc! { "renameCollection": from_ns, "to": to, "dropTarget": drop_target };
            let command = self.with_uuid(command, uuid);
            if drop_target {
                self.end_suspensions_of(to).await?;
            }
            let sent = self.run_unless_mismatched("admin", &command, ran, token);
            if let Some(applied) = sent.await? {
                return Ok(applied);
            }
            if !backoff.sleep(&self.target.shutdown).await {
                return Ok(Applied::Abandoned);
            }
            check_attempts(&backoff, ran)?;
            holder = self.name_holder(from).await?;
        }
    }

    /// Adds the UUID of the collection to a command, if the target accepts it.
    fn with_uuid(&self, mut command: Document, uuid: Option<Uuid>) -> Document {
        if let Some(uuid) = uuid.filter(|_| self.target.accepts_uuids) {
            command.insert(COLLECTION_UUID, uuid);
        }
        command
    }

    /// Runs a command. Returns `None` if the collection with the UUID in the command no longer has
    /// the name.
    async fn run_unless_mismatched(
        &self,
        db: &str,
        command: &Document,
        ran: &Ran,
        token: &Token,
    ) -> Result<Option<Applied>, ConsumerError> {
        let bytes = command.to_vec().map_err(|error| unwritable(ran, &error))?;
        let execution = Execution {
            db,
            accept: &[done::NO_COLLECTION],
            ran,
            made_non_unique: false,
        };
        Ok(match self.attempt(&bytes, execution, token).await? {
            Attempt::Done => Some(Applied::Done),
            Attempt::Abandoned => Some(Applied::Abandoned),
            Attempt::Refused(error) if error_code(&error) == Some(MISMATCH) => {
                tracing::info!(
                    ns = ran.ns,
                    entry = %ran.id,
                    %command,
                    "the collection with this UUID no longer has this name; looking up the name \
                     again"
                );
                None
            }
            Attempt::Refused(error) => return Err(refused_by_target(ran, &error).into()),
        })
    }
}

/// Returns `Done` for a command that has nothing left to do, or `Abandoned` if the partition was
/// revoked: only its owner may record the command as done.
pub(crate) fn done_with(token: &Token) -> Applied {
    if token.is_valid() {
        Applied::Done
    } else {
        Applied::Abandoned
    }
}

/// Limits the attempts. Without a limit, a target that lists another UUID than it accepts would be
/// retried indefinitely.
fn check_attempts(backoff: &Backoff, ran: &Ran) -> Result<(), ConsumerError> {
    if backoff.attempts() < ATTEMPTS {
        return Ok(());
    }
    Err(CommandFailure::UuidMismatch {
        entry: ran.id,
        ns: ran.ns.clone(),
        code: MISMATCH,
    }
    .into())
}

impl NameHolder {
    const fn uuid(self) -> Option<Uuid> {
        match self {
            Self::Collection(uuid) => Some(uuid),
            Self::Nothing | Self::WithoutUuid => None,
        }
    }
}
