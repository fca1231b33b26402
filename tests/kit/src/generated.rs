//! A server with one collection, `app.made`, with any number of documents. It generates them when
//! they are read and stores none of them, so that a test measures the client's memory.
//!
//! Documents are `{_id: <n>, n: <n>, text: …}` for n from 0 on. Some may be missing, changed or
//! added; writes by `_id` change these exceptions. The indexes are `n_1` and the one of `_id`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::{Bson, Document as BsonDocument, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};

use crate::wire::{Listener, MAX_MESSAGE_BYTES, Reply, Request, Service};

const NS: &str = "app.made";
/// Approximate bytes of a reply.
const REPLY: usize = 4 << 20;
const TEXT: &str = "some text that makes a document of a usual size, nothing more";

/// The documents, and the exceptions to their generated content.
#[derive(Debug, Default)]
pub struct Generated {
    /// Number of generated documents.
    pub count: i64,
    /// Numbers of the documents that are missing.
    pub missing: BTreeSet<i64>,
    /// Documents that have another text, and documents outside of the generated range.
    pub other: BTreeMap<i64, String>,
    /// Indexes other than the one of `_id`.
    pub indexes: BTreeSet<String>,
    cursors: HashMap<i64, (i64, i64)>,
    address: String,
    last: i64,
    /// Number of documents returned so far.
    pub read: u64,
}

impl Generated {
    /// Returns that many documents, and the index `n_1`.
    #[must_use]
    pub fn of(count: i64) -> Generated {
        Generated {
            count,
            indexes: ["n_1".to_owned()].into(),
            ..Generated::default()
        }
    }

    /// Returns the first number at or after `from` whose document exists.
    fn next(&self, mut from: i64, end: i64) -> Option<i64> {
        while from < end {
            if (0..self.count).contains(&from) {
                if !self.missing.contains(&from) {
                    return Some(from);
                }
                from += 1;
                continue;
            }
            let limit = if from < 0 { end.min(0) } else { end };
            let added = self.other.range(from..limit).next();
            if let Some((added, _)) = added {
                return Some(*added);
            }
            if from >= 0 {
                return None;
            }
            from = 0;
        }
        None
    }

    fn document(&self, number: i64) -> Vec<u8> {
        let text = self.other.get(&number).map_or(TEXT, String::as_str);
        let mut out = Vec::with_capacity(128);
        let mut document = DocumentBuilder::start(&mut out);
        document
            .int64("_id", number)
            .int64("n", number)
            .str("text", text);
        document.finish();
        out
    }

    fn all(&self) -> i64 {
        let added = self.other.keys().filter(|n| !(0..self.count).contains(*n));
        self.count - self.missing.len() as i64 + added.count() as i64
    }
}

/// A server of generated documents on a free port; it ends when dropped.
#[derive(Debug)]
pub struct GeneratedServer {
    shared: std::sync::Arc<Shared>,
    listener: Listener,
}

#[derive(Debug)]
struct Shared(Mutex<Generated>);

impl GeneratedServer {
    /// Serves these documents.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(mut made: Generated) -> io::Result<GeneratedServer> {
        let (listener, shared) = Listener::start(|address, _| {
            made.address = address.to_string();
            Shared(Mutex::new(made))
        })?;
        Ok(GeneratedServer { shared, listener })
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// Locks the documents: no command changes them while the guard lives.
    pub fn made(&self) -> MutexGuard<'_, Generated> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service for Shared {
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()> {
        let mut body =
            BsonDocument::from_reader(request.body.as_bytes()).map_err(io::Error::other)?;
        for sequence in &request.sequences {
            let documents = sequence.documents()?.into_iter();
            let documents = documents
                .map(|document| BsonDocument::from_reader(document.as_bytes()).map(Bson::Document));
            let list: Result<Vec<Bson>, _> = documents.collect();
            let name = String::from_utf8_lossy(sequence.name).into_owned();
            body.insert(name, list.map_err(io::Error::other)?);
        }
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = made.answer(&body).map_err(io::Error::other)?;
        drop(made);
        reply.send(&[&answer])
    }
}

impl Generated {
    fn answer(&mut self, body: &BsonDocument) -> Result<Vec<u8>, bson::error::Error> {
        let name = body.keys().next().map_or("", String::as_str);
        let is_ours = body.get_str(name).is_ok_and(|name| name == "made");
        let listed = |documents: Vec<BsonDocument>| {
            doc! { "cursor": { "id": 0_i64, "ns": NS, "firstBatch": documents }, "ok": 1.0 }
        };
        let reply = match name {
            "hello" | "isMaster" | "ismaster" => self.hello(),
            "ping" | "endSessions" | "buildInfo" => doc! { "version": "7.0.0", "ok": 1.0 },
            "listDatabases" => doc! { "databases": [{ "name": "app" }], "ok": 1.0 },
            "listCollections" if body.get_str("$db").is_ok_and(|db| db == "app") => listed(vec![
                doc! { "name": "made", "type": "collection", "options": {} },
            ]),
            "listCollections" => listed(Vec::new()),
            "listIndexes" => {
                let id = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
                let made = self.indexes.iter();
                let made = made.map(|name| doc! { "v": 2, "key": { "n": 1 }, "name": name });
                listed(std::iter::once(id).chain(made).collect())
            }
            "count" => doc! { "n": self.all(), "ok": 1.0 },
            "find" if !is_ours => listed(Vec::new()),
            "find" => return Ok(self.find(body)),
            "getMore" => {
                let id = body.get_i64(name).unwrap_or_default();
                let (next, end) = self.cursors.remove(&id).unwrap_or((0, 0));
                return Ok(self.batch("nextBatch", next, end, i64::MAX, false));
            }
            "killCursors" => doc! { "ok": 1.0 },
            "insert" | "update" | "delete" => self.write(name, body),
            "createIndexes" => {
                for index in body.get_array("indexes").into_iter().flatten() {
                    let name = index
                        .as_document()
                        .and_then(|index| index.get_str("name").ok());
                    self.indexes.extend(name.map(str::to_owned));
                }
                doc! { "ok": 1.0 }
            }
            _ => doc! { "ok": 0.0, "code": 59, "errmsg": format!("no such command: {name}") },
        };
        reply.to_vec()
    }

