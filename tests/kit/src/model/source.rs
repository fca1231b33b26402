//! The producer's queries other than plain `find`s: an oplog that is tailed, samples and sizes.

use bson::{Document as Bson, doc};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, Element};

use super::Model;
use super::command::{Answer, Call, done};
use super::failure::Failure;
use super::read::cursor_reply;
use super::record::{Collection, RecordId};

const OPLOG: (&str, &str) = ("local", "oplog.rs");

/// A cursor that waits for more entries at the end.
#[derive(Debug, Clone)]
pub(super) struct Tailing {
    db: String,
    name: String,
    filter: Vec<u8>,
    /// The last document that the cursor has examined.
    after: Option<RecordId>,
}

impl Model {
    /// Appends an entry to the oplog, and creates the oplog if it does not exist.
    ///
    /// # Errors
    /// Fails if the entry is not a document.
    pub fn log(&mut self, entry: &[u8]) -> Result<(), Failure> {
        let (db, name) = OPLOG;
        if self.collection(db, name).is_none() {
            let options = doc! { "capped": true, "size": i64::MAX };
            self.put(
                db,
                name,
                Collection::new(CollectionUuid([0x10; 16]), options)?,
            );
        }
        let oplog = self.existing(db, name)?;
        let oplog = oplog.ok_or_else(|| Failure::new(26, "no oplog"))?;
        // Oplog entries have no `_id`, but the model's collections have an index of it.
        let entry = Document::new(entry)?;
        let mut bytes = Vec::new();
        let mut stored = DocumentBuilder::start(&mut bytes);
        let mut ts = None;
        for element in entry.elements() {
            let element = element?;
            stored.element(element);
            ts = ts.or((element.name == b"ts").then_some(element));
        }
        if let Some(Element { kind, value, .. }) = ts {
            stored.raw("_id", kind, value);
        }
        stored.finish();
        oplog.insert("local.oplog.rs", bytes)
    }

    /// Returns true if there is a tailing cursor, and every tailing cursor has returned all entries of the
    /// oplog.
    #[must_use]
    pub fn is_tailed(&self) -> bool {
        let oplog = self.collection(OPLOG.0, OPLOG.1);
        let last = oplog.and_then(|oplog| oplog.records().last());
        let last = last.map(|(record, _)| record);
        let mut tailing = self.cursors.tailing.values().peekable();
        tailing.peek().is_some() && tailing.all(|tailing| tailing.after == last)
    }

    /// Returns the time of the newest entry.
    pub(super) fn newest(&self) -> Option<bson::Timestamp> {
        let oplog = self.collection(OPLOG.0, OPLOG.1)?;
        let (_, last) = oplog.records().last()?;
        let last = last.get("ts").ok()??;
        let [i0, i1, i2, i3, s0, s1, s2, s3] = last.fixed().ok()?;
        Some(bson::Timestamp {
            time: u32::from_le_bytes([s0, s1, s2, s3]),
            increment: u32::from_le_bytes([i0, i1, i2, i3]),
        })
    }

    /// Runs a `find` with `tailable`.
    pub(super) fn tail(&mut self, call: Call<'_>) -> Answer {
        let tailing = Tailing {
            db: call.db.to_owned(),
            name: call.collection()?.to_owned(),
            filter: call.document("filter")?.as_bytes().to_vec(),
            after: None,
        };
        let id = self.cursors.next_id();
        self.tail_on(id, tailing, "firstBatch")
    }

    /// Returns the documents that a tailing cursor has not returned yet. The cursor stays open.
    pub(super) fn tail_on(&mut self, id: i64, mut tailing: Tailing, batch: &str) -> Answer {
        let ns = format!("{}.{}", tailing.db, tailing.name);
        let mut found = Vec::new();
        if let Some(collection) = self.collection(&tailing.db, &tailing.name) {
            for record in collection.select(Document::new(&tailing.filter)?)? {
                if Some(record) > tailing.after {
                    let document = collection.document(record);
                    found.extend(document.map(|document| document.as_bytes().to_vec()));
                }
            }
            tailing.after = collection.records().last().map(|(record, _)| record);
        }
        self.cursors.tailing.insert(id, tailing);
        Ok(cursor_reply(batch, id, &ns, &found))
    }

    /// Runs an `aggregate` with `$sample`. The model returns evenly spaced documents, beginning with the
    /// first. `$project` is accepted, but has no effect.
    pub(super) fn aggregate(&mut self, call: Call<'_>) -> Answer {
        let (name, ns) = (call.collection()?, call.ns()?);
        let mut size = None;
        for stage in call.list("pipeline")? {
            let stage = stage
                .first()?
                .ok_or_else(|| Failure::new(40324, "no stage"))?;
            match stage.name {
                b"$sample" => size = stage.document()?.get("size")?,
                b"$project" => {}
                _ => return Err(Failure::new(40324, "the model only supports $sample")),
            }
        }
        let size = size.map(Element::integer).transpose()?.unwrap_or_default();
        let size = usize::try_from(size).unwrap_or_default().max(1);
        let mut found = Vec::new();
        if let Some(collection) = self.collection(call.db, name) {
            let all = collection.records().count();
            let step = (all / size).max(1);
            let some = collection.records().step_by(step).take(size);
            found.extend(some.map(|(_, document)| document.as_bytes().to_vec()));
        }
        Ok(cursor_reply("firstBatch", 0, &ns, &found))
    }

    pub(super) fn coll_stats(&mut self, call: Call<'_>) -> Answer {
        let mut sizes: Vec<i64> = Vec::new();
        if let Some(collection) = self.collection(call.db, call.collection()?) {
            let records = collection.records();
            sizes.extend(records.map(|(_, document)| document.as_bytes().len() as i64));
        }
        let stats: Bson = doc! { "count": sizes.len() as i64, "size": sizes.iter().sum::<i64>() };
        done(stats)
    }
}
