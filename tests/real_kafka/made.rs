//! A handmade history, with the UUIDs of its collections.

use anyhow::{Context, Result};
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Timestamp, doc};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::Model;

/// The second of the first entry. Every entry has its own second.
pub(crate) const BEGIN: u32 = 1_700_000_000;

fn uuid(uuid: &CollectionUuid) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Uuid,
        bytes: uuid.0.to_vec(),
    })
}

/// Returns the UUID of the collection that a round of `$out` creates.
fn made_in(round: u32) -> CollectionUuid {
    let mut bytes = [0xee; 16];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    CollectionUuid(bytes)
}

/// The entries of a history, in order.
#[derive(Debug, Default)]
pub(crate) struct Made {
    entries: Vec<Document>,
}

impl Made {
    /// Returns the second of the next entry.
    pub(crate) fn next_second(&self) -> Result<u32> {
        Ok(BEGIN + u32::try_from(self.entries.len())?)
    }

    fn push(&mut self, op: &str, ns: &str, ui: u8, more: Document) -> Result<()> {
        self.push_of(op, ns, &CollectionUuid([ui; 16]), more)
    }

    fn push_of(&mut self, op: &str, ns: &str, ui: &CollectionUuid, more: Document) -> Result<()> {
        let time = self.next_second()?;
        let ts = Timestamp { time, increment: 1 };
        let wall = DateTime::from_millis(i64::from(time) * 1000);
        let ui = uuid(ui);
        let mut entry =
            doc! { "ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": ns, "ui": ui, "wall": wall };
        entry.extend(more);
        self.entries.push(entry);
        Ok(())
    }

    pub(crate) fn insert(&mut self, ns: &str, ui: u8, id: i32) -> Result<()> {
        self.push(
            "i",
            ns,
            ui,
            doc! { "o": { "_id": id, "ui": i32::from(ui) } },
        )
    }

    pub(crate) fn insert_with(&mut self, ns: &str, ui: u8, o: Document) -> Result<()> {
        self.push("i", ns, ui, doc! { "o": o })
    }

    pub(crate) fn set(&mut self, ns: &str, ui: u8, id: i32, set: Document) -> Result<()> {
        self.update(ns, ui, id, doc! { "$v": 1, "$set": set })
    }

    pub(crate) fn update(&mut self, ns: &str, ui: u8, id: i32, o: Document) -> Result<()> {
        self.push("u", ns, ui, doc! { "o": o, "o2": { "_id": id } })
    }

    pub(crate) fn delete(&mut self, ns: &str, ui: u8, id: i32) -> Result<()> {
        self.push("d", ns, ui, doc! { "o": { "_id": id } })
    }

    pub(crate) fn command(&mut self, ns: &str, ui: u8, o: Document) -> Result<()> {
        let (db, _) = ns.split_once('.').context(ns.to_owned())?;
        self.push("c", &format!("{db}.$cmd"), ui, doc! { "o": o })
    }

    pub(crate) fn create(&mut self, ns: &str, ui: u8) -> Result<()> {
        let (_, name) = ns.split_once('.').context(ns.to_owned())?;
        self.command(ns, ui, doc! { "create": name })
    }

    pub(crate) fn drop(&mut self, ns: &str, ui: u8) -> Result<()> {
        let (_, name) = ns.split_once('.').context(ns.to_owned())?;
        self.command(ns, ui, doc! { "drop": name })
    }

    pub(crate) fn rename(&mut self, ns: &str, ui: u8, to: &str) -> Result<()> {
        self.command(ns, ui, doc! { "renameCollection": ns, "to": to })
    }

    /// Adds one of many rounds of `$out` into a collection, which drops the collection of the round
    /// before.
    pub(crate) fn out(&mut self, to: &str, round: u32, documents: i32) -> Result<()> {
        let (db, _) = to.split_once('.').context(to.to_owned())?;
        let (name, ui) = (format!("tmp.agg_out.{round}"), made_in(round));
        let (commands, staged) = (format!("{db}.$cmd"), format!("{db}.{name}"));
        self.push_of("c", &commands, &ui, doc! { "o": { "create": name } })?;
        for id in 0..documents {
            let o = doc! { "_id": id, "round": i64::from(round) };
            self.push_of("i", &staged, &ui, doc! { "o": o })?;
        }
        let mut rename = doc! { "renameCollection": staged, "to": to };
        if let Some(before) = round.checked_sub(1) {
            rename.insert("dropTarget", uuid(&made_in(before)));
        }
        self.push_of("c", &commands, &ui, doc! { "o": rename })
    }

    /// Removes the UUIDs, which old servers did not write.
    pub(crate) fn without_uuids(mut self) -> Made {
        for entry in &mut self.entries {
            entry.remove("ui");
        }
        self
    }

    /// Returns the result of applying the entries one after the other.
    pub(crate) fn expected(&self) -> Result<Model> {
        let (planner, mut model) = (Planner::new(1), Model::default());
        for entry in &self.entries {
            let bytes = entry.to_vec()?;
            let ts = Entry::parse(oplog_relay_core::document::Document::new(&bytes)?)?.ts;
            model.replay(&planner, &[(EntryId { ts, ord: 0 }, bytes)])?;
        }
        Ok(model)
    }

    /// Returns the entries as a dump.
    pub(crate) fn oplog(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            bytes.extend(entry.to_vec()?);
        }
        Ok(bytes)
    }
}

/// Returns a history with a command between the changes of documents.
pub(crate) fn mixed() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..20 {
        made.insert("s.a", 1, id)?;
        made.set("s.a", 1, id, doc! { "n": id })?;
    }
    made.command(
        "s.a",
        1,
        doc! { "createIndexes": "a", "v": 2, "key": { "n": 1 }, "name": "n_1" },
    )?;
    for id in 0..5 {
        made.delete("s.a", 1, id)?;
    }
    Ok(made)
}
