//! Checks, before a group writes to a collection or to a target, that it has no conflicting data.

use mongodb::bson::{Document, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::time_series;
use oplog_relay_runtime::mongo::error_code;

use crate::config::NotEmpty;
use crate::error::ConsumerError;
use crate::replay::catalog::{Incarnations, Note};
use crate::replay::commands::Running;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::plan::translation::{Translated, done};
use crate::replay::sink::MongoSink;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

impl MongoSink {
    /// Runs a command. For a command of a full sync (`fills`), first checks what the collection
    /// contains on the target.
    pub(crate) async fn execute_after_check(
        &self,
        namespace: Namespace<'_>,
        translated: &Translated,
        note: Note,
        fills: bool,
        source: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let running = Running {
            source,
            ran: &note.ran,
        };
        if fills && self.check_existing(namespace, running, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        self.execute(namespace, translated, note, source, token)
            .await
    }

    /// Checks the collection that a full sync's `create` is about to create, before the command is
    /// recorded. If the collection has documents that this group did not write,
    /// `--if-target-not-empty` determines whether it is dropped, kept, or a reason to stop. This group
    /// writes documents only after the command, so it wrote them only if the catalog has the
    /// collection.
    async fn check_existing(
        &self,
        namespace: Namespace<'_>,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Running { source, ran } = running;
        if !ran.change.is_creation() || self.policies.if_not_empty == NotEmpty::Merge {
            return Ok(Applied::Done);
        }
        // A time series is read and dropped by its own name, not by that of its buckets.
        let buckets = namespace.collection;
        let name = Namespace {
            collection: time_series::of_buckets(buckets).unwrap_or(buckets),
            ..namespace
        };
        let is_own = |incarnations: &Incarnations| {
            ran.ui.is_some_and(|ui| incarnations.is_owned(&ran.ns, ui))
        };
        if is_own(&self.incarnations(source)) || !self.has_documents(name).await? {
            return Ok(Applied::Done);
        }
        if is_own(&*self.incarnations_now(source).await?) {
            return Ok(Applied::Done);
        }
        if self.policies.if_not_empty == NotEmpty::Drop {
            tracing::warn!(
                ns = ran.ns,
                "dropping the collection on the target: a full sync is about to fill it"
            );
            return self.drop_collection(name, running, token).await;
        }
        let ns = name.to_string();
        Err(CommandFailure::NotEmpty { ns }.into())
    }

    /// Refuses the first command of a group that is new to the target if another group has run it
    /// there. The target is then ahead of the whole history, and applying it again would recreate
    /// collections that were renamed or dropped since.
    pub(crate) async fn check_first_command(
        &self,
        source: &str,
        id: EntryId,
    ) -> Result<(), ConsumerError> {
        if self.policies.if_not_empty != NotEmpty::Fail || !self.incarnations(source).is_empty() {
            return Ok(());
        }
        let runner = self
            .persist("reading the catalog", || {
                self.catalog.other_runner(source, id)
            })
            .await?;
        let Some(other) = runner else { return Ok(()) };
        Err(CommandFailure::OtherGroup {
            group: self.catalog.group().to_owned(),
            other,
            command: id,
            source_name: source.to_owned(),
        }
        .into())
    }

    /// Returns true if a collection of the target has documents.
    pub(crate) async fn has_documents(
        &self,
        namespace: Namespace<'_>,
    ) -> Result<bool, ConsumerError> {
        let Namespace { db, collection } = namespace;
        self.persist("checking whether a collection is empty", || async {
            let found = self
                .target
                .client
                .database(db)
                .collection::<Document>(collection);
            match found.find_one(doc! {}).projection(doc! { "_id": 1 }).await {
                Err(error) if error_code(&error) == Some(done::NO_COLLECTION) => Ok(false),
                found => found.map(|found| found.is_some()),
            }
        })
        .await
    }
}
