//! Commands in the oplog: the collections that a command concerns, and how a command is carried.
//!
//! A command is either an entry with the operation `c`, whose name is the first field name of `o`,
//! or a write to `system.views`, which is how a server logs that a view is created, changed or
//! dropped. A server before 4.2 may log an index as an insert into `system.indexes`. The producer
//! turns that into the `createIndexes` that later servers log ([`write_create_indexes`]).

use crate::compare::is_truthy;
use crate::document::{Document, DocumentBuilder, Malformed, kind};
use crate::entry::{Entry, EntryError, Operation};
use crate::index::{Demand, demand};
use crate::namespace::Namespace;
use crate::time_series::VIEWS;

/// The way in which a command is carried and replayed.
///
/// The programs and their tests match on it without a wildcard:
///
/// - `prepare/route/command.rs` of the producer: the topics of a command
/// - `replay/plan/translation/mod.rs` of the consumer: what is sent to the target
/// - `worker/foreign_command.rs` of the consumer: commands in topics of other programs
/// - `effect` in `tests/end_to_end/documents.rs`: the table in docs/replay.md
/// - `home` in `tests/end_to_end/history.rs`: the topic that a command must be in
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Runs after all earlier and before all later writes of its collections.
    Barrier,
    /// Runs after all earlier writes of its collections; later writes do not wait for it. This is
    /// the build of an index that can refuse a document because of its content. An earlier entry
    /// may create such a document if another earlier entry corrects it. Later entries were written
    /// when the source already had the index, so none of them creates one.
    Build,
    /// Runs in partition 0 of its collection's topic, ordered within that partition only.
    Inline,
    /// Is recognized, but requires no action from a replay.
    Ignore,
    /// Stops the replay, which cannot reproduce the command.
    Stop,
}

/// A row of the table of commands ([`COMMANDS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The name: the first field name of `o`.
    pub name: &'static str,
    /// The way in which the command is carried.
    pub treatment: Treatment,
    /// The reason for the treatment.
    pub reason: &'static str,
}

const fn known(name: &'static str, treatment: Treatment, reason: &'static str) -> Known {
    Known {
        name,
        treatment,
        reason,
    }
}

/// All commands that servers from 3.6 on write into their oplogs, and those that only change
/// streams report. The commands of transactions are not in the table, because the producer splits
/// transactions into operations. A name that is not in the table stops a replay.
/// [`scope`] reads the value of a command as the name of a collection, except for the commands that
/// it handles separately.
pub const COMMANDS: &[Known] = &[
    known("create", Treatment::Barrier, "creates a collection"),
    known("drop", Treatment::Barrier, "drops a collection"),
    known(
        "renameCollection",
        Treatment::Barrier,
        "renames a collection, and may drop an existing collection with the new name",
    ),
    known(
        "collMod",
        Treatment::Barrier,
        "changes which writes a collection accepts",
    ),
    known(
        "convertToCapped",
        Treatment::Barrier,
        "rewrites the collection (old servers)",
    ),
    known("emptycapped", Treatment::Barrier, "removes all documents"),
    known(
        "createIndexes",
        Treatment::Inline,
        "an index that can refuse a document waits for earlier writes; a unique index also \
         constrains later writes",
    ),
    known(
        "commitIndexBuild",
        Treatment::Inline,
        "the end of an index build, with all of its indexes; treated like createIndexes",
    ),
    known(
        "dropIndexes",
        Treatment::Barrier,
        "a unique index constrains earlier writes",
    ),
    known(
        "deleteIndexes",
        Treatment::Barrier,
        "old name of dropIndexes",
    ),
    known("dropIndex", Treatment::Barrier, "old name of dropIndexes"),
    known("deleteIndex", Treatment::Barrier, "old name of dropIndexes"),
    known(
        "dropDatabase",
        Treatment::Ignore,
        "the drop of each collection precedes it: logged by the server, or added by the producer \
         for servers up to 3.4, which do not log it",
    ),
    known(
        "startIndexBuild",
        Treatment::Ignore,
        "the indexes are created at commitIndexBuild, which contains all of them",
    ),
    known("abortIndexBuild", Treatment::Ignore, "nothing was created"),
    known(
        "dbCheck",
        Treatment::Ignore,
        "compares members of the source",
    ),
    known(
        "modifyCollectionShardingIndexCatalog",
        Treatment::Ignore,
        "a shard's own catalog",
    ),
    known(
        "createGlobalIndex",
        Treatment::Ignore,
        "a shard's own catalog",
    ),
    known(
        "dropGlobalIndex",
        Treatment::Ignore,
        "a shard's own catalog",
    ),
    known(
        "createDatabaseMetadata",
        Treatment::Ignore,
        "a shard's own catalog",
    ),
    known(
        "dropDatabaseMetadata",
        Treatment::Ignore,
        "a shard's own catalog",
    ),
    known(
        "shardCollection",
        Treatment::Ignore,
        "the distribution over the shards of the source (change streams)",
    ),
    known(
        "reshardCollection",
        Treatment::Ignore,
        "the distribution over the shards of the source (change streams)",
    ),
    known(
        "refineCollectionShardKey",
        Treatment::Ignore,
        "the distribution over the shards of the source (change streams)",
    ),
    known(
        "importCollection",
        Treatment::Stop,
        "the documents are not in the oplog: the collection has to be copied again",
    ),
    known(
        "truncateRange",
        Treatment::Stop,
        "it names record ids, which differ on another server",
    ),
    known(
        "upgradeDowngradeViewlessTimeseries",
        Treatment::Stop,
        "it changes the layout of a time series",
    ),
];

