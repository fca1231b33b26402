//! The answer to each command.

use std::time::Duration;

use bson::{Bson as Value, Document as Bson, Timestamp, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::position::Timestamp as At;

use super::events::{Place, high_water, next};
use super::server::{Changing, Role, Shared};
use crate::wire::MAX_MESSAGE_BYTES;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const UNAUTHORIZED: i32 = 13;
const CURSOR_NOT_FOUND: i32 = 43;
const COMMAND_NOT_FOUND: i32 = 59;
const STREAM_FATAL: i32 = 280;
const HISTORY_LOST: i32 = 286;
const UNKNOWN_OPTION: i32 = 40415;
const NAMESPACE: &str = "admin.$cmd.aggregate";

/// Answers a request.
pub(super) fn answer(shared: &Shared, body: Document<'_>) -> Result<Vec<u8>, Failure> {
    let command = Bson::from_reader(body.as_bytes())?;
    let name = command.keys().next().cloned().unwrap_or_default();
    if let Some(code) = take_failure(shared, &name) {
        if code == 0 {
            return Err("the connection ends on request".into());
        }
        return Ok(failure(code, "fails on request").to_vec()?);
    }
    let mut reply = match name.as_str() {
        "hello" | "isMaster" | "ismaster" => hello(shared),
        "ping" | "killCursors" | "endSessions" => doc! { "ok": 1.0 },
        "buildInfo" | "buildinfo" => {
            doc! { "versionArray": shared.role.version().to_vec(), "ok": 1.0 }
        }
        "aggregate" => open(shared, &command)?,
        "getMore" => return get_more(shared, &command),
        "find" => return find(shared, &command, body),
        "listCollections" | "listIndexes" => {
            doc! { "cursor": { "firstBatch": [], "id": 0_i64, "ns": NAMESPACE }, "ok": 1.0 }
        }
        _ => failure(COMMAND_NOT_FOUND, "no such command"),
    };
    reply.insert("operationTime", shared.lock().clock);
    Ok(reply.to_vec()?)
}

fn take_failure(shared: &Shared, name: &str) -> Option<i32> {
    let mut state = shared.lock();
    let (wanted, code) = state.failures.front()?.clone();
    (wanted == name).then(|| {
        state.failures.pop_front();
        code
    })
}

fn failure(code: i32, message: &str) -> Bson {
    doc! { "ok": 0.0, "errmsg": message, "code": code, "codeName": "Requested" }
}

fn hello(shared: &Shared) -> Bson {
    let [major, ..] = shared.role.version();
    let wire = match major {
        4 => 9,
        5 => 13,
        6 => 17,
        _ => 21,
    };
    let mut hello = doc! {
        "helloOk": true, "isWritablePrimary": true, "ismaster": true,
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "maxMessageSizeBytes": i32::try_from(MAX_MESSAGE_BYTES).unwrap_or(i32::MAX),
        "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": wire, "ok": 1.0,
    };
    match shared.role {
        Role::Mongos(_) => drop(hello.insert("msg", "isdbgrid")),
        Role::Primary(_) => hello.extend(doc! {
            "setName": "rs0", "hosts": [&shared.address], "primary": &shared.address,
            "me": &shared.address,
        }),
    }
    hello
}

/// A reply with documents, which need not be UTF-8.
struct Found<'f> {
    name: &'static str,
    id: i64,
    documents: &'f [&'f [u8]],
    token: Option<Bson>,
    clock: Timestamp,
}

impl Found<'_> {
    fn write(&self) -> Result<Vec<u8>, Failure> {
        let token = self.token.as_ref().map(Bson::to_vec).transpose()?;
        let mut bytes = Vec::new();
        let mut reply = DocumentBuilder::start(&mut bytes);
        reply.nested("cursor", kind::DOCUMENT, |cursor| {
            cursor.nested(self.name, kind::ARRAY, |list| {
                for (number, document) in self.documents.iter().enumerate() {
                    list.raw(&number.to_string(), kind::DOCUMENT, document);
                }
            });
            cursor.int64("id", self.id).str("ns", NAMESPACE);
            if let Some(token) = &token {
                cursor.raw("postBatchResumeToken", kind::DOCUMENT, token);
            }
        });
        let Timestamp { time, increment } = self.clock;
        let clock = At::new(time, increment);
        reply.raw("ok", kind::DOUBLE, &1.0_f64.to_le_bytes());
        reply.raw("operationTime", kind::TIMESTAMP, &clock.to_le_bytes());
        reply.finish();
        Ok(bytes)
    }
}

