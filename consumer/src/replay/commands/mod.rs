//! Runs the commands that have not run on the target yet, and records them in the catalog.
//!
//! # Modules
//!
//! - `attempt` sends a command until the target accepts or refuses it
//! - `ran` looks up in the catalog which commands have run
//! - `drop_and_rename` runs commands that drop or rename a collection
//! - `index_definition` compares the indexes of a command with those that exist
//! - `views` handles views and time series
//! - `routing` applies changes of the routing
//! - `refused_options` leaves out options that the target does not support
//! - `empty_target` checks that the target has no conflicting data
//! - `failure` has the reasons why a command cannot run

pub(crate) mod attempt;
pub(crate) mod drop_and_rename;
pub(crate) mod empty_target;
pub mod failure;
pub(crate) mod index_definition;
mod ran;
pub(crate) mod refused_options;
pub(crate) mod routing;
pub(crate) mod views;

use mongodb::bson::{Bson, Document};
use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::command::scope;
use oplog_relay_core::entry::Operation;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::mongo::{
    REPLY_LIMIT, error_code, error_text, in_time, is_set, is_transient,
};
use oplog_relay_runtime::retry::Backoff;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::replay::catalog::{Change, Moment, Note, Ran, Resolved};
use crate::replay::commands::drop_and_rename::Rename;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::commands::views::SeriesNames;
use crate::replay::directive::{Directive, command_reason, rule_for};
use crate::replay::plan::translation::{Action, Circumstances, Translated, translate};
use crate::replay::plan::{Command, PlanError, PlanFault};
use crate::replay::request_refused::RequestRefused;
use crate::replay::sink::MongoSink;
use crate::replay::target::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::worker::applied::{Applied, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::Located;

/// `CannotCreateIndex`
const CANNOT_CREATE_INDEX: i32 = 67;
/// Codes `NamespaceNotFound` and `IndexNotFound`: the collection or the index does not exist.
const GONE: [i32; 2] = [26, 27];

pub(crate) type DriverResult<T> = mongodb::error::Result<T>;

/// The circumstances of a command that does not name a collection.
const NO_COLLECTION_NAMED: Circumstances<'static> = Circumstances {
    collection: "",
    ordered: false,
};

/// A command that is run, and its source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running<'r> {
    pub(crate) source: &'r str,
    pub(crate) ran: &'r Ran,
}

/// The way in which a command is run on the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Execution<'e> {
    /// The database on which it is run.
    pub(crate) db: &'e str,
    /// The error codes that may mean that the command has nothing left to do.
    pub(crate) accept: &'e [i32],
    /// The command of the source, for messages.
    pub(crate) ran: &'e Ran,
    /// True if an index that the command makes unique is left non-unique.
    pub(crate) made_non_unique: bool,
}

impl MongoSink {
    /// Runs a command on indexes once. Returns an empty reply if the collection or the index does not
    /// exist.
    pub(crate) async fn run_on_indexes(
        &self,
        db: &str,
        command: &Document,
    ) -> DriverResult<Document> {
        match self
            .target
            .client
            .database(db)
            .run_command(command.clone())
            .await
        {
            Err(error) if error_code(&error).is_some_and(|code| GONE.contains(&code)) => {
                Ok(Document::new())
            }
            reply => reply,
        }
    }

    /// Runs an operation, and retries it after transient errors until the program ends. Each
    /// attempt has a time limit of [`REPLY_LIMIT`]. `doing` names the operation in errors.
    ///
    /// # Errors
    /// Returns a [`RequestRefused`] for a permanent error, and [`ConsumerError::Interrupted`] if
    /// the program ends before an attempt succeeds.
    pub(crate) async fn persist<T, F>(
        &self,
        doing: &str,
        ask: impl Fn() -> F,
    ) -> Result<T, ConsumerError>
    where
        F: Future<Output = DriverResult<T>>,
    {
        let answer = self.persist_owned(doing, &Token::default(), ask).await?;
        Ok(answer.expect("the token was not invalidated"))
    }