/// The collections that a command concerns: one, or both names of a rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The database.
    pub db: &'a str,
    /// The collection; for a rename, its old name.
    pub collection: &'a str,
    /// The new name. Only a rename has it.
    pub to: Option<Namespace<'a>>,
}

impl Scope<'_> {
    /// Returns `db.collection`.
    #[must_use]
    pub fn ns(&self) -> String {
        format!("{}.{}", self.db, self.collection)
    }

    /// Returns `db.collection` of the new name of a rename.
    #[must_use]
    pub fn to_ns(&self) -> Option<String> {
        self.to.map(|to| to.to_string())
    }
}

/// Returns true if an entry writes to `system.views`.
#[must_use]
pub fn is_view_entry(entry: &Entry<'_>) -> bool {
    // This runs for every entry, and the end of the namespace rules out most of them.
    entry.ns.ends_with(".system.views")
        && entry.namespace().collection == VIEWS
        && matches!(
            entry.operation,
            Operation::Insert | Operation::Update | Operation::Delete
        )
}

/// Returns true if an entry is an index that was logged as a document, as servers up to 4.0 may do.
#[inline]
#[must_use]
pub fn is_index_entry(entry: &Entry<'_>) -> bool {
    entry.operation == Operation::Insert && entry.ns.ends_with(".system.indexes")
}

/// Returns true if an entry is a command. Writes to `system.views` count as commands.
#[inline]
#[must_use]
pub fn is_command(entry: &Entry<'_>) -> bool {
    entry.operation == Operation::Command || is_view_entry(entry)
}

/// Returns the treatment of a command, or `None` for a name that is not in the table.
///
/// # Errors
/// [`EntryError`] if the command has no name, or one of its indexes is damaged.
pub fn treatment(entry: &Entry<'_>) -> Result<Option<Treatment>, EntryError> {
    if is_view_entry(entry) {
        return Ok(Some(Treatment::Barrier));
    }
    let name = entry.command()?.name;
    let Some(known) = COMMANDS.iter().find(|known| known.name.as_bytes() == name) else {
        return Ok(None);
    };
    if name == b"collMod" && !changes_something(entry.o)? {
        return Ok(Some(Treatment::Ignore));
    }
    let dry_run = name == b"importCollection" && is_set(entry.o, "dryRun")?;
    Ok(Some(match known.treatment {
        Treatment::Inline => match greatest_demand(entry)? {
            Demand::Uniqueness => Treatment::Barrier,
            Demand::Form => Treatment::Build,
            Demand::Nothing => Treatment::Inline,
        },
        Treatment::Stop if dry_run => Treatment::Ignore,
        treatment => treatment,
    }))
}

