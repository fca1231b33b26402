//! Applies plans of a replay to the model, as the sink of a replay sends them.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bson::{Document as Bson, doc};
use oplog_consumer::replay::plan::translation::{Action, Circumstances, done, translate};
use oplog_consumer::replay::plan::{
    self, Bulk, BulkKind, Command, CommandOptions, Planner, Step, Write, rewritten, write_command,
    zero_timestamps,
};
use oplog_consumer::worker::batch::Located;
use oplog_relay_core::command::scope;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;

use super::Model;

const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: true,
    upsert_unmatched: false,
    max_time_ms: 1000,
    literal_zeros: false,
    in_transaction: false,
};
const PATH_NOT_VIABLE: i32 = 28;
const DUPLICATE_KEY: i32 = 11000;

impl Model {
    /// Plans consecutive entries of one partition and sends the resulting commands.
    ///
    /// # Errors
    /// Fails if an entry cannot be planned, or if the model refuses a write.
    pub fn replay(&mut self, planner: &Planner, entries: &[(EntryId, Vec<u8>)]) -> Result<()> {
        let mut located = Vec::with_capacity(entries.len());
        for (offset, (id, bytes)) in (0..).zip(entries) {
            let entry = Entry::parse(Document::new(bytes)?)?;
            located.push(Located {
                offset,
                id: *id,
                entry,
            });
        }
        for step in planner.plan(&located)?.steps {
            match step {
                Step::Command(command) => self.replay_command(&command)?,
                Step::Write(lanes) => {
                    // Lanes may run in any order.
                    for bulk in lanes.iter().rev().flat_map(|lane| &lane.bulks) {
                        self.send(bulk).with_context(|| bulk.ns.to_owned())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs a command as if its collection were in one partition.
    fn replay_command(&mut self, command: &Command<'_>) -> Result<()> {
        let entry = command.located.entry;
        let scope = scope(&entry)?;
        let (db, collection) = scope.map_or(("", ""), |scope| (scope.db, scope.collection));
        let at = Circumstances {
            collection,
            ordered: true,
        };
        match translate(&entry, at)?.action {
            Action::Nothing => Ok(()),
            Action::Run {
                command, accept, ..
            } => self.expect_accepted(db, &command, accept),
            Action::Drop { collection } => self.replay_drop(db, &collection),
            Action::DropSeries { series, buckets } => {
                if self.kind_of(db, &series).as_deref() == Some("timeseries") {
                    self.replay_drop(db, &series)?;
                }
                self.replay_drop(db, &buckets)
            }
            Action::DropView { view } => match self.kind_of(db, &view).as_deref() {
                Some("view") => self.replay_drop(db, &view),
                _ => Ok(()),
            },
            // The model's own `collMod` also changes the view.
            Action::ChangeSeriesView { .. } => Ok(()),
            Action::DropViews => {
                for listed in self.listed(db) {
                    if listed.get_str("type").is_ok_and(|kind| kind == "view") {
                        self.replay_drop(db, listed.get_str("name")?)?;
                    }
                }
                Ok(())
            }
            Action::Rename { to, drop_target } => {
                let from = format!("{db}.{collection}");
                let command =
                    doc! { "renameCollection": from, "to": to, "dropTarget": drop_target };
                self.expect_accepted("admin", &command.to_vec()?, &[])
            }
        }
    }

    fn replay_drop(&mut self, db: &str, name: &str) -> Result<()> {
        let command = doc! { "drop": name };
        self.expect_accepted(db, &command.to_vec()?, &[done::NO_COLLECTION])
    }

    fn kind_of(&self, db: &str, name: &str) -> Option<String> {
        let listed = self.listed(db).into_iter();
        let mut named =
            listed.filter(|listed| listed.get_str("name").is_ok_and(|found| found == name));
        named.next()?.get_str("type").ok().map(str::to_owned)
    }

    fn expect_accepted(&mut self, db: &str, command: &[u8], accept: &[i32]) -> Result<()> {
        let reply = self.run(db, command)?;
        let code = reply.get_i32("code").ok();
        ensure!(code.is_none_or(|code| accept.contains(&code)), "{reply}");
        Ok(())
    }

    /// Sends a bulk as a sink does: an insert whose `_id` exists becomes a replacement.
    fn send(&mut self, bulk: &Bulk<'_>) -> Result<()> {
        if bulk.kind == BulkKind::Rewrite {
            return bulk
                .writes
                .iter()
                .try_for_each(|write| self.rewrite(bulk.ns, write));
        }
        let taken = self.send_writes(bulk.ns, bulk.kind, &bulk.writes)?;
        let again: Vec<Write<'_>> = taken.iter().map(|&index| bulk.writes[index]).collect();
        if !again.is_empty() {
            self.send_writes(bulk.ns, BulkKind::Update, &again)?;
        }
        Ok(())
    }

    /// Reads a document, changes and replaces it.
    fn rewrite(&mut self, ns: &str, write: &Write<'_>) -> Result<()> {
        let (db, collection) = ns.split_once('.').context("no namespace")?;
        let Some(stored) = self.stored(db, collection, write.document_id)? else {
            self.unmatched += 1;
            return Ok(());
        };
        let document = rewritten(Document::new(&stored)?, [write])?;
        self.rewritten += 1;
        let action = plan::Action::Rewritten(Document::new(&document)?);
        let mut writes = vec![Write { action, ..*write }];
        let document = Document::new(&document)?;
        if !zero_timestamps(document)?.is_empty() {
            let action = plan::Action::Zeros(document);
            writes.push(Write { action, ..*write });
        }
        self.send_writes(ns, BulkKind::Update, &writes).map(drop)
    }

    fn stored(&self, db: &str, collection: &str, id: Element<'_>) -> Result<Option<Vec<u8>>> {
        let mut filter = Vec::new();
        let mut builder = DocumentBuilder::start(&mut filter);
        builder.nested("_id", kind::DOCUMENT, |equal| {
            equal.raw("$eq", id.kind, id.value);
        });
        builder.finish();
        let Some(collection) = self.collection(db, collection) else {
            return Ok(None);
        };
        let found = collection.select(Document::new(&filter)?);
        let found = found.map_err(|failure| anyhow!("{failure:?}"))?;
        let document = found
            .first()
            .and_then(|record| collection.document(*record));
        Ok(document.map(|document| document.as_bytes().to_vec()))
    }

    /// Runs one command; returns the inserts that were refused as duplicates.
    fn send_writes(
        &mut self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
    ) -> Result<Vec<usize>> {
        if writes.is_empty() {
            // No write is left after a rewritten one. A server refuses a command without writes.
            return Ok(Vec::new());
        }
        let (db, collection) = ns.split_once('.').context("no namespace")?;
        let mut command = Vec::new();
        write_command(collection, kind, writes, OPTIONS, &mut command)?;
        Document::new(&command)?.validate()?;
        let reply = self.run(db, &command)?;
        ensure!(reply.get_f64("ok")? > 0.0, "{reply}");
        if kind == BulkKind::Update && reply.get_array("writeErrors").is_ok() {
            // The reply counts only the writes before the refused one.
            let done = u64::try_from(reply.get_i32("n")?)?;
            let errors = reply.get_array("writeErrors")?;
            let index = errors[0]
                .as_document()
                .context("no error")?
                .get_i32("index")?;
            self.unmatched += u64::try_from(index)? - done;
        }
        let mut taken = Vec::new();
        if let Ok(errors) = reply.get_array("writeErrors") {
            for error in errors {
                let error = error.as_document().context("no error")?;
                let pattern = error.get_document("keyPattern");
                let is_id = pattern.is_ok_and(|pattern| pattern.keys().eq(["_id"]));
                let index = usize::try_from(error.get_i32("index")?)?;
                let code = error.get_i32("code")?;
                if kind == BulkKind::Update && code == PATH_NOT_VIABLE {
                    // The sink applies this write by a rewrite, then continues with the others.
                    self.rewrite(ns, &writes[index])?;
                    return self.send_writes(ns, kind, &writes[index + 1..]);
                }
                if kind != BulkKind::Insert || code != DUPLICATE_KEY || !is_id {
                    bail!("{error}");
                }
                taken.push(index);
            }
        }
        if kind == BulkKind::Update {
            let found = u64::try_from(reply.get_i32("n")?)?;
            self.unmatched += writes.len() as u64 - found;
        }
        Ok(taken)
    }

    fn run(&mut self, db: &str, command: &[u8]) -> Result<Bson> {
        let reply = self.command(db, Document::new(command)?)?;
        Ok(Bson::from_reader(reply.as_slice())?)
    }
}
