//! The answer to each command.

use std::time::Duration;

use bson::{Bson as Value, Document as Bson, Timestamp, doc};
use oplog_relay_core::document::Document;

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
        "getMore" => get_more(shared, &command)?,
        "find" => find(shared, &command)?,
        "listCollections" | "listIndexes" => batch("firstBatch", 0, Vec::new(), None),
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

fn batch(name: &str, id: i64, found: Vec<Bson>, token: Option<Bson>) -> Bson {
    let mut cursor = doc! { name: found, "id": id, "ns": "admin.$cmd.aggregate" };
    if let Some(token) = token {
        cursor.insert("postBatchResumeToken", token);
    }
    doc! { "cursor": cursor, "ok": 1.0 }
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
    Ok(batch("firstBatch", id, Vec::new(), Some(token)))
}

/// Returns the time of the event at a place, before which everything has been read.
fn start_time(shared: &Shared, place: usize, state: &Changing) -> Timestamp {
    match place < state.released {
        true => shared.events.time(place),
        false => state.clock,
    }
}

fn get_more(shared: &Shared, command: &Bson) -> Result<Bson, Failure> {
    let id = command.get_i64("getMore")?;
    let Some(place) = shared.lock().cursors.get(&id).copied() else {
        return Ok(failure(CURSOR_NOT_FOUND, "the cursor was not found"));
    };
    let wait = command
        .get_i64("maxTimeMS")
        .or_else(|_| command.get_i32("maxTimeMS").map(i64::from));
    shared.wait_for(place, Duration::from_millis(wait?.unsigned_abs()));
    let mut state = shared.lock();
    let end = state.released.min(place.saturating_add(state.reply));
    let wanted = place..end.max(place);
    let found = shared.events.all().get(wanted.clone()).unwrap_or_default();
    // A cursor ends with the event that invalidates its stream.
    let is_invalidate = |event: &Bson| {
        let operation = event.get_str("operationType");
        operation.is_ok_and(|operation| operation == "invalidate")
    };
    let until = found.iter().position(is_invalidate);
    let is_over = until.is_some();
    let found = until.map_or(found, |last| &found[..=last]);
    let last = place + found.len();
    state.cursors.insert(id, last);
    state.replies += usize::from(!found.is_empty());
    if is_over {
        state.cursors.remove(&id);
    }
    let is_at_end = last == state.released && !is_over;
    let token = match (found.is_empty(), is_at_end) {
        (_, true) => Some(high_water(state.clock)),
        (true, false) => None,
        (false, false) => shared.events.token(last - 1),
    };
    if found.is_empty() && state.ticks {
        state.clock = next(state.clock);
    }
    let id = if is_over { 0 } else { id };
    Ok(batch("nextBatch", id, found.to_vec(), token))
}

/// Answers a lookup by `_id`, and queries on system collections.
fn find(shared: &Shared, command: &Bson) -> Result<Bson, Failure> {
    let db = command.get_str("$db")?;
    if db == "local" {
        return Ok(failure(UNAUTHORIZED, "not authorized on local"));
    }
    let filter = command.get_document("filter").cloned().unwrap_or_default();
    let id = filter.get_document("_id").ok();
    let Some(wanted) = id.and_then(|id| id.get("$eq")) else {
        return Ok(batch("firstBatch", 0, Vec::new(), None));
    };
    shared.lock().found.push(filter.clone());
    let ns = format!("{db}.{}", command.get_str("find")?);
    let mut found = Vec::new();
    for document in shared.documents.get(&ns).into_iter().flatten() {
        let document = Bson::from_reader(document.as_slice())?;
        if document.get("_id") == Some(wanted) {
            found.push(document);
        }
    }
    Ok(batch("firstBatch", 0, found, None))
}
