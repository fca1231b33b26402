//! The answer to each command.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use bson::{Document as Bson, Timestamp as BsonTimestamp, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed};
use oplog_relay_core::position::Timestamp;

use super::collection;
use super::cursor::Cursor;
use super::entry::NAMESPACE;
use super::fault::Fault;
use super::point::{at, project};
use super::server::Shared;
use crate::wire::{MAX_MESSAGE_BYTES, Request};

const OPLOG: &str = "local.oplog.rs";
/// Default number of entries in a first batch.
pub(super) const FIRST_BATCH: u64 = 101;
/// Default time that a tailable cursor waits at the end.
const AWAIT: Duration = Duration::from_secs(1);
const CURSOR_NOT_FOUND: i32 = 43;
const COMMAND_NOT_FOUND: i32 = 59;

/// An answer: a document in up to three parts, the middle one possibly a slice of the prepared
/// oplog.
#[derive(Debug)]
pub(super) struct Answer<'s> {
    head: Vec<u8>,
    elements: Cow<'s, [u8]>,
    tail: Vec<u8>,
}

impl Answer<'_> {
    /// Returns the parts in order.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        [&self.head, &self.elements, &self.tail]
    }

    pub(super) fn whole(document: &Bson) -> io::Result<Answer<'static>> {
        Ok(Answer {
            head: document.to_vec().map_err(io::Error::other)?,
            elements: Cow::Borrowed(&[]),
            tail: Vec::new(),
        })
    }

    fn of_bytes(head: Vec<u8>) -> Answer<'static> {
        Answer {
            head,
            elements: Cow::Borrowed(&[]),
            tail: Vec::new(),
        }
    }

    /// Returns a cursor's reply: `{cursor: {<name>: [elements], id, ns}, ok: 1}`.
    pub(super) fn batch<'s>(
        name: &str,
        id: i64,
        ns: &str,
        elements: impl Into<Cow<'s, [u8]>>,
    ) -> Answer<'s> {
        let elements = elements.into();
        let mut rest = Vec::new();
        let mut builder = DocumentBuilder::start(&mut rest);
        builder.int64("id", id).str("ns", ns);
        builder.finish();
        // The end of the array, then the fields after it with the end of `cursor`.
        let mut tail = vec![0];
        tail.extend_from_slice(&rest[4..]);
        let array = 4 + elements.len() + 1;
        let cursor = 4 + 1 + name.len() + 1 + array + (rest.len() - 4);
        tail.extend_from_slice(b"\x01ok\0");
        tail.extend_from_slice(&1.0_f64.to_le_bytes());
        tail.push(0);
        let whole = 4 + 8 + cursor + 12 + 1;
        let mut head = Vec::new();
        let length = |bytes: usize| i32::try_from(bytes).unwrap_or(-1).to_le_bytes();
        head.extend_from_slice(&length(whole));
        head.extend_from_slice(b"\x03cursor\0");
        head.extend_from_slice(&length(cursor));
        head.push(4);
        head.extend_from_slice(name.as_bytes());
        head.push(0);
        head.extend_from_slice(&length(array));
        Answer {
            head,
            elements,
            tail,
        }
    }
}

/// Answers a request.
pub(super) fn answer<'s>(shared: &'s Shared, request: &Request<'_>) -> io::Result<Answer<'s>> {
    let body = request.body;
    let command = body.first().map_err(io::Error::other)?;
    let command = command.ok_or_else(|| io::Error::other("an empty command"))?;
    let of_catalog = shared.timing.as_ref().and_then(|it| it.catalog(request));
    if let Some(reply) = of_catalog {
        return reply.map(Answer::of_bytes);
    }
    match command.name {
        b"hello" | b"isMaster" | b"ismaster" => Answer::whole(&hello(shared)),
        b"ping" | b"killCursors" | b"endSessions" | b"create" | b"createIndexes"
        | b"dropDatabase" => Answer::whole(&doc! { "ok": 1.0 }),
        b"serverStatus" => Answer::whole(&status(shared)),
        b"buildInfo" | b"buildinfo" => {
            Answer::whole(&doc! { "version": "7.0.0", "versionArray": [7, 0, 0, 0], "ok": 1.0 })
        }
        b"listDatabases" | b"listCollections" | b"listIndexes" | b"collStats" | b"aggregate" => {
            collection::answer(shared, body, command).map_err(io::Error::other)
        }
        b"find" => find(shared, body, command),
        b"getMore" => get_more(shared, body, command),
        b"insert" | b"update" | b"delete" => write(shared, request, command.name),
        name => {
            let name = String::from_utf8_lossy(name);
            let message = format!("no such command: '{name}'");
            Answer::whole(&failure(COMMAND_NOT_FOUND, "CommandNotFound", &message))
        }
    }
}