/// Returns false for a `collMod` that changes nothing. A change of the feature compatibility
/// version logs a `collMod` without options (older servers: with the `uuid` alone) for every
/// collection.
fn changes_something(o: Document<'_>) -> Result<bool, Malformed> {
    for option in o.elements().skip(1) {
        if option?.name != b"uuid" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns true if a flag of a command or an index is set ([`is_truthy`]).
///
/// # Errors
/// [`Malformed`] if the document is damaged.
pub fn is_set(document: Document<'_>, flag: &str) -> Result<bool, Malformed> {
    Ok(document.get(flag)?.is_some_and(is_truthy))
}

/// Returns the strongest demand that any index of the command makes on documents.
fn greatest_demand(entry: &Entry<'_>) -> Result<Demand, Malformed> {
    let specs = index_specs(entry.o)?;
    let mut greatest = Demand::Nothing;
    for spec in specs {
        greatest = greatest.max(demand(spec)?);
    }
    Ok(greatest)
}

/// Returns the index specifications of a command. A `createIndexes` holds one index, whose fields
/// are fields of the command itself; a `commitIndexBuild` holds an array.
///
/// # Errors
/// [`Malformed`] if the command or the list of indexes is damaged.
pub fn index_specs(o: Document<'_>) -> Result<Vec<Document<'_>>, Malformed> {
    match o.get("indexes")? {
        Some(list) => list
            .document()?
            .elements()
            .map(|element| element?.document())
            .collect(),
        None => Ok(vec![o]),
    }
}

/// Returns true if an entry drops a database.
#[must_use]
pub fn is_drop_database(entry: &Entry<'_>) -> bool {
    entry.operation == Operation::Command
        && entry
            .command()
            .is_ok_and(|command| command.name == b"dropDatabase")
}

/// Returns the collections that a command concerns, or `None` for a command whose value is not the
/// name of a collection (`dropDatabase`).
///
/// # Errors
/// [`EntryError`] if the command has no name, or if the `_id` of a view or a name of a rename is
/// missing or not a string.
pub fn scope<'a>(entry: &Entry<'a>) -> Result<Option<Scope<'a>>, EntryError> {
    let db = entry.namespace().db;
    if is_view_entry(entry) {
        let id = entry.document_id()?.str()?;
        let Namespace { db, collection } = Namespace::split(id);
        return Ok(Some(Scope {
            db,
            collection,
            to: None,
        }));
    }
    let command = entry.command()?;
    Ok(match command.name {
        b"renameCollection" => {
            let Namespace { db, collection } = Namespace::split(command.str()?);
            let to = entry.o.get("to")?.ok_or(Malformed::Missing("to"))?;
            Some(Scope {
                db,
                collection,
                to: Some(Namespace::split(to.str()?)),
            })
        }
        b"dbCheck" | b"importCollection" | b"truncateRange" => command.str().ok().map(|ns| {
            let Namespace { db, collection } = Namespace::split(ns);
            Scope {
                db,
                collection,
                to: None,
            }
        }),
        _ => command.str().ok().map(|collection| Scope {
            db,
            collection,
            to: None,
        }),
    })
}

/// Returns the names of the collections that a command concerns: one, or both names of a rename.
/// The list is empty for a command that does not name any, and for a change of the routing table,
/// which concerns many collections.
///
/// # Errors
/// [`EntryError`] as for [`scope`].
pub fn namespaces(entry: &Entry<'_>) -> Result<Vec<String>, EntryError> {
    if !is_command(entry) {
        return Ok(Vec::new());
    }
    let names = scope(entry)?.map(|scope| [Some(scope.ns()), scope.to_ns()]);
    Ok(names.into_iter().flatten().flatten().collect())
}

/// Appends the entry of a `drop` of `collection`, with the fields of `entry` except `o2`. A rename
/// into an excluded namespace is carried as such a drop, and a `dropDatabase` of a server up to 3.4
/// as one drop for each collection.
///
/// # Errors
/// [`Malformed`] if the entry is damaged.
pub fn write_drop(entry: &Entry<'_>, collection: &str, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut drop = DocumentBuilder::start(out);
    for element in entry.raw.elements() {
        let element = element?;
        if !matches!(element.name, b"o" | b"o2") {
            drop.element(element);
        }
    }
    drop.nested("o", kind::DOCUMENT, |o| {
        o.str("drop", collection);
    });
    drop.finish();
    Ok(())
}

/// Appends the `createIndexes` entry of an index that was logged as a document
/// ([`is_index_entry`]): `o.ns` names the collection, and the other fields of `o` are the index.
///
/// # Errors
/// [`Malformed`] if the entry is damaged or does not name a collection.
pub fn write_create_indexes(entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let ns = entry
        .o
        .get("ns")?
        .ok_or(Malformed::Missing("o.ns"))?
        .str()?;
    let Namespace { db, collection } = Namespace::split(ns);
    let mut command = DocumentBuilder::start(out);
    for element in entry.raw.elements() {
        let element = element?;
        match element.name {
            b"op" => drop(command.str("op", "c")),
            b"ns" => drop(command.str("ns", &format!("{db}.$cmd"))),
            b"o" | b"o2" => {}
            _ => drop(command.element(element)),
        }
    }
    let mut outcome = Ok(());
    command.nested("o", kind::DOCUMENT, |o| {
        o.str("createIndexes", collection);
        for field in entry.o.elements() {
            match field {
                Ok(field) if matches!(field.name, b"ns" | b"_id") => {}
                Ok(field) => drop(o.element(field)),
                Err(error) => outcome = Err(error),
            }
        }
    });
    command.finish();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, doc};

    fn with<T>(entry: &bson::Document, check: impl FnOnce(&Entry<'_>) -> T) -> T {
        let mut entry = entry.clone();
        entry.insert(
            "ts",
            bson::Timestamp {
                time: 5,
                increment: 1,
            },
        );
        entry.insert("v", 2);
        let bytes = entry.to_vec().unwrap();
        check(&Entry::parse(Document::new(&bytes).unwrap()).unwrap())
    }

    fn command(o: bson::Document) -> bson::Document {
        doc! { "op": "c", "ns": "shop.$cmd", "o": o }
    }

    #[test]
    fn an_index_that_can_refuse_documents_waits_for_earlier_writes() {
        let index = |unique: Bson| {
            command(
                doc! { "createIndexes": "c", "v": 2, "key": { "a": 1 }, "name": "a", "unique": unique },
            )
        };
        let build = |unique: bool| {
            command(
                doc! { "commitIndexBuild": "c", "indexes": [{ "name": "a" }, { "name": "b", "unique": unique }] },
            )
        };
        let key = |key: bson::Document| {
            command(doc! { "createIndexes": "c", "v": 2, "key": key, "name": "a" })
        };
        for (entry, expected) in [
            (key(doc! { "a": "2dsphere" }), Treatment::Build),
            (key(doc! { "a": 1, "b": 1 }), Treatment::Build),
            (index(true.into()), Treatment::Barrier),
            (index(false.into()), Treatment::Inline),
            (index(1.0.into()), Treatment::Barrier),
            (index(1_i64.into()), Treatment::Barrier),
            (index(0.into()), Treatment::Inline),
            (build(true), Treatment::Barrier),
            (build(false), Treatment::Inline),
        ] {
            assert_eq!(with(&entry, treatment), Ok(Some(expected)), "{entry}");
        }
    }

    #[test]
    fn a_command_names_its_collections() {
        let names = |entry: &bson::Document| with(entry, namespaces).unwrap();
        let rename = command(doc! { "renameCollection": "shop.a", "to": "old.b" });
        assert_eq!(names(&rename), ["shop.a", "old.b"]);
        assert_eq!(names(&command(doc! { "drop": "c" })), ["shop.c"]);
        let view = doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.v" } };
        assert_eq!(names(&view), ["shop.v"]);
        assert!(names(&command(doc! { "dropDatabase": 1 })).is_empty());
        let change = doc! { "op": "n", "ns": "", "o": { "msg": "routing" } };
        assert!(names(&change).is_empty());
    }

    #[test]
    fn every_command_is_listed_once_with_a_reason() {
        for (index, known) in COMMANDS.iter().enumerate() {
            assert!(!known.reason.is_empty());
            assert!(
                COMMANDS[..index]
                    .iter()
                    .all(|other| other.name != known.name)
            );
        }
        assert_eq!(with(&command(doc! { "fly": 1 }), treatment), Ok(None));
        let dry = command(doc! { "importCollection": "a.b", "dryRun": true });
        assert_eq!(with(&dry, treatment), Ok(Some(Treatment::Ignore)));
    }

    #[test]
    fn a_collmod_without_options_is_ignored() {
        let bare = command(doc! { "collMod": "c", "uuid": Bson::Null });
        assert_eq!(with(&bare, treatment), Ok(Some(Treatment::Ignore)));
        let real = command(doc! { "collMod": "c", "validator": {} });
        assert_eq!(with(&real, treatment), Ok(Some(Treatment::Barrier)));
    }

    #[test]
    fn a_rename_concerns_both_names_and_names_may_have_dots() {
        let rename = command(doc! { "renameCollection": "a.b.c", "to": "d.e.f" });
        with(&rename, |entry| {
            let scope = scope(entry).unwrap().unwrap();
            assert_eq!(scope.ns(), "a.b.c");
            assert_eq!(scope.to, Some(Namespace::split("d.e.f")));
        });
        let database = command(doc! { "dropDatabase": 1 });
        with(&database, |entry| assert_eq!(scope(entry), Ok(None)));
    }

    #[test]
    fn a_view_is_named_by_its_id() {
        let view = doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.v.w", "viewOn": "c", "pipeline": [] } };
        with(&view, |entry| {
            assert!(is_command(entry));
            assert_eq!(treatment(entry), Ok(Some(Treatment::Barrier)));
            assert_eq!(scope(entry).unwrap().unwrap().ns(), "shop.v.w");
        });
        let other = doc! { "op": "i", "ns": "shop.views", "o": { "_id": 1 } };
        with(&other, |entry| assert!(!is_command(entry)));
    }

    #[test]
    fn insert_into_system_indexes() {
        let index = doc! { "_id": 1, "ns": "shop.c.d", "v": 1, "key": { "a": 1 }, "name": "a_1" };
        let entry = doc! { "op": "i", "ns": "shop.system.indexes", "o": index };
        let bytes = with(&entry, |entry| {
            assert!(is_index_entry(entry));
            let mut out = Vec::new();
            write_create_indexes(entry, &mut out).unwrap();
            out
        });
        let command = bson::Document::from_reader(bytes.as_slice()).unwrap();
        let o = doc! { "createIndexes": "c.d", "v": 1, "key": { "a": 1 }, "name": "a_1" };
        assert_eq!(command.get_document("o").ok(), Some(&o));
        let header = (command.get_str("op").ok(), command.get_str("ns").ok());
        assert_eq!(header, (Some("c"), Some("shop.$cmd")));
        let without_ns = doc! { "op": "i", "ns": "shop.system.indexes", "o": { "name": "a_1" } };
        let error = with(&without_ns, |entry| {
            write_create_indexes(entry, &mut Vec::new())
        });
        assert_eq!(error, Err(Malformed::Missing("o.ns")));
    }
}
