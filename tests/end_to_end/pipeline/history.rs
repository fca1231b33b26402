//! Generated histories: a dump, and the documents that it must result in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{Bson, Document, Timestamp, doc};

/// Documents by namespace and by their `_id` as text.
pub(crate) type State = BTreeMap<String, BTreeMap<String, Document>>;

/// Entries in order, and the state that they result in.
pub(crate) struct History {
    pub(crate) entries: Vec<Document>,
    pub(crate) state: State,
    seconds: u32,
    random: u64,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: Vec::new(),
            state: State::new(),
            seconds: 1_700_000_000,
            random: seed | 1,
        }
    }

    /// Returns inserts that are spread over `collections` collections, with changes to a small
    /// collection between them.
    pub(crate) fn mixed(seed: u64, inserts: u32, collections: u32) -> Self {
        let mut history = Self::new(seed);
        for number in 0..inserts {
            let ns = format!("app.c{}", number % collections);
            let whole = doc! { "_id": id(number), "n": number, "text": "some text of a document" };
            history.insert(&ns, whole);
            if number % 50 == 0 {
                history.change();
            }
        }
        history
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Appends an entry; a hundred entries share a second.
    fn entry(&mut self, op: &str, ns: &str, o: Document, o2: Option<Document>) {
        let increment = self.entries.len() as u32 % 100 + 1;
        if increment == 1 {
            self.seconds += 1;
        }
        let ts = Timestamp {
            time: self.seconds,
            increment,
        };
        let wall = bson::DateTime::from_millis(i64::from(self.seconds) * 1000);
        let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2_i64, "op": op, "ns": ns, "wall": wall };
        entry.insert("o", o);
        if let Some(o2) = o2 {
            entry.insert("o2", o2);
        }
        self.entries.push(entry);
    }

    pub(crate) fn insert(&mut self, ns: &str, whole: Document) {
        let key = whole["_id"].to_string();
        self.state
            .entry(ns.to_owned())
            .or_default()
            .insert(key, whole.clone());
        self.entry("i", ns, whole, None);
    }

    /// Inserts, sets, replaces or deletes one document of the small collection.
    fn change(&mut self) {
        let (ns, number, value) = ("app.small", self.next(20) as u32, self.next(1000) as i32);
        let (id, key) = (id(number), id(number).to_string());
        let there = self.state.entry(ns.to_owned()).or_default().get_mut(&key);
        let o2 = Some(doc! { "_id": id.clone() });
        match (there, self.random % 3) {
            (None, _) => self.insert(ns, doc! { "_id": id, "value": value }),
            (Some(whole), 0) => {
                whole.insert("set", value);
                self.entry("u", ns, doc! { "$v": 1, "$set": { "set": value } }, o2);
            }
            (Some(whole), 1) => {
                *whole = doc! { "_id": id, "replaced": value };
                let whole = whole.clone();
                self.entry("u", ns, whole, o2);
            }
            (Some(_), _) => {
                self.state.entry(ns.to_owned()).or_default().remove(&key);
                self.entry("d", ns, doc! { "_id": id }, None);
            }
        }
    }

    /// Writes the entries in the format of mongodump.
    pub(crate) fn dump(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("oplog.bson");
        let mut bytes = Vec::new();
        for entry in &self.entries {
            entry.to_writer(&mut bytes)?;
        }
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Returns the second in the middle of the history.
    pub(crate) fn middle(&self) -> u32 {
        u32::midpoint(1_700_000_000, self.seconds)
    }
}

fn id(number: u32) -> Bson {
    if number.is_multiple_of(3) {
        return Bson::String(format!("key-{number}"));
    }
    let mut bytes = [0x65; 12];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Bson::ObjectId(ObjectId::from_bytes(bytes))
}