fn failure(code: i32, name: &str, message: &str) -> Bson {
    doc! { "ok": 0.0, "errmsg": message, "code": code, "codeName": name }
}

/// Returns the `opcounters` of `serverStatus`.
fn status(shared: &Shared) -> Bson {
    let [insert, update, delete] = shared.written.counts().map(u64::cast_signed);
    let mut status =
        doc! { "opcounters": { "insert": insert, "update": update, "delete": delete }, "ok": 1.0 };
    if let Some(timing) = &shared.timing {
        status.insert("timing", timing.report());
    }
    status
}

fn hello(shared: &Shared) -> Bson {
    let newest = shared.len().checked_sub(1);
    let newest = newest.map_or_else(Timestamp::default, |number| shared.oplog.time(number));
    let ts = BsonTimestamp {
        time: newest.seconds,
        increment: newest.increment,
    };
    let optime = doc! { "ts": ts, "t": shared.oplog.term() };
    let ahead = BsonTimestamp {
        time: ts.time + shared.faults.behind(),
        ..ts
    };
    let majority = doc! { "ts": ahead, "t": shared.oplog.term() };
    let date = bson::DateTime::from_millis(i64::from(newest.seconds) * 1000);
    let last_write = doc! {
        "opTime": optime, "lastWriteDate": date,
        "majorityOpTime": majority, "majorityWriteDate": date,
    };
    let address = &shared.address;
    doc! {
        "helloOk": true,
        "isWritablePrimary": true,
        "ismaster": true,
        "secondary": false,
        "setName": "rs0",
        "setVersion": 1,
        "hosts": [address],
        "primary": address,
        "me": address,
        "lastWrite": last_write,
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "maxMessageSizeBytes": i32::try_from(MAX_MESSAGE_BYTES).unwrap_or(i32::MAX),
        "maxWriteBatchSize": 100_000,
        "minWireVersion": 0,
        "maxWireVersion": 21,
        "readOnly": false,
        "ok": 1.0,
    }
}

pub(super) fn text<'b>(body: Document<'b>, name: &str) -> Result<&'b str, Malformed> {
    Ok(body
        .get(name)?
        .map(Element::str)
        .transpose()?
        .unwrap_or_default())
}

pub(super) fn number(body: Document<'_>, name: &str) -> Result<Option<u64>, Malformed> {
    let number = body.get(name)?.map(Element::integer).transpose()?;
    Ok(number.map(i64::unsigned_abs).filter(|number| *number > 0))
}

pub(super) fn inner<'b>(body: Document<'b>, name: &str) -> Result<Document<'b>, Malformed> {
    let found = body.get(name)?.map(Element::document).transpose()?;
    Ok(found.unwrap_or(Document::EMPTY))
}

