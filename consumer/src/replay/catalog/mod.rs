//! The catalog: the commands that ran on the target, stored on the target in `oplog_relay.catalog`,
//! one document (a note) per command. Only the catalog determines whether a command ran; committed
//! offsets do not.
//!
//! ```text
//! {_id: "<group>/<source>/<seconds>:<increment>/<ord>", group, source, ts: "<seconds>:<increment>",
//!  ord, change: "created" | "dropped" | "renamed" | "emptied" | "other", ns, to?, ui?, offset?,
//!  existed, life?, done, withheld?: [{index?, seconds?}], limiting?: [index]}
//! ```
//!
//! `offset` is that of the command's record in its topic. Documents that mongo-kafka copied have no
//! time; their offsets show whether they were written before the command.
//!
//! `withheld` lists each `expireAfterSeconds`, of an index or of the collection, that is not set on
//! the target. An item without `seconds` means that the source removed the expiry or the index.
//!
//! `limiting` names the indexes that the command created or made unique, and that can refuse a
//! document. Such an index may have to be dropped when entries from before the command are applied
//! again. Earlier versions recorded only unique indexes, as `unique`.
//!
//! One document per group stores its namespaces: `{_id: "<group>/subscription", group, include:
//! [pattern], exclude: [pattern]}`.
//!
//! Another document records that the group has committed offsets for topics with a prefix: `{_id:
//! "<group>/begun/<prefix>", group, prefix, begun: true}`. If Kafka then has no offsets of the
//! group, they expired or were deleted.
//!
//! A rename is recorded before it runs. Its note contains whether the collection existed on the
//! target (`existed`) and the collection's UUID there (`life`). After a crash, the rename has run
//! if the collection is missing, or if the new name has the collection with this UUID. All other
//! commands may run twice.
//!
//! The note of a command is never removed, because the command may be read again at any time. A
//! member holds only a part of the notes in memory: see `in_memory`.
//!
//! # Modules
//!
//! - `incarnations` determines to which collection a name referred at a given time
//! - `in_memory` holds the part of the catalog that a member needs
//! - `begun` records that a group has committed offsets
//! - `subscription` records the namespaces of a group

mod begun;
mod in_memory;
pub(crate) mod incarnations;
mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{Bson, Document, Uuid, doc};
use futures_util::TryStreamExt;
use mongodb::options::{
    Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::mongo::error_code;

use crate::replay::directive::DUPLICATE_KEY;
use crate::replay::note::write_note;
use crate::replay::plan::translation::Withheld;

pub use crate::replay::catalog::incarnations::{Change, Incarnations, Moment, Ran, Resolved};
use in_memory::CatalogInMemory;
pub use subscription::{OtherSubscription, Subscription};

const COLLECTION: &str = "catalog";

/// The note of a command that is about to run or has run.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The command and its effect on names.
    pub ran: Ran,
    /// For a rename, true if the collection existed on the target before it.
    pub existed: bool,
    /// For a rename, the collection's UUID on the target, if the target reports one.
    pub target_uuid: Option<Uuid>,
    /// Changes of `expireAfterSeconds` that are withheld from the target.
    pub withheld: Vec<Withheld>,
    /// Names of the indexes that the command creates or makes unique, and that can refuse a
    /// document.
    pub limiting: Vec<String>,
}

impl Note {
    /// Creates the note of a command that withholds nothing and creates no limiting index.
    #[must_use]
    pub const fn new(ran: Ran) -> Self {
        Self {
            ran,
            existed: false,
            target_uuid: None,
            withheld: Vec::new(),
            limiting: Vec::new(),
        }
    }

    /// Creates the note of an entry that counts as done and has no effect on names.
    #[must_use]
    pub const fn passed_over(id: EntryId, ns: String, ui: Option<CollectionUuid>) -> Self {
        let change = Change::Other;
        Self::new(Ran {
            id,
            ns,
            ui,
            change,
            offset: None,
        })
    }
}

/// The catalog of one group in one target.
#[derive(Debug)]
pub struct Catalog {
    notes: Collection<Document>,
    group: String,
    in_memory: CatalogInMemory,
}