    fn hello(&self) -> BsonDocument {
        doc! {
            "helloOk": true, "isWritablePrimary": true, "ismaster": true, "setName": "made",
            "hosts": [&self.address], "primary": &self.address, "me": &self.address,
            "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": MAX_MESSAGE_BYTES as i32,
            "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 21, "ok": 1.0,
        }
    }

    fn find(&mut self, body: &BsonDocument) -> Vec<u8> {
        let filter = body.get_document("filter").cloned().unwrap_or_default();
        let number = |name: &str| {
            let number = body.get(name);
            number.and_then(|n| n.as_i64().or(n.as_i32().map(i64::from)))
        };
        let bounds = filter.get_document("_id").cloned().unwrap_or_default();
        if let Ok(wanted) = bounds.get_array("$in") {
            let found = wanted.iter().filter_map(Bson::as_i64);
            let found = found.filter(|n| self.next(*n, *n + 1) == Some(*n));
            let documents: Vec<Vec<u8>> = found.map(|n| self.document(n)).collect();
            return cursor_reply("firstBatch", 0, &documents);
        }
        let bound = |name: &str, absent: i64| match bounds.get(name) {
            None => Some(absent),
            Some(Bson::Double(_)) => Some(i64::MIN),
            Some(Bson::Int64(n)) => Some(*n),
            Some(_) => None,
        };
        let (low, high) = (bound("$gte", i64::MIN), bound("$lt", i64::MAX));
        let (Some(mut low), Some(high)) = (low, high) else {
            return cursor_reply("firstBatch", 0, &[]);
        };
        if filter.contains_key("$nor") {
            return cursor_reply("firstBatch", 0, &[]);
        }
        for _ in 0..number("skip").unwrap_or(0) {
            low = self.next(low, high).map_or(high, |found| found + 1);
        }
        let limit = number("limit").filter(|limit| *limit > 0);
        self.batch(
            "firstBatch",
            low,
            high,
            limit.unwrap_or(i64::MAX),
            limit.is_some(),
        )
    }

    fn batch(&mut self, name: &str, low: i64, high: i64, most: i64, only: bool) -> Vec<u8> {
        let (mut next, mut bytes, mut documents) = (low, 0, Vec::new());
        let mut more = false;
        while let Some(found) = self.next(next, high) {
            if bytes >= REPLY || documents.len() as i64 >= most {
                more = !only;
                break;
            }
            let document = self.document(found);
            bytes += document.len();
            documents.push(document);
            next = found + 1;
        }
        self.read += documents.len() as u64;
        let mut id = 0;
        if more {
            self.last += 1;
            id = self.last;
            self.cursors.insert(id, (next, high));
        }
        cursor_reply(name, id, &documents)
    }

    fn write(&mut self, name: &str, body: &BsonDocument) -> BsonDocument {
        let list = ["documents", "updates", "deletes"];
        let list = list.iter().find_map(|list| body.get_array(list).ok());
        let statements = list.map(Vec::as_slice).unwrap_or_default();
        for statement in statements.iter().filter_map(Bson::as_document) {
            let whole = statement.get_document("u").unwrap_or(statement);
            let query = statement.get_document("q").unwrap_or(statement);
            let Ok(number) = query.get_i64("_id") else {
                continue;
            };
            self.other.remove(&number);
            if name == "delete" {
                self.missing
                    .extend((0..self.count).contains(&number).then_some(number));
                continue;
            }
            self.missing.remove(&number);
            let text = whole.get_str("text").unwrap_or_default();
            if text != TEXT || !(0..self.count).contains(&number) {
                self.other.insert(number, text.to_owned());
            }
        }
        doc! { "n": statements.len() as i32, "nModified": statements.len() as i32, "ok": 1.0 }
    }
}

fn cursor_reply(name: &str, id: i64, documents: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(REPLY + (1 << 16));
    let mut reply = DocumentBuilder::start(&mut out);
    reply.nested("cursor", kind::DOCUMENT, |cursor| {
        cursor.int64("id", id).str("ns", NS);
        cursor.nested(name, kind::ARRAY, |list| {
            for (index, document) in documents.iter().enumerate() {
                let document = Document::new(document).expect("a document");
                list.document(&index.to_string(), document);
            }
        });
    });
    reply.raw("ok", kind::DOUBLE, &1.0_f64.to_le_bytes());
    reply.finish();
    out
}
