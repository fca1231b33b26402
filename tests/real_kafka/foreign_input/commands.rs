//! Commands in the topics of other programs.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use oplog_relay_kit::model::ModelServer;

use super::{Foreign, Written, documents, frame, sorted, target};

const CATALOG_NAMESPACE: &str = "oplog_relay.catalog";

/// Returns entries of MongoShake with commands, each with its own timestamp.
fn commands() -> Result<Vec<Written>> {
    let command = |o: Document| ("c", "s.$cmd", o, Document::new());
    let insert = |ns, o: Document| ("i", ns, o, Document::new());
    let unique =
        doc! { "createIndexes": "b", "v": 2, "unique": true, "key": { "u": 1 }, "name": "u_1" };
    let entries = [
        command(doc! { "create": "a" }),
        insert("s.a", doc! { "_id": 1, "of": "the first collection" }),
        command(doc! { "drop": "a" }),
        command(doc! { "create": "a" }),
        insert("s.a", doc! { "_id": 2, "u": 1 }),
        command(doc! { "renameCollection": "s.a", "to": "s.b", "dropTarget": false }),
        command(unique),
        insert("s.b", doc! { "_id": 3, "u": 2 }),
        insert("s.a", doc! { "_id": 4, "of": "the third collection" }),
        (
            "u",
            "s.b",
            doc! { "$v": 1, "$set": { "u": 3 } },
            doc! { "_id": 2 },
        ),
        command(doc! { "dropDatabase": 1 }),
    ];
    let records = (1_u32..).zip(entries).map(|(second, (op, ns, o, o2))| {
        let ts = bson::Timestamp {
            time: 1000 + second,
            increment: 1,
        };
        let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": ns, "o": o };
        if !o2.is_empty() {
            entry.insert("o2", o2);
        }
        Ok(Written {
            document: usize::try_from(second)?,
            ..Written::new("17d", entry.to_vec()?)
        })
    });
    records.collect()
}

fn expect_commands(target: &ModelServer) -> Result<()> {
    let found = sorted(documents(target)?);
    let expected: BTreeMap<String, Vec<Document>> = [
        (
            "s.a".to_owned(),
            vec![doc! { "_id": 4, "of": "the third collection" }],
        ),
        (
            "s.b".to_owned(),
            vec![doc! { "_id": 2, "u": 3 }, doc! { "_id": 3, "u": 2 }],
        ),
    ]
    .into();
    ensure!(found == expected, "{found:?}");
    let collections = format!("{:?}", target.model().collections());
    ensure!(collections.contains("unique"), "{collections}");
    Ok(())
}

#[test]
fn commands_run_in_their_place_in_a_topic_of_one_partition() -> Result<()> {
    let foreign = Foreign::new()?;
    let mut records = commands()?;
    // After a failover, MongoShake writes everything since its checkpoint again.
    records.extend_from_slice(&commands()?[1..]);
    foreign.write("ordered", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-bson", "ordered", &[])?;
    ended.expect(0, &["filter.ddl_enable"])?;
    expect_commands(&target)?;
    foreign.rewind("ordered")?;
    let ended = foreign.replay(&target, "mongoshake-bson", "ordered", &[])?;
    ended.expect(0, &[])?;
    expect_commands(&target)
}

#[test]
fn commands_run_in_their_place_within_a_frame() -> Result<()> {
    let foreign = Foreign::new()?;
    let records = commands()?;
    let entries = records.iter().filter_map(|record| record.value.as_deref());
    let entries: Vec<&[u8]> = entries.collect();
    let frame = Written::new("17d", frame(&entries)?);
    foreign.write("framed", 1, &[frame])?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-raw", "framed", &[])?;
    ended.expect(0, &[])?;
    expect_commands(&target)
}

#[test]
fn a_command_whose_order_is_unknown_is_refused() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("unordered", 3, &commands()?)?;
    let unordered = target()?;
    let parts = [
        "among the writes of its collections is unknown",
        "topic unordered has 3 partitions",
        "offset",
    ];
    let ended = foreign.replay(&unordered, "mongoshake-bson", "unordered", &[])?;
    ended.expect(6, &parts)?;
    let kept = ["--dead-letter=command"];
    let ended = foreign.replay(&unordered, "mongoshake-bson", "unordered", &kept)?;
    ended.expect(0, &[])?;
    let found = documents(&unordered)?;
    // Nothing was dropped or renamed.
    ensure!(
        found["s.a"].len() == 3 && found["s.b"].len() == 1,
        "{found:?}"
    );

    // One topic for each collection: the writes after a rename are in another topic.
    let rename = &commands()?[5];
    foreign.write("renames.a", 1, std::slice::from_ref(rename))?;
    foreign.write("renames.b", 1, &[])?;
    let ended = foreign.replay(&target()?, "mongoshake-bson", "renames.*", &[])?;
    ended.expect(6, &["s.a and s.b", "2 topics are read"])?;

    // MongoShake with several workers: a later write comes first.
    let mut records = commands()?;
    records.swap(2, 4);
    foreign.write("workers", 1, &records)?;
    let ended = foreign.replay(&target()?, "mongoshake-bson", "workers", &[])?;
    ended.expect(6, &["later entries, up to 1005:1", "incr_sync.worker"])?;
    Ok(())
}