impl Catalog {
    /// Opens the catalog and reads the notes of the group.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn open(client: &Client, group: &str) -> mongodb::error::Result<Self> {
        let catalog = Self {
            notes: collection(client, COLLECTION),
            group: group.to_owned(),
            in_memory: CatalogInMemory::default(),
        };
        catalog.reload().await?;
        Ok(catalog)
    }

    /// Returns the consumer group of the catalog.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Returns the part of a source's catalog that is held in memory: the current owners of names,
    /// and the latest commands.
    #[must_use]
    pub fn incarnations(&self, source: &str) -> Arc<Incarnations> {
        self.in_memory.incarnations(source)
    }

    /// Returns true if any command of the group has run.
    fn has_commands(&self) -> bool {
        !self.in_memory.is_empty()
    }

    /// Returns true if the target has the note of a command that has run. What is held in memory is
    /// ignored, because a member of an earlier version may have removed the note.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn learn_again(&self, source: &str, id: EntryId) -> mongodb::error::Result<bool> {
        self.in_memory.forget(source, id);
        self.learn(source, id).await
    }

    /// Returns a command that created an index of a collection, or made it unique. If `after` is
    /// given, commands up to that entry are ignored.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn creator_of(
        &self,
        ns: &str,
        index: &str,
        after: Option<EntryId>,
    ) -> mongodb::error::Result<Option<Creator>> {
        let noted = [doc! { "limiting": index }, doc! { "unique": index }];
        let filter = doc! { "group": &self.group, "done": true, "$or": noted };
        let mut found = self.notes.find(filter).await?;
        while let Some(note) = found.try_next().await? {
            let (source, ran) = read(&note).ok_or_else(|| unreadable(&note))?;
            if after.is_some_and(|after| ran.id <= after) {
                continue;
            }
            let incarnations = self.incarnations_at(&source, ran.id).await?;
            if incarnations.resolve(&ran.ns, Moment::Time(ran.id), None) == Resolved::Live(ns) {
                let id = ran.id;
                return Ok(Some(Creator { source, id }));
            }
        }
        Ok(None)
    }

    /// Returns the number of commands and names that this member holds in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.in_memory.count()
    }

    /// Looks up a command that another member may have run. If it has run, records it in memory and
    /// returns true.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn learn(&self, source: &str, id: EntryId) -> mongodb::error::Result<bool> {
        if self.incarnations(source).is_done(id) {
            return Ok(true);
        }
        let name = self.id(source, id);
        let Some(note) = self
            .notes
            .find_one(doc! { "_id": name, "done": true })
            .await?
        else {
            return Ok(false);
        };
        let (_, ran) = read(&note).ok_or_else(|| unreadable(&note))?;
        if !self.in_memory.take(source, ran) {
            self.reload_from(source, id).await?;
        }
        Ok(true)
    }

    /// Returns another group that has run this command on this target, if one exists.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn other_runner(
        &self,
        source: &str,
        id: EntryId,
    ) -> mongodb::error::Result<Option<String>> {
        let same = doc! {
            "source": source, "ts": id.ts.to_string(), "ord": i64::from(id.ord), "done": true,
        };
        let mut notes = self.notes.find(same).await?;
        while let Some(note) = notes.try_next().await? {
            let other = note.get_str("group").ok();
            if let Some(other) = other.filter(|group| *group != self.group) {
                return Ok(Some(other.to_owned()));
            }
        }
        Ok(None)
    }

    /// Records a rename before it runs. Returns what was first recorded.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn begin(&self, source: &str, note: &Note) -> mongodb::error::Result<BegunRename> {
        let id = self.id(source, note.ran.id);
        let read = |noted: &Document| BegunRename {
            // A note without this field does not show whether the collection existed.
            existed: noted.get_bool("existed").unwrap_or(false),
            target_uuid: uuid(noted, "life"),
        };
        if let Some(noted) = self.notes.find_one(doc! { "_id": &id }).await? {
            return Ok(read(&noted));
        }
        // Another member may have run the command already, so an existing note is never
        // overwritten.
        let document = self.document(source, note, false);
        let Err(error) = self.notes.insert_one(document).await else {
            return Ok(BegunRename {
                existed: note.existed,
                target_uuid: note.target_uuid,
            });
        };
        let noted = match error_code(&error) {
            Some(DUPLICATE_KEY) => self.notes.find_one(doc! { "_id": id }).await?,
            _ => None,
        };
        noted.as_ref().map(read).ok_or(error)
    }

    /// Records that a command has run.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn finish(&self, source: &str, note: Note) -> mongodb::error::Result<()> {
        let id = note.ran.id;
        self.write(source, &note, true).await?;
        if !self.in_memory.take(source, note.ran) {
            self.reload_from(source, id).await?;
        }
        Ok(())
    }

    async fn write(&self, source: &str, note: &Note, done: bool) -> mongodb::error::Result<()> {
        let id = self.id(source, note.ran.id);
        write_note(&self.notes, &id, self.document(source, note, done)).await
    }

    fn document(&self, source: &str, note: &Note, done: bool) -> Document {
        let id = self.id(source, note.ran.id);
        let mut document = doc! { "_id": id, "group": &self.group, "source": source };
        document.extend(written(note));
        document.insert("done", done);
        document
    }

    fn id(&self, source: &str, id: EntryId) -> String {
        format!("{}/{source}/{}/{}", self.group, id.ts, id.ord)
    }
}

