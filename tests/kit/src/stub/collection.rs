//! Answers to queries about the collection.

use std::ops::Range;

use bson::spec::BinarySubtype;
use bson::{Binary, Document as Bson, doc};
use oplog_relay_core::document::{Document, Element, Malformed};

use super::command::{Answer, FIRST_BATCH, inner, number, text};
use super::cursor::Cursor;
use super::documents::Documents;
use super::entry::{NAMESPACE, UI};
use super::server::Shared;

const NO_COLLECTION: i32 = 26;

fn listed(ns: &str, found: Vec<Bson>) -> Bson {
    doc! { "cursor": { "firstBatch": found, "id": 0_i64, "ns": ns }, "ok": 1.0 }
}

/// Answers a query about databases and collections.
pub(super) fn answer<'s>(
    shared: &'s Shared,
    body: Document<'_>,
    command: Element<'_>,
) -> Result<Answer<'s>, Box<dyn std::error::Error + Send + Sync>> {
    let db = text(body, "$db")?;
    let is_there = !shared.documents.is_empty();
    let reply = match command.name {
        b"listDatabases" => {
            let names = ["local", "bench"].iter();
            let names = names.filter(|name| **name == "local" || is_there);
            let databases: Vec<Bson> = names.map(|name| doc! { "name": name }).collect();
            doc! { "databases": databases, "ok": 1.0 }
        }
        b"listCollections" => {
            let found = match db {
                "local" => vec![doc! { "name": "oplog.rs", "type": "collection" }],
                "bench" if is_there => vec![described()],
                _ => Vec::new(),
            };
            listed(&format!("{db}.$cmd.listCollections"), found)
        }
        _ if !is_there || format!("{db}.{}", command.str()?) != NAMESPACE => {
            doc! { "ok": 0.0, "errmsg": "no such collection", "code": NO_COLLECTION }
        }
        b"listIndexes" => {
            let index = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
            listed(NAMESPACE, vec![index])
        }
        b"collStats" => {
            let count = shared.documents.len().cast_signed();
            let bytes = shared.documents.bytes().cast_signed();
            doc! { "count": count, "size": bytes, "ok": 1.0 }
        }
        _ => return Ok(sample(shared, body)?),
    };
    Ok(Answer::whole(&reply)?)
}

fn described() -> Bson {
    let uuid = Binary {
        subtype: BinarySubtype::Uuid,
        bytes: UI.to_vec(),
    };
    let info = doc! { "uuid": uuid, "readOnly": false };
    doc! { "name": "orders", "type": "collection", "options": {}, "info": info }
}

/// Answers `[{$sample: {size: n}}, …]`: the `_id`s of as many documents, spread over the
/// collection.
fn sample<'s>(shared: &'s Shared, body: Document<'_>) -> Result<Answer<'s>, Malformed> {
    let stage = inner(inner(body, "pipeline")?, "0")?;
    let size = number(inner(stage, "$sample")?, "size")?.unwrap_or(1);
    let all = shared.documents.len();
    let mut elements = Vec::new();
    Documents::write_ids((0..size).map(|part| part * all / size), &mut elements);
    Ok(Answer::batch("firstBatch", 0, NAMESPACE, elements))
}

/// Answers a `find` on `_id` with bounds, ascending or descending order, and a limit.
pub(super) fn find<'s>(shared: &'s Shared, body: Document<'_>) -> Result<Answer<'s>, Malformed> {
    let range = bounds(inner(body, "filter")?, shared.documents.len())?;
    let order = inner(body, "sort")?.get("_id")?;
    let limit = number(body, "limit")?.unwrap_or(u64::MAX);
    let range = match order.map(Element::integer).transpose()? {
        // Clients request only the last document in that order.
        Some(-1) => range.end.saturating_sub(1).max(range.start)..range.end,
        _ => range.start..range.end.min(range.start.saturating_add(limit)),
    };
    if body.get("projection")?.is_some() {
        let mut elements = Vec::new();
        Documents::write_ids(range, &mut elements);
        return Ok(Answer::batch("firstBatch", 0, NAMESPACE, elements));
    }
    let cursor = Cursor {
        documents: true,
        next: range.start,
        left: range.end.saturating_sub(range.start),
        tailable: false,
    };
    let most = number(body, "batchSize")?.unwrap_or(FIRST_BATCH);
    Ok(batch(shared, "firstBatch", cursor, most))
}

/// Returns the next documents of a cursor.
pub(super) fn batch<'s>(
    shared: &'s Shared,
    name: &str,
    mut cursor: Cursor,
    most: u64,
) -> Answer<'s> {
    let mut elements = Vec::new();
    let wanted = cursor.next..cursor.next + cursor.left.min(most);
    let end = shared.documents.write(wanted, &mut elements);
    cursor.left -= end - cursor.next;
    cursor.next = end;
    let id = match cursor.left {
        0 => 0,
        _ => shared.cursors.open(cursor),
    };
    Answer::batch(name, id, NAMESPACE, elements)
}

/// Returns the numbers of the documents that match `{_id: {$gte: …, $lt: …}}`, out of `count`.
fn bounds(filter: Document<'_>, count: u64) -> Result<Range<u64>, Malformed> {
    let mut range = 0..count;
    for bound in inner(filter, "_id")?.elements() {
        let bound = bound?;
        let Some(number) = Documents::number(bound.value) else {
            return Ok(0..0);
        };
        match bound.name {
            b"$gte" => range.start = number,
            b"$gt" => range.start = number + 1,
            b"$lt" => range.end = number.min(count),
            _ => return Ok(0..0),
        }
    }
    range.start = range.start.min(range.end);
    Ok(range)
}