    /// Runs an operation as [`MongoSink::persist`] does, but makes no attempt after the partition was
    /// revoked. Returns `None` then: the next owner may already have done the same and more.
    ///
    /// # Errors
    /// Returns the errors of [`MongoSink::persist`].
    pub(crate) async fn persist_owned<T, F>(
        &self,
        doing: &str,
        token: &Token,
        ask: impl Fn() -> F,
    ) -> Result<Option<T>, ConsumerError>
    where
        F: Future<Output = DriverResult<T>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(None);
            }
            let error = match in_time(REPLY_LIMIT, ask()).await {
                Ok(answer) => {
                    if backoff.attempts() > 0 {
                        self.target.readiness.target_reached();
                    }
                    return Ok(Some(answer));
                }
                Err(error) => error,
            };
            let retry = error_code(&error).map(|code| rule_for(code).directive);
            if retry != Some(Directive::Retry) && !is_transient(&error) {
                return Err(RequestRefused {
                    request: doing.to_owned(),
                    reason: error_text(&error),
                }
                .into());
            }
            self.target.readiness.target_failed(&error_text(&error));
            self.target.metrics.count_error("target");
            if !backoff.sleep(&self.target.shutdown).await {
                return Err(ConsumerError::interrupted(&self.target.shutdown));
            }
        }
    }

    /// Runs a command, unless it has run already.
    pub(crate) async fn command(
        &self,
        command: &Command<'_>,
        source: &str,
        token: &Token,
    ) -> Result<Applied, SinkError> {
        let Located { id, entry, .. } = command.located;
        let fault = |fault| {
            SinkError::Entry(PlanError {
                index: command.index,
                id,
                ns: entry.ns.to_owned(),
                fault,
            })
        };
        if self.has_run(source, id).await? {
            return Ok(Applied::Done);
        }
        let scope = scope(&entry).map_err(|error| fault(error.into()))?;
        let Some(scope) = scope else {
            // The command needs no action, or it is unknown, which is an error.
            translate(&entry, NO_COLLECTION_NAMED).map_err(fault)?;
            return Ok(Applied::Done);
        };
        self.check_first_command(source, id).await?;
        let named = scope.ns();
        let incarnations = self.incarnations_at(source, id).await?;
        // The UUID is ignored: when a `create` runs, the name may still belong to another
        // collection, whose drop or rename follows in the oplog.
        let ns = match incarnations.resolve(&named, Moment::Time(id), None) {
            Resolved::Live(ns) => ns,
            Resolved::Dropped | Resolved::Foreign => {
                // The command is recorded nevertheless, because the workers at its barriers stop if
                // the catalog does not have it.
                let note = Note::passed_over(id, named.clone(), entry.ui);
                self.note(source, &note).await?;
                return Ok(Applied::Done);
            }
        };
        let namespace = Namespace::split(ns);
        let barrier = Barrier::read(&entry).map_err(|error| fault(PlanFault::Malformed(error)))?;
        let waited = barrier.as_ref().map(|barrier| !barrier.passable);
        let at = Circumstances {
            collection: namespace.collection,
            ordered: barrier.is_some_and(|barrier| barrier.ordered),
        };
        let translated = translate(&entry, at).map_err(fault)?;
        report_left_out(&translated, &named, id);
        if translated.action == Action::Nothing && waited.is_none() {
            return Ok(Applied::Done);
        }
        let note = note_of(&command.located, named.clone(), &translated);
        if Box::pin(self.restore_before(ns, waited, &note.ran.change, token)).await?
            == Applied::Abandoned
        {
            return Ok(Applied::Abandoned);
        }
        // A command that drops, renames or empties a collection cannot be skipped: see
        // `dead_letter`.
        let leaves_out = matches!(note.ran.change, Change::Other | Change::Created);
        let is_dead_lettered = leaves_out && self.is_dead_lettered(Reason::Command);
        let fills = entry.snapshot.is_some();
        let executed = self.execute_after_check(namespace, &translated, note, fills, source, token);
        executed.await.map_err(|error| match error {
            ConsumerError::Command(failure) if is_dead_lettered && failure.is_of_target() => {
                fault(PlanFault::Refused(failure))
            }
            error => SinkError::Fatal(error),
        })
    }

    /// Builds the indexes of a collection that must exist before a command runs.
    async fn restore_before(
        &self,
        ns: &str,
        waited: Option<bool>,
        change: &Change,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if requires_restored_indexes(waited, change) {
            self.restore_of(ns, token).await
        } else if *change == Change::Other {
            self.finish_rebuilds_of(ns, token).await
        } else {
            Ok(Applied::Done)
        }
    }

    /// Runs a translated command, and records it in the catalog.
    pub(crate) async fn execute(
        &self,
        namespace: Namespace<'_>,
        translated: &Translated,
        mut note: Note,
        source: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let db = namespace.db;
        let ran = &note.ran;
        let running = Running { source, ran };
        if translated.made_non_unique {
            report_non_unique(ran);
        }
        let applied = match &translated.action {
            Action::Nothing => Applied::Done,
            Action::Drop { collection } => {
                let dropped = Namespace { db, collection };
                self.drop_collection(dropped, running, token).await?
            }
            Action::DropSeries { series, buckets } => {
                let names = SeriesNames {
                    db,
                    series,
                    buckets,
                };
                self.drop_series(names, running, token).await?
            }
            Action::DropView { view } => self.drop_view(db, view, running, token).await?,
            Action::DropViews => self.drop_views(db, running, token).await?,
            Action::ChangeSeriesView { definition } => {
                self.change_series_view(db, definition, ran, token).await?
            }
            Action::Run {
                command,
                accept,
                otherwise,
            } => {
                let otherwise = otherwise.as_deref();
                let execution = Execution {
                    db,
                    accept,
                    ran,
                    made_non_unique: translated.made_non_unique,
                };
                self.run_accepted(command, otherwise, execution, token)
                    .await?
            }
            Action::Rename { to, drop_target } => {
                let rename = Rename {
                    from: namespace,
                    to,
                    drop_target: *drop_target,
                };
                self.rename(rename, &mut note, source, token).await?
            }
        };
        self.forget_order();
        if applied == Applied::Done {
            // A crash before the note repeats both commands, neither of which then does anything.
            if note.ran.change == Change::Created {
                self.shard_created(namespace).await?;
            }
            self.note(source, &note).await?;
        }
        Ok(applied)
    }

    /// Checks that an existing collection has the options that a `create` command specifies.
    async fn check_options(
        &self,
        db: &str,
        command: &[u8],
        ran: &Ran,
    ) -> Result<(), ConsumerError> {
        let wanted = Document::from_reader(command).map_err(|error| unwritable(ran, &error))?;
        let collection = wanted.get_str("create").unwrap_or_default();
        let found = self.listed(Namespace { db, collection }).await?;
        let found = found.as_ref();
        let options = found.and_then(|found| found.get_document("options").ok());
        let kind = found.and_then(|found| found.get_str("type").ok());
        let nothing = Document::new();
        let difference = difference(&wanted, options.unwrap_or(&nothing), kind);
        match difference {
            None => Ok(()),
            Some(option) => Err(CommandFailure::OtherOption {
                entry: ran.id,
                ns: ran.ns.clone(),
                option,
            }
            .into()),
        }
    }
}