/// Returns a collection of the catalog's database. Its writes use majority write concern, so they
/// survive failovers.
pub fn collection(client: &Client, name: &str) -> Collection<Document> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let options = CollectionOptions::builder()
        .write_concern(majority)
        .read_concern(ReadConcern::majority())
        // A secondary may not have replicated the latest notes yet.
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    client
        .database(CATALOG_DB)
        .collection_with_options(name, options)
}

/// The command that created an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator {
    /// Name of the source.
    pub source: String,
    /// The entry of the command.
    pub id: EntryId,
}

/// The state of a collection when its rename was first recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunRename {
    /// True if the collection existed on the target.
    pub existed: bool,
    /// The collection's UUID on the target.
    pub target_uuid: Option<Uuid>,
}

/// A command that has run.
#[derive(Debug, Clone)]
pub struct PastCommand {
    /// The command.
    pub ran: Ran,
    /// The changes of `expireAfterSeconds` that it withheld.
    pub withheld: Vec<Withheld>,
}

/// The commands of a source, by entry.
pub type History = BTreeMap<EntryId, PastCommand>;

/// Returns the commands that ran on a target, by group and source.
///
/// # Errors
/// Returns the driver's error.
pub async fn histories(
    client: &Client,
) -> mongodb::error::Result<BTreeMap<String, BTreeMap<String, History>>> {
    let mut found = collection(client, COLLECTION)
        .find(doc! { "done": true })
        .await?;
    let mut groups: BTreeMap<String, BTreeMap<String, History>> = BTreeMap::new();
    while let Some(note) = found.try_next().await? {
        let group = note.get_str("group").map_err(|_| unreadable(&note))?;
        let (source, ran) = read(&note).ok_or_else(|| unreadable(&note))?;
        let withheld = read_withheld(&note).ok_or_else(|| unreadable(&note))?;
        let sources = groups.entry(group.to_owned()).or_default();
        let history = sources.entry(source).or_default();
        history.insert(ran.id, PastCommand { ran, withheld });
    }
    Ok(groups)
}

fn unreadable(note: &Document) -> mongodb::error::Error {
    let id = note.get("_id").map(ToString::to_string).unwrap_or_default();
    mongodb::error::Error::custom(format!(
        "{CATALOG_DB}.{COLLECTION} has a document that this version of the consumer cannot read (_id \
         {id}): use the version that wrote it, or a newer one"
    ))
}

fn written(note: &Note) -> Document {
    let (change, to) = match &note.ran.change {
        Change::Created => ("created", None),
        Change::Dropped => ("dropped", None),
        Change::Renamed { to } => ("renamed", Some(to)),
        Change::Emptied => ("emptied", None),
        Change::Other => ("other", None),
    };
    let EntryId { ts, ord } = note.ran.id;
    let mut document = doc! { "ts": ts.to_string(), "ord": i64::from(ord) };
    document.extend(doc! { "change": change, "ns": &note.ran.ns });
    if let Some(to) = to {
        document.insert("to", to);
    }
    if let Some(ui) = note.ran.ui {
        document.insert("ui", Uuid::from_bytes(ui.0));
    }
    if let Some(offset) = note.ran.offset {
        document.insert("offset", offset);
    }
    document.insert("existed", note.existed);
    if let Some(uuid) = note.target_uuid {
        document.insert("life", uuid);
    }
    if !note.limiting.is_empty() {
        document.insert("limiting", note.limiting.clone());
    }
    if !note.withheld.is_empty() {
        let list: Vec<Document> = note.withheld.iter().map(withheld).collect();
        document.insert("withheld", list);
    }
    document
}