fn find<'s>(
    shared: &'s Shared,
    body: Document<'_>,
    command: Element<'_>,
) -> io::Result<Answer<'s>> {
    let db = text(body, "$db").map_err(io::Error::other)?;
    let ns = format!("{db}.{}", command.str().map_err(io::Error::other)?);
    if ns == NAMESPACE {
        return collection::find(shared, body).map_err(io::Error::other);
    }
    if ns != OPLOG {
        return Ok(Answer::batch("firstBatch", 0, &ns, &[][..]));
    }
    let filter = inner(body, "filter").map_err(io::Error::other)?;
    if let Some(ts) = at(filter).map_err(io::Error::other)? {
        return Answer::whole(&point(shared, body, ts).map_err(io::Error::other)?);
    }
    let is_end = number(body, "limit").map_err(io::Error::other)? == Some(1);
    if let Some(code) = is_end.then(|| shared.faults.take_end()).flatten() {
        return Answer::whole(&failure(code, "Requested", "fails on request"));
    }
    let (mut cursor, batch_size) = place(shared, body).map_err(io::Error::other)?;
    let batch_size = shared.at_pace(batch_size.min(cursor.left));
    let batch_size = batch_size.min(shared.faults.room(cursor.next));
    let batch = shared.batch(cursor.next, batch_size);
    cursor.next = batch.end;
    cursor.left -= batch.end - batch.start;
    let more = cursor.tailable || (cursor.left > 0 && cursor.next < shared.len());
    let id = if more { shared.cursors.open(cursor) } else { 0 };
    let elements = shared.oplog.elements(batch);
    Ok(Answer::batch("firstBatch", id, OPLOG, elements))
}

/// Returns the entry at that time, if any.
fn point(shared: &Shared, body: Document<'_>, ts: Timestamp) -> Result<Bson, bson::error::Error> {
    let projection = inner(body, "projection").unwrap_or(Document::EMPTY);
    let projection = Bson::from_reader(projection.as_bytes())?;
    shared.points.add(&projection);
    let mut found = Vec::new();
    if let Some(entry) = shared.oplog.entry_at(ts) {
        found.push(project(Bson::from_reader(entry)?, &projection));
    }
    Ok(doc! { "cursor": { "firstBatch": found, "id": 0_i64, "ns": OPLOG }, "ok": 1.0 })
}

/// Returns the start of a `find`, and the number of entries in its first batch.
fn place(shared: &Shared, body: Document<'_>) -> Result<(Cursor, u64), Malformed> {
    let limit = number(body, "limit")?;
    let tailable = body.get("tailable")?.map(Element::boolean).transpose()?;
    let order = inner(body, "sort")?.get("$natural")?;
    let newest_first = order.map(Element::integer).transpose()? == Some(-1);
    let filter = inner(body, "filter")?;
    let from_end = newest_first.then(|| last_matching(shared, filter));
    let last = from_end.transpose()?;
    let next = match (filter.get("ts")?, newest_first) {
        // Clients request only one entry in that order, the last one that matches.
        (_, true) => last.flatten().unwrap_or(shared.len()),
        (Some(filter), false) => shared.oplog.first_at(least(filter)?),
        (None, false) => 0,
    };
    let mode = inner(body, "$readPreference")?.get("mode")?;
    let mode = mode.map(Element::str).transpose()?.unwrap_or("primary");
    let next = next.max(shared.faults.first(mode.starts_with("secondary")));
    let cursor = Cursor {
        documents: false,
        next,
        left: limit.unwrap_or(u64::MAX),
        tailable: tailable == Some(true),
    };
    Ok((cursor, number(body, "batchSize")?.unwrap_or(FIRST_BATCH)))
}

