//! Which commands ran on the target, kept in the target: `oplog_relay.catalog`, one document a
//! command. It alone says whether a command ran; offsets never do.
//!
//! ```text
//! {_id: "<group>/<source>/<seconds>:<increment>/<ord>", group, source, ts: "<seconds>:<increment>",
//!  ord, change: "created" | "dropped" | "renamed" | "emptied" | "other", ns, to?, ui?, existed, life?, done,
//!  withheld?: [{index?, seconds?}], limiting?: [index]}
//! ```
//!
//! `withheld` is an `expireAfterSeconds` that the target did not get, of an index or of the
//! collection; without `seconds`, the end of one.
//!
//! `limiting` names the indexes that the command made and that can refuse a document. A stretch from
//! before it that is applied again may need one out of the way. Earlier versions noted the unique
//! ones alone, as `unique`.
//!
//! One document a group keeps its namespaces: `{_id: "<group>/subscription", group, include: [pattern],
//! exclude: [pattern]}`.
//!
//! Another one says that the group has committed offsets of a prefix's topics: `{_id:
//! "<group>/begun/<prefix>", group, prefix, begun: true}`. If Kafka then has no offsets of the group,
//! they expired or were deleted.
//!
//! A rename is noted before it runs, with whether its collection was there (`existed`) and its UUID
//! at the target (`life`): after a crash a missing collection, or another one, then means that it
//! ran. Everything else may run twice.
//!
//! A note stays for as long as its command may come again, which is always where topics keep all
//! of their records. A member holds only a part of them in memory: see `held`.

mod begun;
mod held;
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
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::mongo::error_code;

use crate::replay::directive::DUPLICATE_KEY;
use crate::replay::plan::command::Withheld;

pub use crate::replay::catalog::incarnations::{Change, Incarnations, Ran, Resolved};
use held::Held;
pub use subscription::{Subscription, other_subscription};

const COLLECTION: &str = "catalog";

/// A command about to run, or that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// What it does to names.
    pub ran: Ran,
    /// Whether the collection was there before.
    pub existed: bool,
    /// Its UUID at the target, where it is to be moved and the target takes UUIDs.
    pub life: Option<Uuid>,
    /// What the target does not get, and what ended of that.
    pub withheld: Vec<Withheld>,
    /// Indexes that it makes and that can refuse a document.
    pub limiting: Vec<String>,
}

impl Note {
    /// A command that withholds nothing and makes no index.
    #[must_use]
    pub const fn new(ran: Ran) -> Self {
        Self {
            ran,
            existed: false,
            life: None,
            withheld: Vec::new(),
            limiting: Vec::new(),
        }
    }

    /// A command whose collection is gone: done, and no name changes.
    #[must_use]
    pub const fn passed_over(id: EntryId, ns: String, ui: Option<[u8; 16]>) -> Self {
        let change = Change::Other;
        Self::new(Ran { id, ns, ui, change })
    }
}

/// The catalog of one group in one target.
#[derive(Debug)]
pub struct Catalog {
    notes: Collection<Document>,
    group: String,
    held: Held,
}