fn withheld(withheld: &Withheld) -> Document {
    let mut document = Document::new();
    if let Some(seconds) = withheld.seconds {
        document.insert("seconds", seconds);
    }
    if let Some(index) = &withheld.index {
        document.insert("index", index);
    }
    document
}

fn uuid(note: &Document, field: &str) -> Option<Uuid> {
    match note.get(field) {
        Some(Bson::Binary(uuid)) => uuid.to_uuid().ok(),
        _ => None,
    }
}

/// Reads a note; `None` if a newer version wrote it in a form that this version does not know.
fn read(note: &Document) -> Option<(String, Ran)> {
    let change = match note.get_str("change").ok()? {
        "created" => Change::Created,
        "dropped" => Change::Dropped,
        "renamed" => Change::Renamed {
            to: note.get_str("to").ok()?.to_owned(),
        },
        "emptied" => Change::Emptied,
        "other" => Change::Other,
        _ => return None,
    };
    let ui = uuid(note, "ui").map(|ui| CollectionUuid(ui.bytes()));
    let ran = Ran {
        id: EntryId {
            ts: note.get_str("ts").ok()?.parse().ok()?,
            ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
        },
        ns: note.get_str("ns").ok()?.to_owned(),
        ui,
        change,
        offset: note.get_i64("offset").ok(),
    };
    Some((note.get_str("source").ok()?.to_owned(), ran))
}

/// Reads the changes of `expireAfterSeconds` that a command withheld; `None` if a newer version
/// wrote them in a form that this version does not know.
fn read_withheld(note: &Document) -> Option<Vec<Withheld>> {
    let Some(list) = note.get("withheld") else {
        return Some(Vec::new());
    };
    let read = |item: &Bson| {
        let item = item.as_document()?;
        let index = match item.get("index") {
            Some(index) => Some(index.as_str()?.to_owned()),
            None => None,
        };
        let seconds = match item.get("seconds") {
            Some(seconds) => Some(seconds.as_i64()?),
            None => None,
        };
        Some(Withheld { index, seconds })
    };
    list.as_array()?.iter().map(read).collect()
}

/// Returns the identity of an entry of that second.
#[cfg(test)]
fn at(seconds: u32) -> EntryId {
    EntryId {
        ts: oplog_relay_core::position::Timestamp::new(seconds, 1),
        ord: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::Timestamp;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let ran = Ran {
            id: EntryId {
                ts: Timestamp::new(7, 3),
                ord: 2,
            },
            ns: "shop.a".to_owned(),
            ui: Some(CollectionUuid([5; 16])),
            change: Change::Renamed {
                to: "shop.b".to_owned(),
            },
            offset: Some(4),
        };
        let note = Note {
            ran: ran.clone(),
            existed: true,
            target_uuid: Some(Uuid::from_bytes([6; 16])),
            limiting: vec!["k_1".to_owned()],
            withheld: vec![
                Withheld {
                    index: Some("t_1".to_owned()),
                    seconds: Some(60),
                },
                Withheld {
                    index: None,
                    seconds: None,
                },
            ],
        };
        let mut document = written(&note);
        document.insert("source", "rs0");
        assert_eq!(read(&document), Some(("rs0".to_owned(), ran)));
        assert_eq!(uuid(&document, "life"), note.target_uuid);
        assert_eq!(read_withheld(&document), Some(note.withheld));
        document.insert("change", "split");
        assert_eq!(read(&document), None);
        assert_eq!(read_withheld(&Document::new()), Some(Vec::new()));
        assert_eq!(read_withheld(&doc! { "withheld": ["t_1"] }), None);
    }
}
