//! An in-memory MongoDB-like target: it takes the commands that a replay sends and applies them
//! as a server does, byte for byte, for every type that BSON has.
//!
//! | file | holds |
//! | --- | --- |
//! | `update` | `$set` and `$unset` with dotted paths |
//! | `golden` | the golden oplogs and the states that they must lead to |

mod golden;
mod update;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context, Result, bail, ensure};
use oplog_consumer::batch::Located;
use oplog_consumer::plan::{
    Bulk, BulkKind, CommandOptions, Planner, Step, Write, rewritten, write_command,
};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, DocumentBuilder, Element};
use oplog_relay_core::entry;
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::EntryId;

pub use golden::{Scenario, State};
use update::NotViable;

const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: true,
    upsert_unmatched: false,
    max_time_ms: 1000,
};

/// Documents by the identity of their `_id`.
type Documents = BTreeMap<Vec<u8>, Vec<u8>>;

/// The target: its collections by namespace.
#[derive(Debug, Clone, Default)]
pub struct Model {
    collections: BTreeMap<String, Documents>,
    /// Updates that found no document.
    pub unmatched: u64,
    /// Updates that were made by reading, changing and replacing.
    pub rewritten: u64,
}

impl Model {
    /// Plans consecutive entries of one partition and sends what comes of it.
    ///
    /// # Errors
    /// When an entry cannot be planned, or the model refuses a write.
    pub fn replay(&mut self, planner: &Planner, entries: &[(EntryId, Vec<u8>)]) -> Result<()> {
        let mut located = Vec::with_capacity(entries.len());
        for (offset, (id, bytes)) in (0..).zip(entries) {
            let entry = entry::Entry::parse(Document::new(bytes)?)?;
            located.push(Located {
                offset,
                id: *id,
                entry,
            });
        }
        for step in planner.plan(&located)?.steps {
            match step {
                Step::Create { db, collection, .. } => {
                    let ns = format!("{db}.{collection}");
                    self.collections.entry(ns).or_default();
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

    /// What it holds: by namespace, in the server's order of `_id`.
    #[must_use]
    pub fn state(&self) -> State {
        let sorted = |documents: &Documents| {
            let mut documents: Vec<Vec<u8>> = documents.values().cloned().collect();
            documents.sort_by(|one, other| compare_values(id_of(one), id_of(other)));
            documents
        };
        let collections = self.collections.iter();
        collections
            .map(|(ns, documents)| (ns.clone(), sorted(documents)))
            .collect()
    }

    /// As a sink does: inserts that find their `_id` taken become replacements, rewrites read,
    /// change and replace.
    fn send(&mut self, bulk: &Bulk<'_>) -> Result<()> {
        if bulk.kind == BulkKind::Rewrite {
            for write in &bulk.writes {
                self.rewrite(bulk.ns, write)?;
            }
            return Ok(());
        }
        let taken = self.run(bulk.ns, bulk.kind, &bulk.writes)?;
        let again: Vec<Write<'_>> = taken.iter().map(|&index| bulk.writes[index]).collect();
        if !again.is_empty() {
            self.run(bulk.ns, BulkKind::Update, &again)?;
        }
        Ok(())
    }

    fn rewrite(&mut self, ns: &str, write: &Write<'_>) -> Result<()> {
        let documents = self.collections.entry(ns.to_owned()).or_default();
        match documents.get_mut(&identity(write.document_id)?) {
            Some(stored) => {
                *stored = rewritten(Document::new(stored)?, [write])?;
                self.rewritten += 1;
            }
            None => self.unmatched += 1,
        }
        Ok(())
    }

    /// Runs one command; returns the inserts that were refused as duplicates.
    fn run(&mut self, ns: &str, kind: BulkKind, writes: &[Write<'_>]) -> Result<Vec<usize>> {
        let (_, collection) = ns.split_once('.').context("a namespace")?;
        let mut command = Vec::new();
        write_command(collection, kind, writes, OPTIONS, &mut command)?;
        let command = Document::new(&command)?;
        command.validate()?;
        let first = command.first()?.context("a command")?;
        ensure!(first.str()? == collection);
        let documents = self.collections.entry(ns.to_owned()).or_default();
        let mut taken = Vec::new();
        match first.name {
            b"insert" => {
                for (index, document) in list(command, "documents")?.into_iter().enumerate() {
                    let identity = identity(document.get("_id")?.context("an _id")?)?;
                    match documents.entry(identity) {
                        Entry::Occupied(_) => taken.push(index),
                        Entry::Vacant(free) => drop(free.insert(with_id_first(document)?)),
                    }
                }
            }
            b"update" => {
                let statements = list(command, "updates")?;
                for (statement, write) in statements.into_iter().zip(writes) {
                    let documents = self.collections.entry(ns.to_owned()).or_default();
                    match update_one(documents, statement) {
                        Ok(found) => self.unmatched += u64::from(!found),
                        // Error 28: the sink redoes this one in its own way.
                        Err(error) if error.is::<NotViable>() => self.rewrite(ns, write)?,
                        Err(error) => return Err(error),
                    }
                }
            }
            b"delete" => {
                for statement in list(command, "deletes")? {
                    ensure!(statement.get("limit")?.context("a limit")?.integer()? == 1);
                    documents.remove(&queried(statement)?);
                }
            }
            name => bail!("unknown command {}", String::from_utf8_lossy(name)),
        }
        Ok(taken)
    }
}

/// Runs one statement of an `update`; says whether it found or made a document.
fn update_one(documents: &mut Documents, statement: Document<'_>) -> Result<bool> {
    let identity = queried(statement)?;
    let change = statement.get("u")?.context("an update")?.document()?;
    let upsert = statement.get("upsert")?;
    let upsert = upsert.is_some_and(|upsert| upsert.boolean() == Ok(true));
    let first = change.first()?;
    if first.is_some_and(|first| first.name.starts_with(b"$")) {
        ensure!(!upsert, "an update must not make documents up");
        let Some(stored) = documents.get_mut(&identity) else {
            return Ok(false);
        };
        *stored = update::apply(Document::new(stored)?, change)?;
        return Ok(true);
    }
    if !upsert && !documents.contains_key(&identity) {
        return Ok(false);
    }
    documents.insert(identity, with_id_first(change)?);
    Ok(true)
}

fn list<'a>(command: Document<'a>, name: &str) -> Result<Vec<Document<'a>>> {
    let list = command.get(name)?.context("a list")?.document()?;
    let documents = list.elements().map(|element| Ok(element?.document()?));
    documents.collect()
}

/// The identity of the `_id` that a statement looks for.
fn queried(statement: Document<'_>) -> Result<Vec<u8>> {
    let query = statement.get("q")?.context("a query")?.document()?;
    let id = query.get("_id")?.context("an _id")?;
    let equal = id.document().ok().and_then(|id| id.get("$eq").ok()?);
    identity(equal.unwrap_or(id))
}

fn identity(id: Element<'_>) -> Result<Vec<u8>> {
    let mut identity = Vec::new();
    write_id_identity(id, &mut identity)?;
    Ok(identity)
}

/// A server stores `_id` as the first field.
fn with_id_first(document: Document<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    builder.element(document.get("_id")?.context("an _id")?);
    let mut seen = false;
    for element in document.elements() {
        let element = element?;
        if element.name != b"_id" || std::mem::replace(&mut seen, true) {
            builder.element(element);
        }
    }
    builder.finish();
    Ok(out)
}

fn id_of(document: &[u8]) -> Element<'_> {
    let document = Document::new(document).expect("a document");
    document.get("_id").ok().flatten().expect("an _id")
}
