//! `find`, `getMore`, `killCursors`, and the lists of collections and databases.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use bson::spec::BinarySubtype;
use bson::{Binary, Document as Bson, doc};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::Model;
use super::collation::Collation;
use super::command::{Answer, Call, done};
use super::failure::Failure;
use super::filter;
use super::index::Index;
use super::namespace::BUCKETS;
use super::path::field;
use super::record::Collection;
use super::source::Tailing;
use crate::stub::project;

/// Default number of documents in a first batch.
const FIRST_BATCH: usize = 101;
/// Maximum number of bytes of the documents in a reply.
const REPLY_BYTES: usize = 16 << 20;

/// The open cursors, with the documents that each still has to return.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursors {
    last: i64,
    open: BTreeMap<i64, VecDeque<Vec<u8>>>,
    /// The tailable cursors that wait for more entries.
    pub(super) tailing: BTreeMap<i64, Tailing>,
    /// The read concern of the last `find` that is not a tail.
    concern: Option<Bson>,
}

impl Cursors {
    pub(super) fn next_id(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    /// Returns the next documents, and the cursor's id if there are more.
    fn batch(
        &mut self,
        id: Option<i64>,
        mut rest: VecDeque<Vec<u8>>,
        most: usize,
    ) -> (Vec<Vec<u8>>, i64) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = rest.front() {
            bytes += next.len();
            if batch.len() >= most || (bytes > REPLY_BYTES && !batch.is_empty()) {
                break;
            }
            batch.extend(rest.pop_front());
        }
        if rest.is_empty() {
            return (batch, 0);
        }
        let id = id.unwrap_or_else(|| self.next_id());
        self.open.insert(id, rest);
        (batch, id)
    }
}

/// Returns the fields of an inclusive projection; `_id` stays.
fn projected(document: Document<'_>, projection: &Bson) -> Result<Vec<u8>, Failure> {
    if projection.is_empty() {
        return Ok(document.as_bytes().to_vec());
    }
    let mut projection = projection.clone();
    projection.insert("_id", 1);
    if !projection.keys().any(|path| path.contains('.')) {
        // The bytes are copied unchanged, because a value may contain bytes that are not UTF-8.
        let mut out = Vec::new();
        let mut left = DocumentBuilder::start(&mut out);
        for element in document.elements() {
            let element = element?;
            let name = std::str::from_utf8(element.name);
            if name.is_ok_and(|name| projection.contains_key(name)) {
                left.element(element);
            }
        }
        left.finish();
        return Ok(out);
    }
    let document = Bson::from_reader(document.as_bytes());
    let left = document.and_then(|document| project(document, &projection).to_vec());
    left.map_err(|error| Failure::new(2, error.to_string()))
}

impl Model {
    pub(super) fn find(&mut self, call: Call<'_>) -> Answer {
        let (name, ns) = (call.collection()?, call.ns()?);
        if self.view(call.db, name).is_some() {
            return Err(Failure::new(
                238,
                format!("the model does not support reading view {ns}"),
            ));
        }
        if call.flag("tailable")? {
            return self.tail(call);
        }
        let concern = Bson::from_reader(call.document("readConcern")?.as_bytes());
        self.cursors.concern = concern.ok();
        let mut found: Vec<Document<'_>> = Vec::new();
        for shard in self.shards() {
            let Some(collection) = shard.collection(call.db, name) else {
                continue;
            };
            let records = collection.select(call.document("filter")?)?;
            found.extend(records.iter().filter_map(|id| collection.document(*id)));
        }
        sort(&mut found, call.document("sort")?)?;
        let limit = call.count("limit")?.filter(|limit| *limit > 0);
        let found = found.into_iter().skip(call.count("skip")?.unwrap_or(0));
        let found = found.take(limit.unwrap_or(usize::MAX));
        let projection = Bson::from_reader(call.document("projection")?.as_bytes());
        let projection = projection.map_err(|error| Failure::new(2, error.to_string()))?;
        let found = found.map(|document| projected(document, &projection));
        let found = found.collect::<Result<_, _>>()?;
        let most = call.count("batchSize")?.unwrap_or(FIRST_BATCH);
        let (batch, id) = self.cursors.batch(None, found, most);
        if call.flag("singleBatch")? {
            self.cursors.open.remove(&id);
            return Ok(cursor_reply("firstBatch", 0, &ns, &batch));
        }
        Ok(cursor_reply("firstBatch", id, &ns, &batch))
    }

    /// Returns the read concern of the last `find` that is not a tail.
    #[must_use]
    pub fn last_read_concern(&self) -> Option<Bson> {
        self.cursors.concern.clone()
    }

    /// Counts all documents; the model does not support a filter.
    pub(super) fn count(&mut self, call: Call<'_>) -> Answer {
        if !call.document("query")?.is_empty() {
            return Err(Failure::new(238, "the model counts whole collections"));
        }
        let name = call.collection()?;
        let collections = self
            .shards()
            .filter_map(|shard| shard.collection(call.db, name));
        let records: usize = collections
            .map(|collection| collection.records().count())
            .sum();
        done(doc! { "n": i64::try_from(records).unwrap_or(i64::MAX) })
    }

    pub(super) fn get_more(&mut self, call: Call<'_>) -> Answer {
        let id = call.subject.integer()?;
        if let Some(tailing) = self.cursors.tailing.remove(&id) {
            return self.tail_on(id, tailing, "nextBatch");
        }
        let Some(rest) = self.cursors.open.remove(&id) else {
            return Err(Failure::new(43, format!("cursor id {id} not found")));
        };
        let collection = call.get("collection")?;
        let collection = collection.ok_or_else(|| Failure::missing_field("getMore.collection"))?;
        let ns = format!("{}.{}", call.db, collection.str()?);
        let most = call.count("batchSize")?.filter(|most| *most > 0);
        let (batch, id) = self
            .cursors
            .batch(Some(id), rest, most.unwrap_or(usize::MAX));
        Ok(cursor_reply("nextBatch", id, &ns, &batch))
    }