/// Returns the note that records a command in the catalog.
fn note_of(located: &Located<'_>, ns: String, translated: &Translated) -> Note {
    let mut note = Note::new(Ran {
        id: located.id,
        ns,
        ui: located.entry.ui,
        change: change(located, &translated.action),
        offset: Some(located.offset),
    });
    note.withheld.clone_from(&translated.withheld);
    note.limiting.clone_from(&translated.limiting);
    note
}

/// Returns true if the suspended indexes of a command's collection must be built again before the
/// command runs. A barrier at which all partitions wait (`waited`) proves that the target is not ahead
/// of the command. A command of an older producer may have no barrier. A collection that the command
/// creates or drops has no indexes to rebuild.
fn requires_restored_indexes(waited: Option<bool>, change: &Change) -> bool {
    waited == Some(true) && !matches!(change, Change::Created | Change::Dropped)
}

/// Logs that an index is left non-unique although the command makes it unique.
fn report_non_unique(ran: &Ran) {
    tracing::warn!(
        ns = ran.ns,
        entry = %ran.id,
        "leaving the index non-unique on the target, because the collection is partitioned by _id \
         (--order id)"
    );
}

/// Logs the options of old servers that were left out of a command or replaced.
fn report_left_out(translated: &Translated, ns: &str, id: EntryId) {
    if translated.left_out.is_empty() {
        return;
    }
    tracing::warn!(
        ns,
        entry = %id,
        options = translated.left_out.join(", "),
        "the target does not accept these options of old servers; omitting them, or replacing them \
         with their effective value"
    );
}