/// Returns the number of the last entry that matches the upper bounds of `ts` and `t`.
fn last_matching(shared: &Shared, filter: Document<'_>) -> Result<Option<u64>, Malformed> {
    let upper = |name| -> Result<Option<Element<'_>>, Malformed> {
        let bound: Option<Element<'_>> = filter.get(name)?;
        bound.map_or(Ok(None), |bound| bound.document()?.first())
    };
    let (ts, term) = (upper("ts")?, upper("t")?);
    let most = ts.map(|ts| -> Result<Timestamp, Malformed> {
        let bound = Timestamp::from_le_bytes(ts.fixed()?);
        Ok(if ts.name == b"$lt" {
            bound.before()
        } else {
            bound
        })
    });
    let most = most.transpose()?;
    let term = term.map(Element::integer).transpose()?;
    for number in (shared.first()..shared.len()).rev() {
        let entry = shared.oplog.entry(number).map(Document::new).transpose()?;
        let of_entry = entry.map_or(Ok(None), |entry| entry.get("t"))?;
        let of_entry = of_entry.map(Element::integer).transpose()?.unwrap_or(-1);
        if most.is_none_or(|most| shared.oplog.time(number) <= most)
            && term.is_none_or(|term| of_entry <= term)
        {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Returns the least `ts` that matches `{$gte: ts}` or `{$gt: ts}`.
fn least(filter: Element<'_>) -> Result<Timestamp, Malformed> {
    let Some(operator) = filter.document()?.first()? else {
        return Ok(Timestamp::default());
    };
    let mut ts = Timestamp::from_le_bytes(operator.fixed()?);
    if operator.name == b"$gt" {
        ts.increment = ts.increment.saturating_add(1);
    }
    Ok(ts)
}

fn get_more<'s>(
    shared: &'s Shared,
    body: Document<'_>,
    command: Element<'_>,
) -> io::Result<Answer<'s>> {
    let id = command.integer().map_err(io::Error::other)?;
    let Some(mut cursor) = shared.cursors.take(id) else {
        let message = format!("cursor id {id} not found");
        return Answer::whole(&failure(CURSOR_NOT_FOUND, "CursorNotFound", &message));
    };
    if cursor.documents {
        let most = number(body, "batchSize").map_err(io::Error::other)?;
        return Ok(collection::batch(
            shared,
            "nextBatch",
            cursor,
            most.unwrap_or(u64::MAX),
        ));
    }
    match shared.faults.take(cursor.next) {
        Some(Fault::Hangup) => return Err(io::Error::other("fails on request")),
        Some(Fault::Code(code) | Fault::Truncated(code, _)) => {
            return Answer::whole(&failure(code, "Requested", "fails on request"));
        }
        None => {}
    }
    let batch_size = number(body, "batchSize").map_err(io::Error::other)?;
    let batch_size = shared.at_pace(batch_size.unwrap_or(u64::MAX).min(cursor.left));
    let batch_size = batch_size.min(shared.faults.room(cursor.next));
    let mut batch = shared.batch(cursor.next, batch_size);
    if batch.is_empty() && cursor.tailable {
        let millis = number(body, "maxTimeMS").map_err(io::Error::other)?;
        shared.wait_for(cursor.next, millis.map_or(AWAIT, Duration::from_millis));
        batch = shared.batch(cursor.next, batch_size);
    }
    cursor.next = batch.end;
    cursor.left -= batch.end - batch.start;
    let more = cursor.tailable || (cursor.left > 0 && cursor.next < shared.len());
    if more {
        shared.cursors.put(id, cursor);
    }
    let elements = shared.oplog.elements(batch);
    Ok(Answer::batch(
        "nextBatch",
        if more { id } else { 0 },
        OPLOG,
        elements,
    ))
}

fn write<'s>(shared: &'s Shared, request: &Request<'_>, name: &[u8]) -> io::Result<Answer<'s>> {
    let array = match name {
        b"insert" => "documents",
        b"update" => "updates",
        _ => "deletes",
    };
    let inside = inner(request.body, array).map_err(io::Error::other)?;
    let mut count = inside.elements().count() as u64;
    if let Some(timing) = &shared.timing {
        let documents = inside.elements().flatten();
        timing.note(documents.filter_map(|element| element.document().ok()));
    }
    for sequence in &request.sequences {
        let documents = sequence.documents()?;
        count += documents.len() as u64;
        if let Some(timing) = &shared.timing {
            timing.note(documents.into_iter());
        }
    }
    shared.written.add(name, count);
    let n = i32::try_from(count).map_err(io::Error::other)?;
    if name == b"update" {
        return Answer::whole(&doc! { "n": n, "nModified": n, "ok": 1.0 });
    }
    Answer::whole(&doc! { "n": n, "ok": 1.0 })
}