    pub(super) fn kill_cursors(&mut self, call: Call<'_>) -> Answer {
        let (mut killed, mut not_found) = (Vec::new(), Vec::new());
        for id in call.document("cursors")?.elements() {
            let id = id?.integer()?;
            let tailed = self.cursors.tailing.remove(&id).is_some();
            match self.cursors.open.remove(&id) {
                _ if tailed => killed.push(id),
                Some(_) => killed.push(id),
                None => not_found.push(id),
            }
        }
        done(doc! { "cursorsKilled": killed, "cursorsNotFound": not_found })
    }

    pub(super) fn list_databases(&mut self, call: Call<'_>) -> Answer {
        let mut found = Vec::new();
        for name in self.databases.keys() {
            let database = doc! { "name": name, "empty": false };
            if fits(&database, call.document("filter")?)? {
                found.push(database);
            }
        }
        done(doc! { "databases": found })
    }

    pub(super) fn list_collections(&mut self, call: Call<'_>) -> Answer {
        let name_only = call.flag("nameOnly")?;
        let mut found = Vec::new();
        for mut collection in self.listed(call.db) {
            if !fits(&collection, call.document("filter")?)? {
                continue;
            }
            if name_only {
                let fields = collection.into_iter();
                let fields = fields.filter(|(name, _)| name == "name" || name == "type");
                collection = fields.collect();
            }
            found.push(collection);
        }
        let ns = format!("{}.$cmd.listCollections", call.db);
        done(doc! { "cursor": { "id": 0_i64, "ns": ns, "firstBatch": found } })
    }

    /// Returns the output of `listCollections`, in order of name.
    pub(super) fn listed(&self, db: &str) -> Vec<Bson> {
        let Some(database) = self.databases.get(db) else {
            return Vec::new();
        };
        let collections = database.iter();
        let mut listed: Vec<Bson> = collections
            .map(|(name, collection)| shown(name, collection))
            .collect();
        let views = database.get(super::namespace::VIEWS);
        for (_, view) in views.iter().flat_map(|views| views.records()) {
            let Ok(mut options) = Bson::from_reader(view.as_bytes()) else {
                continue;
            };
            let id = options.remove("_id");
            let id = id.as_ref().and_then(|id| id.as_str()).unwrap_or_default();
            let name = id.split_once('.').map_or(id, |(_, name)| name);
            let on = options.get_str("viewOn").unwrap_or_default();
            let mut kind = "view";
            if let Some(buckets) = database.get(on).filter(|_| on.starts_with(BUCKETS)) {
                kind = "timeseries";
                options = buckets.options.clone();
                options.remove("validator");
                options.remove("clusteredIndex");
            }
            listed.push(doc! {
                "name": name, "type": kind, "options": options, "info": { "readOnly": kind == "view" },
            });
        }
        listed.sort_by(|one, other| one.get_str("name").ok().cmp(&other.get_str("name").ok()));
        listed
    }
}

fn shown(name: &str, collection: &Collection) -> Bson {
    let uuid = Binary {
        subtype: BinarySubtype::Uuid,
        bytes: collection.uuid.0.to_vec(),
    };
    let mut shown = doc! {
        "name": name,
        "type": "collection",
        "options": collection.options.clone(),
        "info": { "readOnly": false, "uuid": uuid },
    };
    let id_index = collection
        .listed_indexes()
        .next()
        .filter(|index| index.name() == "_id_");
    if let Some(spec) = id_index.map(Index::spec) {
        shown.insert("idIndex", spec.clone());
    }
    shown
}

fn fits(document: &Bson, wanted: Document<'_>) -> Result<bool, Failure> {
    let document = document.to_vec()?;
    filter::matches(Document::new(&document)?, wanted, &Collation::default())
}

/// Sorts by top-level fields, or reverses the order for `{$natural: -1}`.
fn sort(documents: &mut [Document<'_>], by: Document<'_>) -> Result<(), Failure> {
    let mut fields = Vec::new();
    for element in by.elements() {
        let element = element?;
        let is_descending = element.integer()? < 0;
        if element.name == b"$natural" {
            if is_descending {
                documents.reverse();
            }
            return Ok(());
        }
        fields.push((element.name, is_descending));
    }
    documents.sort_by(|one, other| {
        let compared = fields.iter().map(|(name, is_descending)| {
            let order = compare_values(value(*one, name), value(*other, name));
            if *is_descending {
                order.reverse()
            } else {
                order
            }
        });
        let mut unequal = compared.filter(|order| order.is_ne());
        unequal.next().unwrap_or(Ordering::Equal)
    });
    Ok(())
}

/// Returns the value of a field; a missing field is sorted as null.
fn value<'a>(document: Document<'a>, name: &'a [u8]) -> Element<'a> {
    field(document, name).unwrap_or(Element {
        name,
        kind: kind::NULL,
        value: &[],
    })
}

/// Builds a reply from the stored bytes, which may be documents that typed BSON cannot represent.
pub(super) fn cursor_reply(name: &str, id: i64, ns: &str, batch: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = DocumentBuilder::start(&mut out);
    reply.nested("cursor", kind::DOCUMENT, |cursor| {
        cursor.int64("id", id).str("ns", ns);
        cursor.nested(name, kind::ARRAY, |list| {
            for (index, document) in batch.iter().enumerate() {
                list.raw(&index.to_string(), kind::DOCUMENT, document);
            }
        });
    });
    reply.raw("ok", kind::DOUBLE, &1.0_f64.to_le_bytes());
    reply.finish();
    out
}