/// Returns the first option that makes an existing collection one of a different kind. Options that
/// only restrict or describe documents are ignored.
fn difference(wanted: &Document, found: &Document, kind: Option<&str>) -> Option<&'static str> {
    let locale = |options: &Document| {
        let collation = options.get_document("collation").ok();
        let locale = collation.and_then(|collation| collation.get_str("locale").ok());
        locale.map(str::to_owned)
    };
    let has = |options: &Document, name: &str| options.get(name).is_some_and(|o| *o != Bson::Null);
    if kind == Some("view") && !has(wanted, "viewOn") {
        return Some("type (a view)");
    }
    if is_set(wanted, "capped") != is_set(found, "capped") {
        return Some("capped");
    }
    if locale(wanted) != locale(found) {
        return Some("collation");
    }
    let kinds = ["timeseries", "clusteredIndex"];
    kinds
        .into_iter()
        .find(|option| has(wanted, option) != has(found, option))
}

/// Returns the effect of a command on names.
fn change(located: &Located<'_>, action: &Action) -> Change {
    if let Action::Rename { to, .. } = action {
        return Change::Renamed { to: to.clone() };
    }
    let entry = &located.entry;
    if entry.operation != Operation::Command {
        // The entry is a write to `system.views`.
        return match entry.operation {
            Operation::Delete => Change::Dropped,
            _ => Change::Other,
        };
    }
    match entry.command().map(|command| command.name) {
        Ok(b"create") => Change::Created,
        Ok(b"drop") => Change::Dropped,
        Ok(b"emptycapped") => Change::Emptied,
        _ => Change::Other,
    }
}

/// Returns the failure of a command that the target refuses.
pub(crate) fn refused_by_target(ran: &Ran, error: &mongodb::error::Error) -> CommandFailure {
    CommandFailure::Refused {
        entry: ran.id,
        ns: ran.ns.clone(),
        text: error_text(error),
        advice: if is_unique_across_shards(error) {
            UNIQUE_ACROSS_SHARDS
        } else {
            command_reason(error_code(error))
        },
    }
}

/// Advice for a unique index whose values a sharded cluster would have to compare across shards.
const UNIQUE_ACROSS_SHARDS: &str = "a unique index of a sharded collection must begin with the shard key; \
                                    --refused-options leave-out creates it as a non-unique index";

/// Returns true if the target refuses a unique index because it does not begin with the shard key.
pub(crate) fn is_unique_across_shards(error: &mongodb::error::Error) -> bool {
    let is_code = error_code(error) == Some(CANNOT_CREATE_INDEX);
    is_code && error_text(error).contains("unique index") && error_text(error).contains("shard key")
}

/// Returns the error for a command, or a reply to it, that is not valid.
pub(crate) fn unwritable(ran: &Ran, error: &dyn std::fmt::Display) -> ConsumerError {
    let invalid = CommandFailure::Invalid {
        entry: ran.id,
        ns: ran.ns.clone(),
        reason: error.to_string(),
    };
    invalid.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    #[test]
    fn a_collection_of_another_kind_differs_from_the_one_to_create() {
        let plain = doc! { "create": "c", "validator": {} };
        let capped = doc! { "create": "c", "capped": true, "size": 4096 };
        let german = doc! { "create": "c", "collation": { "locale": "de" } };
        let series = doc! { "create": "c", "timeseries": { "timeField": "t" } };
        let none = Document::new();
        assert_eq!(difference(&plain, &none, Some("collection")), None);
        assert_eq!(
            difference(&capped, &doc! { "capped": true, "size": 9000 }, None),
            None
        );
        assert_eq!(difference(&capped, &none, None), Some("capped"));
        assert_eq!(difference(&german, &none, None), Some("collation"));
        assert_eq!(difference(&series, &none, None), Some("timeseries"));
        assert_eq!(
            difference(&plain, &none, Some("view")),
            Some("type (a view)")
        );
    }
}