/// Opens a change stream.
fn open(shared: &Shared, command: &Bson) -> Result<Bson, Failure> {
    let pipeline = command.get_array("pipeline")?;
    let stage = pipeline.first().and_then(Value::as_document);
    let stage = stage.ok_or("no stage")?.get_document("$changeStream")?;
    let mut state = shared.lock();
    state.opened.push(stage.clone());
    let [major, ..] = shared.role.version();
    if major < 6 && (stage.contains_key("showExpandedEvents") || pipeline.len() > 1) {
        return Ok(failure(UNKNOWN_OPTION, "unknown field"));
    }
    let place = match (stage.get("startAfter"), stage.get("startAtOperationTime")) {
        (Some(Value::Document(token)), None) => shared.events.after(token),
        (None, Some(Value::Timestamp(time))) => shared.events.at_time(*time),
        _ => return Err("a stream without a start".into()),
    };
    let Place::At(place) = place else {
        return Ok(failure(STREAM_FATAL, "the resume token was not found"));
    };
    if place < state.first {
        return Ok(failure(
            HISTORY_LOST,
            "the resume point is no longer in the oplog",
        ));
    }
    let id = state.next_cursor;
    state.next_cursor += 1;
    state.cursors.insert(id, place);
    let token = match stage.get("startAfter") {
        Some(Value::Document(token)) => token.clone(),
        _ => high_water(start_time(shared, place, &state)),
    };
    let cursor = doc! {
        "firstBatch": [], "id": id, "ns": NAMESPACE, "postBatchResumeToken": token,
    };
    Ok(doc! { "cursor": cursor, "ok": 1.0 })
}

/// Returns the time of the event at a place, before which everything has been read.
fn start_time(shared: &Shared, place: usize, state: &Changing) -> Timestamp {
    match place < state.released {
        true => shared.events.time(place),
        false => state.clock,
    }
}

fn get_more(shared: &Shared, command: &Bson) -> Result<Vec<u8>, Failure> {
    let id = command.get_i64("getMore")?;
    let Some(place) = shared.lock().cursors.get(&id).copied() else {
        let failed = failure(CURSOR_NOT_FOUND, "the cursor was not found");
        return Ok(failed.to_vec()?);
    };
    let wait = command
        .get_i64("maxTimeMS")
        .or_else(|_| command.get_i32("maxTimeMS").map(i64::from));
    shared.wait_for(place, Duration::from_millis(wait?.unsigned_abs()));
    let mut state = shared.lock();
    let end = state.released.min(place.saturating_add(state.reply));
    let found = shared.events.all().get(place..end.max(place));
    let found = found.unwrap_or_default();
    // A cursor ends with the event that invalidates its stream.
    let until = found.iter().position(|event| event.is_invalidate);
    let is_over = until.is_some();
    let found = until.map_or(found, |last| &found[..=last]);
    let last = place + found.len();
    state.cursors.insert(id, last);
    state.replies += usize::from(!found.is_empty());
    if is_over {
        state.cursors.remove(&id);
    }
    let is_at_end = last == state.released && !is_over;
    let token = match (found.last(), is_at_end) {
        (_, true) => Some(high_water(state.clock)),
        (Some(event), false) => Some(event.token.clone()),
        (None, false) => None,
    };
    if found.is_empty() && state.ticks {
        state.clock = next(state.clock);
    }
    let documents: Vec<&[u8]> = found.iter().map(|event| event.bytes.as_slice()).collect();
    let found = Found {
        name: "nextBatch",
        id: if is_over { 0 } else { id },
        documents: &documents,
        token,
        clock: state.clock,
    };
    found.write()
}

/// Answers a lookup by `_id`, and queries on system collections.
fn find(shared: &Shared, command: &Bson, body: Document<'_>) -> Result<Vec<u8>, Failure> {
    let db = command.get_str("$db")?;
    if db == "local" {
        return Ok(failure(UNAUTHORIZED, "not authorized on local").to_vec()?);
    }
    let filter = body.get("filter")?.ok_or("no filter")?.document()?;
    let id = filter.get("_id")?.filter(|id| id.kind == kind::DOCUMENT);
    let wanted = id
        .map(|id| id.document()?.get("$eq"))
        .transpose()?
        .flatten();
    let mut found: Vec<&[u8]> = Vec::new();
    if let Some(wanted) = wanted {
        shared
            .lock()
            .found
            .push(command.get_document("filter")?.clone());
        let ns = format!("{db}.{}", command.get_str("find")?);
        for document in shared.documents.get(&ns).into_iter().flatten() {
            let id = Document::new(document)?.get("_id")?;
            let is_wanted = id.is_some_and(|id| (id.kind, id.value) == (wanted.kind, wanted.value));
            if is_wanted && !is_excluded(document, command)? {
                found.push(document);
            }
        }
    }
    let found = Found {
        name: "firstBatch",
        id: 0,
        documents: &found,
        token: None,
        clock: shared.lock().clock,
    };
    found.write()
}

/// Returns true if a document has the document key in `$nor`.
fn is_excluded(document: &[u8], command: &Bson) -> Result<bool, Failure> {
    let Ok(excluded) = command.get_document("filter")?.get_array("$nor") else {
        return Ok(false);
    };
    let key = excluded.first().and_then(Value::as_document);
    let key = key.ok_or("$nor without a document")?;
    let document = Bson::from_reader(document)?;
    Ok(key.iter().all(|(path, value)| {
        let mut parts = path.split('.');
        let first = parts.next().and_then(|part| document.get(part));
        let found = parts.try_fold(first, |found, part| Some(found?.as_document()?.get(part)));
        found.flatten() == Some(value)
    }))
}
