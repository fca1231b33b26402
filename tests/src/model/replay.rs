//! Plans of a replay, applied as its sink sends them.

use anyhow::{Context, Result, bail, ensure};
use bson::Document as Bson;
use oplog_consumer::batch::Located;
use oplog_consumer::plan::{Bulk, BulkKind, CommandOptions, Planner, Step, Write, write_command};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;

use super::Model;

const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: true,
    upsert_unmatched: false,
    max_time_ms: 1000,
};
/// Codes of what is there already.
const NAMESPACE_EXISTS: i32 = 48;
const DUPLICATE_KEY: i32 = 11000;

impl Model {
    /// Plans consecutive entries of one partition and sends what comes of it.
    ///
    /// # Errors
    /// When an entry cannot be planned, or the model refuses a write.
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
                Step::Create { db, collection, .. } => {
                    let command = bson::doc! { "create": collection }.to_vec()?;
                    let reply = self.run(db, &command)?;
                    let code = reply.get_i32("code").ok();
                    ensure!(code.is_none_or(|code| code == NAMESPACE_EXISTS), "{reply}");
                }
                Step::Write(lanes) => {
                    // Lanes may go in any order.
                    for bulk in lanes.iter().rev().flat_map(|lane| &lane.bulks) {
                        self.send(bulk).with_context(|| bulk.ns.to_owned())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// As a sink does: inserts that find their `_id` taken become replacements.
    fn send(&mut self, bulk: &Bulk<'_>) -> Result<()> {
        let taken = self.send_writes(bulk.ns, bulk.kind, &bulk.writes)?;
        let again: Vec<Write<'_>> = taken.iter().map(|&index| bulk.writes[index]).collect();
        if !again.is_empty() {
            self.send_writes(bulk.ns, BulkKind::Update, &again)?;
        }
        Ok(())
    }

    /// Runs one command; returns the inserts that were refused as duplicates.
    fn send_writes(
        &mut self,
        ns: &str,
        kind: BulkKind,
        writes: &[Write<'_>],
    ) -> Result<Vec<usize>> {
        let (db, collection) = ns.split_once('.').context("a namespace")?;
        let mut command = Vec::new();
        write_command(collection, kind, writes, OPTIONS, &mut command)?;
        Document::new(&command)?.validate()?;
        let reply = self.run(db, &command)?;
        ensure!(reply.get_f64("ok")? > 0.0, "{reply}");
        let mut taken = Vec::new();
        if let Ok(errors) = reply.get_array("writeErrors") {
            for error in errors {
                let error = error.as_document().context("an error")?;
                let pattern = error.get_document("keyPattern");
                let is_id = pattern.is_ok_and(|pattern| pattern.keys().eq(["_id"]));
                if kind != BulkKind::Insert || error.get_i32("code")? != DUPLICATE_KEY || !is_id {
                    bail!("{error}");
                }
                taken.push(usize::try_from(error.get_i32("index")?)?);
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
