//! Events that no recorded server could write: those of later versions, large ones, and ambiguous
//! updates.

use anyhow::{Context as _, Result, ensure};
use bson::spec::BinarySubtype;
use bson::{Binary, Document as Bson, Timestamp, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::Timestamp as At;
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::State;
use oplog_relay_kit::services::wait_until_async;

use super::{Begin, LIMIT, MODE, Reading, Until, config, read};

const PRIMARY: Role = Role::Primary([7, 0, 0]);

const fn time(increment: u32) -> Timestamp {
    Timestamp {
        time: 1_700_000_000,
        increment,
    }
}

/// Returns an event of `s.a`.
fn event(increment: u32, operation: &str, fields: Bson) -> Bson {
    let mut event = doc! {
        "_id": { "_data": format!("82{:08X}{increment:08X}AA", 1_700_000_000) },
        "operationType": operation, "clusterTime": time(increment),
        "wallTime": bson::DateTime::from_millis(1_700_000_000_123),
        "ns": { "db": "s", "coll": "a" },
    };
    event.extend(fields);
    event
}

async fn read_all(server: &EventServer, more: &[&str]) -> Result<Reading> {
    let stream = config(&server.uri(), &[&[MODE], more].concat())?;
    Ok(read(&stream, Begin::first(), Until::CaughtUp).await?)
}

/// Returns the fields of the entries, as a document each.
fn entries(reading: &Reading) -> Result<Vec<Bson>> {
    let entries = reading.entries.iter();
    entries
        .map(|read| {
            Entry::parse(Document::new(&read.entry)?)?;
            Ok(Bson::from_reader(read.entry.as_slice())?)
        })
        .collect()
}

fn uuid(byte: u8) -> Binary {
    Binary {
        subtype: BinarySubtype::Uuid,
        bytes: vec![byte; 16],
    }
}

/// Returns the fields of expanded events, with the command that each becomes.
fn expanded() -> Vec<(&'static str, Bson, Bson)> {
    let index = doc! { "v": 2, "key": { "x": 1 }, "name": "x_1", "unique": true };
    vec![
        (
            "create",
            doc! { "operationDescription": { "idIndex": { "v": 2 }, "capped": true, "size": 4096 } },
            doc! { "create": "a", "idIndex": { "v": 2 }, "capped": true, "size": 4096 },
        ),
        (
            "createIndexes",
            doc! { "operationDescription": { "indexes": [&index] } },
            doc! { "commitIndexBuild": "a", "indexes": [&index] },
        ),
        (
            "modify",
            doc! {
                "operationDescription": { "index": { "name": "x_1", "hidden": true } },
                "stateBeforeChange": { "collectionOptions": {} },
            },
            doc! { "collMod": "a", "index": { "name": "x_1", "hidden": true } },
        ),
        (
            "dropIndexes",
            doc! { "operationDescription": { "indexes": [&index] } },
            doc! { "dropIndexes": "a", "index": "x_1" },
        ),
        (
            "shardCollection",
            doc! { "operationDescription": { "shardKey": { "k": 1 } } },
            doc! { "shardCollection": "a", "shardKey": { "k": 1 } },
        ),
        (
            "rename",
            doc! {
                "to": { "db": "s", "coll": "b" },
                "operationDescription": { "to": { "db": "s", "coll": "b" }, "dropTarget": uuid(9) },
            },
            doc! { "renameCollection": "s.a", "to": "s.b", "dropTarget": uuid(9) },
        ),
        (
            "rename",
            doc! {
                "to": { "db": "s", "coll": "b" },
                "operationDescription": { "to": { "db": "s", "coll": "b" } },
            },
            doc! { "renameCollection": "s.a", "to": "s.b" },
        ),
        ("drop", doc! {}, doc! { "drop": "a" }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn expanded_events_become_the_commands_of_an_oplog() -> Result<()> {
    let cases = expanded();
    let made = (1..)
        .zip(&cases)
        .map(|(increment, (operation, fields, _))| {
            let mut event = event(increment, operation, fields.clone());
            event.insert("collectionUUID", uuid(7));
            event
        });
    let events = Events::made(&made.collect::<Vec<_>>())?;
    let server = EventServer::start(events.clone(), State::new(), PRIMARY)?;
    let found = entries(&read_all(&server, &[]).await?)?;
    ensure!(found.len() == cases.len(), "{}", found.len());
    for (entry, (operation, _, expected)) in found.iter().zip(&cases) {
        ensure!(entry.get_document("o")? == expected, "{operation}: {entry}");
        ensure!(entry.get_str("ns")? == "s.$cmd", "{entry}");
        ensure!(
            entry.get("ui") == Some(&bson::Bson::Binary(uuid(7))),
            "{entry}"
        );
        ensure!(
            entry.get_datetime("wall")?.timestamp_millis() == 1_700_000_000_123,
            "{entry}"
        );
    }
    let opened = server.opened();
    ensure!(opened[0].get_bool("showExpandedEvents")?, "{opened:?}");
    // Resharding gives the collections of a cluster other UUIDs, so entries do not have them.
    let server = EventServer::start(events, State::new(), Role::Mongos([7, 0, 0]))?;
    let found = entries(&read_all(&server, &[]).await?)?;
    ensure!(
        found.iter().all(|entry| !entry.contains_key("ui")),
        "{found:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_continues_after_the_event_that_invalidates_it() -> Result<()> {
    let database = doc! { "ns": { "db": "s" } };
    let insert = |id: i32| doc! { "documentKey": { "_id": id }, "fullDocument": { "_id": id } };
    let mut invalidate = event(2, "invalidate", doc! {});
    invalidate.remove("ns");
    invalidate.insert("_id", doc! { "_data": "82FF" });
    let made = vec![
        event(1, "insert", insert(1)),
        event(2, "dropDatabase", database),
        invalidate,
        event(3, "insert", insert(2)),
    ];
    let server = EventServer::start(Events::made(&made)?, State::new(), PRIMARY)?;
    let reading = read_all(&server, &["--include-namespaces=s.*"]).await?;
    let ids: Vec<String> = reading
        .entries
        .iter()
        .map(|read| read.id.to_string())
        .collect();
    let expected = ["1/0", "2/0", "2/1", "3/0"].map(|id| format!("1700000000:{id}"));
    ensure!(ids == expected, "{ids:?}");
    let opened = server.opened();
    let second = opened.get(1).context("it was opened once")?;
    let token = second.get_document("startAfter")?;
    ensure!(token == &doc! { "_data": "82FF" }, "{second}");
    ensure!(!second.contains_key("allChangesForCluster"), "{second}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_a_large_event_are_put_together() -> Result<()> {
    let whole = event(
        1,
        "replace",
        doc! { "documentKey": { "_id": 1 }, "fullDocument": { "_id": 1, "x": "large" } },
    );
    let mut first = whole.clone();
    first.remove("fullDocument");
    first.insert("splitEvent", doc! { "fragment": 1, "of": 2 });
    let second = doc! {
        "_id": { "_data": "8201" }, "splitEvent": { "fragment": 2, "of": 2 },
        "fullDocument": whole.get_document("fullDocument")?.clone(),
    };
    let next = event(2, "delete", doc! { "documentKey": { "_id": 1 } });
    let events = Events::made(&[first, second, next])?;
    let server = EventServer::start(events, State::new(), PRIMARY)?;
    // The fragments arrive in separate replies, and the stream is opened again between them.
    server.reply_with(1);
    server.release(1);
    let stream = config(&server.uri(), &[MODE])?;
    let reading = async {
        let reading = read(&stream, Begin::first(), Until::Entries(2));
        Ok::<_, anyhow::Error>(reading.await?)
    };
    let control = async {
        wait_until_async("the first fragment", LIMIT, async || server.replies() > 0).await?;
        // The second fragment exists only after the stream was opened again.
        server.fail("getMore", 43);
        wait_until_async("the failure", LIMIT, async || server.has_failed()).await?;
        server.release(3);
        Ok(())
    };
    let (reading, ()) = Box::pin(async { tokio::try_join!(reading, control) }).await?;
    let found = entries(&reading)?;
    ensure!(found.len() == 2, "{found:?}");
    let o = found[0].get_document("o")?;
    ensure!(o == &doc! { "_id": 1, "x": "large" }, "{o}");
    ensure!(
        reading.entries[0].point.token.contains("8201"),
        "{:?}",
        reading.entries[0].point
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_update_is_carried_as_the_document_that_the_source_has() -> Result<()> {
    // `0` is an index or a name, and the truncation needs a diff, which must say which.
    let ambiguous = |increment, id: i32| {
        let description = doc! {
            "updatedFields": { "b.0": 1 }, "removedFields": [],
            "truncatedArrays": [{ "field": "a", "newSize": 1 }],
        };
        let fields =
            doc! { "documentKey": { "k": 5, "_id": id }, "updateDescription": description };
        event(increment, "update", fields)
    };
    // A field `x.y` beside a field `x` has the same path as the field `y` in `x`.
    let mut twice = ambiguous(3, 1);
    let description = doc! { "updatedFields": { "x": 1, "x.y": 2 }, "removedFields": [] };
    twice.insert("updateDescription", description);
    let events = Events::made(&[ambiguous(1, 1), ambiguous(2, 2), twice])?;
    let document = doc! { "_id": 1, "a": [7], "b": { "0": 1 } };
    let documents = State::from([("s.a".to_owned(), vec![document.to_vec()?])]);
    let server = EventServer::start(events, documents, Role::Mongos([5, 0, 7]))?;
    let found = entries(&read_all(&server, &[]).await?)?;
    ensure!(server.looked_up().len() == 3, "{:?}", server.looked_up());
    for entry in [&found[0], &found[2]] {
        ensure!(entry.get_document("o")? == &document, "{entry}");
        ensure!(
            entry.get_document("o2")? == &doc! { "k": 5, "_id": 1 },
            "{entry}"
        );
        ensure!(
            entry.get_document("lookedUp")?.contains_key("at"),
            "{entry}"
        );
    }
    // The second document is gone: the update has no effect, but keeps its place.
    ensure!(found[1].get_str("op")? == "n", "{}", found[1]);
    Ok(())
}

/// A delete in a transaction of a sharded cluster may be the former place of a document that moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_asks_the_source_where_the_document_is_if_its_insert_is_unknown() -> Result<()> {
    let delete = |increment, id: i32| {
        let key = doc! { "k": 1, "n": { "x": 2 }, "_id": id };
        let fields = doc! { "documentKey": key, "lsid": { "id": 1 }, "txnNumber": 7_i64 };
        event(increment, "delete", fields)
    };
    let documents = [
        // It has another shard key.
        doc! { "_id": 1, "k": 5, "n": { "x": 2 } },
        // The shard key was refined, so the key before the move is a part of the key after it.
        doc! { "_id": 2, "k": 1, "n": { "x": 2 }, "m": 7 },
    ];
    let documents: Result<_, _> = documents.iter().map(Bson::to_vec).collect();
    let documents = State::from([("s.a".to_owned(), documents?)]);
    let events = Events::made(&[delete(1, 1), delete(2, 2), delete(3, 3)])?;
    let server = EventServer::start(events, documents, Role::Mongos([5, 0, 7]))?;
    let found = entries(&read_all(&server, &[]).await?)?;
    let ops: Vec<&str> = found.iter().flat_map(|entry| entry.get_str("op")).collect();
    ensure!(ops == ["n", "n", "d"], "{ops:?}");
    ensure!(server.looked_up().len() == 3, "{:?}", server.looked_up());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_events_advances() -> Result<()> {
    let server = EventServer::start(Events::default(), State::new(), PRIMARY)?;
    let stream = config(&server.uri(), &[MODE])?;
    let mut last = At::default();
    for increment in [100, 200] {
        server.set_clock(time(increment));
        let reading = read(&stream, Begin::first(), Until::CaughtUp).await?;
        let (position, point) = reading.high_water.context("no position")?;
        ensure!(position.ord == 0 && position.ts > last, "{position}");
        ensure!(
            position.ts == At::new(1_700_000_000, increment - 1),
            "{position}"
        );
        last = position.ts;
        // The saved token is the one after which a later start continues.
        server.set_clock(time(increment + 50));
        let begin = Begin {
            start: oplog_producer::source::StartAt::After(position),
            point: Some(point),
        };
        let reading = read(&stream, begin, Until::CaughtUp).await?;
        let (position, _) = reading.high_water.context("no position")?;
        ensure!(
            position.ts == At::new(1_700_000_000, increment + 49),
            "{position}"
        );
    }
    Ok(())
}