#[test]
fn commands_of_change_events_run_in_a_topic_of_one_partition() -> Result<()> {
    let foreign = Foreign::new()?;
    let insert = |second, id| {
        let more = format!(r#","documentKey":{{"_id":{id}}},"fullDocument":{{"_id":{id}}}"#);
        event("insert", second, &more)
    };
    let index = r#","operationDescription":{"indexes":[{"v":2,"key":{"x":1},"name":"x_1"}]}"#;
    let records = [
        insert(1, 1),
        event("createIndexes", 2, index),
        event("drop", 3, ""),
        event("invalidate", 3, ""),
        insert(4, 2),
        event("rename", 5, r#","to":{"db":"s","coll":"b"}"#),
    ];
    foreign.write("events", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongo-kafka-json", "events", &[])?;
    ended.expect(0, &["show.expanded.events"])?;
    let found = documents(&target)?;
    let expected = [("s.b".to_owned(), vec![doc! { "_id": 2 }])].into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_document_before_a_drop_does_not_come_back() -> Result<()> {
    // The connector copies a document, and the source drops the collection before the copy ends.
    // A copied document has no time, so it counts as older than the drop when it is read again.
    let foreign = Foreign::new()?;
    let records = [copied(1), event("drop", 7, "")];
    foreign.write("copied", 1, &records)?;
    let target = target()?;
    for _ in 0..2 {
        let ended = foreign.replay(&target, "mongo-kafka-json", "copied", &[])?;
        ended.expect(0, &[])?;
        ensure!(documents(&target)?.is_empty(), "{:?}", documents(&target)?);
        foreign.rewind("copied")?;
    }
    Ok(())
}

/// Returns an event as mongo-kafka writes it, of an operation on `s.a` at a second; `more` is the
/// text of its other fields.
fn event(operation: &str, second: u32, more: &str) -> Written {
    let time = format!(r#""clusterTime":{{"$timestamp":{{"t":{second},"i":1}}}}"#);
    let ns = r#""ns":{"db":"s","coll":"a"}"#;
    let id = r#""_id":{"_data":"82"}"#;
    let text = format!(r#"{{{id},"operationType":"{operation}",{time},{ns}{more}}}"#);
    Written::new(r#"{"_id": {"_data": "82"}}"#, text)
}

/// Returns the event with which mongo-kafka copies a document.
fn copied(id: u32) -> Written {
    let text = format!(
        r#"{{"_id":{{"_id":{id},"copyingData":true}},"operationType":"insert","ns":{{"db":"s","coll":"a"}},"documentKey":{{"_id":{id}}},"fullDocument":{{"_id":{id}}}}}"#
    );
    Written::new("1", text)
}

/// The connector is set up again after a drop and after a rename, and copies the collection again.
/// Copied documents have no time.
#[test]
fn documents_that_are_copied_again_belong_to_the_new_collection() -> Result<()> {
    let foreign = Foreign::new()?;
    let rename = r#","to":{"db":"s","coll":"b"}"#;
    let records = [
        copied(1),
        event("drop", 7, ""),
        copied(2),
        event("rename", 8, rename),
        copied(3),
    ];
    foreign.write("copied-again", 1, &records)?;
    let target = target()?;
    let of = |ns: &str, id: i32| (ns.to_owned(), vec![doc! { "_id": id }]);
    let expected = [of("s.a", 3), of("s.b", 2)].into();
    for _ in 0..2 {
        let ended = foreign.replay(&target, "mongo-kafka-json", "copied-again", &[])?;
        ended.expect(0, &[])?;
        let found = documents(&target)?;
        ensure!(found == expected, "{found:?}");
        foreign.rewind("copied-again")?;
    }
    Ok(())
}

/// A transaction may create collections and indexes, which then have the timestamp of its commit.
#[test]
fn every_command_of_a_transaction_runs_once() -> Result<()> {
    let foreign = Foreign::new()?;
    let at = bson::Timestamp {
        time: 1000,
        increment: 1,
    };
    let entry = |op: &str, ns: &str, o: Document| {
        let entry = doc! { "ts": at, "v": 2, "op": op, "ns": ns, "o": o };
        Ok(Written::new("17d", entry.to_vec()?))
    };
    let index =
        doc! { "createIndexes": "a", "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true };
    let records: Vec<Written> = [
        entry("c", "s.$cmd", doc! { "create": "a" }),
        entry("c", "s.$cmd", index),
        entry("i", "s.a", doc! { "_id": 1, "u": 1 }),
        entry("c", "s.$cmd", doc! { "create": "b" }),
        entry("i", "s.b", doc! { "_id": 2 }),
    ]
    .into_iter()
    .collect::<Result<_>>()?;
    // After a failover, MongoShake writes the transaction again.
    let twice = [records.clone(), records].concat();
    foreign.write("transaction", 1, &twice)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-bson", "transaction", &[])?;
    ended.expect(0, &[])?;
    let model = target.model();
    let catalog = model.state().remove(CATALOG_NAMESPACE).unwrap_or_default();
    let catalog = catalog
        .iter()
        .map(|bytes| Document::from_reader(bytes.as_slice()));
    let catalog: Vec<Document> = catalog.collect::<Result<_, _>>()?;
    let mut ran: Vec<(&str, &str)> = catalog
        .iter()
        .filter_map(|ran| Some((ran.get_str("change").ok()?, ran.get_str("ns").ok()?)))
        .collect();
    ran.sort_unstable();
    let expected = [("created", "s.a"), ("created", "s.b"), ("other", "s.a")];
    ensure!(ran == expected, "{catalog:?}");
    let collections = format!("{:?}", model.collections());
    ensure!(
        collections.contains("unique") && collections.contains(r#"String("b")"#),
        "{collections}"
    );
    Ok(())
}

#[test]
fn a_late_command_is_refused_even_after_a_restart() -> Result<()> {
    let foreign = Foreign::new()?;
    let mut records = commands()?;
    let late = records.remove(2);
    foreign.write("restarted", 1, &records[..4])?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-bson", "restarted", &[])?;
    ended.expect(0, &[])?;
    foreign.append("restarted", 1, &[late])?;
    let ended = foreign.replay(&target, "mongoshake-bson", "restarted", &[])?;
    ended.expect(6, &["later entries, up to 1005:1"])?;
    Ok(())
}

/// The pipeline of a connector may remove `clusterTime`. Without it, two drops look the same.
#[test]
fn a_command_without_a_time_is_refused() -> Result<()> {
    let foreign = Foreign::new()?;
    let text = r#"{"_id":{"_data":"82"},"operationType":"drop","ns":{"db":"s","coll":"a"}}"#;
    let records = [copied(1), Written::new("1", text)];
    foreign.write("timeless", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongo-kafka-json", "timeless", &[])?;
    ended.expect(6, &["topic timeless, partition 0, offset 1", "has no time"])?;
    ensure!(documents(&target)?["s.a"].len() == 1);
    Ok(())
}