impl Catalog {
    /// Reads what is there.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn open(client: &Client, group: &str) -> mongodb::error::Result<Self> {
        let catalog = Self {
            notes: collection(client, COLLECTION),
            group: group.to_owned(),
            held: Held::default(),
        };
        catalog.reload().await?;
        Ok(catalog)
    }

    /// The group whose commands it notes.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What is held of a source: who has which name now, and the latest commands.
    #[must_use]
    pub fn lives(&self, source: &str) -> Arc<Incarnations> {
        self.held.lives(source)
    }

    /// Whether any command of the group ran.
    fn has_commands(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether a command has run, as the target says now: a member of an earlier version may have
    /// taken its note back.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn learn_again(&self, source: &str, id: EntryId) -> mongodb::error::Result<bool> {
        self.held.forget(source, id);
        self.learn(source, id).await
    }

    /// The command that made an index of a collection of the target, after an entry if one is given.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn maker_of(
        &self,
        ns: &str,
        index: &str,
        after: Option<EntryId>,
    ) -> mongodb::error::Result<Option<(String, EntryId)>> {
        let noted = [doc! { "limiting": index }, doc! { "unique": index }];
        let filter = doc! { "group": &self.group, "done": true, "$or": noted };
        let mut found = self.notes.find(filter).await?;
        while let Some(note) = found.try_next().await? {
            let (source, ran) = read(&note).ok_or_else(|| unreadable(&note))?;
            if after.is_some_and(|after| ran.id <= after) {
                continue;
            }
            let lives = self.incarnations_at(&source, ran.id).await?;
            if lives.resolve(&ran.ns, ran.id, None) == Resolved::Live(ns) {
                return Ok(Some((source, ran.id)));
            }
        }
        Ok(None)
    }

    /// Commands, ends and names that this member holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.count()
    }

    /// Takes in a command that another member may have run; false if it has not run.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn learn(&self, source: &str, id: EntryId) -> mongodb::error::Result<bool> {
        if self.lives(source).is_done(id) {
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
        if !self.held.take(source, ran) {
            self.reload_from(source, id).await?;
        }
        Ok(true)
    }

    /// The other group that ran a command on this target, if there is one.
    ///
    /// # Errors
    /// What the driver says.
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

    /// Notes a rename before it runs, and returns whether its collection was there when it was
    /// noted first, and its UUID.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn begin(
        &self,
        source: &str,
        note: &Note,
    ) -> mongodb::error::Result<(bool, Option<Uuid>)> {
        let (id, read) = (self.id(source, note.ran.id), |noted: &Document| {
            let existed = noted.get_bool("existed").unwrap_or(false);
            (existed, uuid(noted, "life"))
        });
        if let Some(noted) = self.notes.find_one(doc! { "_id": &id }).await? {
            return Ok(read(&noted));
        }
        // Never over the note of a member that was faster: it may have run the command by now.
        let document = self.document(source, note, false);
        let Err(error) = self.notes.insert_one(document).await else {
            return Ok((note.existed, note.life));
        };
        let noted = match error_code(&error) {
            Some(DUPLICATE_KEY) => self.notes.find_one(doc! { "_id": id }).await?,
            _ => None,
        };
        noted.as_ref().map(read).ok_or(error)
    }

    /// Notes that a command ran.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn finish(&self, source: &str, note: Note) -> mongodb::error::Result<()> {
        let id = note.ran.id;
        self.write(source, &note, true).await?;
        if !self.held.take(source, note.ran) {
            self.reload_from(source, id).await?;
        }
        Ok(())
    }

    async fn write(&self, source: &str, note: &Note, done: bool) -> mongodb::error::Result<()> {
        let id = self.id(source, note.ran.id);
        self.notes
            .replace_one(doc! { "_id": id }, self.document(source, note, done))
            .upsert(true)
            .await?;
        Ok(())
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

/// A collection of the catalog's database: what is noted there outlives failovers.
pub fn collection(client: &Client, name: &str) -> Collection<Document> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let options = CollectionOptions::builder()
        .write_concern(majority)
        .read_concern(ReadConcern::majority())
        // A secondary may not have yet what was noted before the group went on.
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    client
        .database(CATALOG_DB)
        .collection_with_options(name, options)
}

/// What each command of a source withheld, in the order of the source.
pub type History = BTreeMap<EntryId, (Ran, Vec<Withheld>)>;

/// The commands that ran on a target, by group and source.
///
/// # Errors
/// What the driver says.
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
        history.insert(ran.id, (ran, withheld));
    }
    Ok(groups)
}

fn unreadable(note: &Document) -> mongodb::error::Error {
    let id = note.get("_id").map(ToString::to_string).unwrap_or_default();
    mongodb::error::Error::custom(format!(
        "{CATALOG_DB}.{COLLECTION} has a note that this version cannot read ({id}): use the \
         consumer that wrote it, or a newer one"
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
        document.insert("ui", Uuid::from_bytes(ui));
    }
    document.insert("existed", note.existed);
    if let Some(life) = note.life {
        document.insert("life", life);
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

/// Reads a note; `None` for one that a newer version wrote.
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
    let ui = uuid(note, "ui").map(Uuid::bytes);
    let ran = Ran {
        id: EntryId {
            ts: note.get_str("ts").ok()?.parse().ok()?,
            ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
        },
        ns: note.get_str("ns").ok()?.to_owned(),
        ui,
        change,
    };
    Some((note.get_str("source").ok()?.to_owned(), ran))
}

/// Reads what a note's command withheld; `None` for one that a newer version wrote.
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

/// The identity of an entry of that second.
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
            ui: Some([5; 16]),
            change: Change::Renamed {
                to: "shop.b".to_owned(),
            },
        };
        let note = Note {
            ran: ran.clone(),
            existed: true,
            life: Some(Uuid::from_bytes([6; 16])),
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
        assert_eq!(uuid(&document, "life"), note.life);
        assert_eq!(read_withheld(&document), Some(note.withheld));
        document.insert("change", "split");
        assert_eq!(read(&document), None);
        assert_eq!(read_withheld(&Document::new()), Some(Vec::new()));
        assert_eq!(read_withheld(&doc! { "withheld": ["t_1"] }), None);
    }
}
