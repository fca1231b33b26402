//! The examples in `docs/formats.md`: each one is what the program writes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use bson::{DateTime, Document as Doc, Timestamp as BsonTimestamp, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::avro::{SchemaIds, VALUE_SCHEMA, write_avro_event};
use oplog_relay_core::format::debezium::{Debezium, write_debezium};
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::format::latest_state::write_latest_state;
use oplog_relay_core::format::looked_up::{CurrentDocument, DocumentBefore, LookedUp};
use oplog_relay_core::format::oplog::write_oplog_entry;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::position::{EntryId, Timestamp};

fn entry(increment: u32, op: &str, o: Doc, o2: Option<Doc>) -> Result<Vec<u8>> {
    let ts = BsonTimestamp {
        time: 1_700_000_000,
        increment,
    };
    let mut entry = doc! {
        "ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": "shop.orders",
        "wall": DateTime::from_millis(1_700_000_000_123), "o": o,
    };
    entry.extend(o2.map(|o2| ("o2".to_owned(), o2.into())));
    Ok(entry.to_vec()?)
}

fn insert() -> Result<Vec<u8>> {
    entry(1, "i", doc! { "_id": 1, "name": "Ada" }, None)
}

fn update() -> Result<Vec<u8>> {
    let o = doc! { "$v": 1, "$set": { "a.b": 5 }, "$unset": { "name": true } };
    entry(2, "u", o, Some(doc! { "_id": 1 }))
}

fn parse(bytes: &[u8]) -> Result<Entry<'_>> {
    Ok(Entry::parse(Document::new(bytes)?)?)
}

fn identity(entry: &Entry<'_>) -> EntryId {
    EntryId {
        ts: entry.ts,
        ord: 0,
    }
}

/// Returns the examples by what they show.
fn examples() -> Result<BTreeMap<&'static str, String>> {
    let (insert, update) = (insert()?, update()?);
    let (insert, update) = (parse(&insert)?, parse(&update)?);
    let mut found = BTreeMap::new();
    let mut out = Vec::new();
    let mut add = |name, out: &mut Vec<u8>| -> Result<()> {
        found.insert(name, String::from_utf8(std::mem::take(out))?);
        Ok(())
    };
    write_document(insert.raw, Mode::Relaxed, &mut out).map(drop)?;
    add("an entry in BSON", &mut out)?;
    write_change_event(&insert, "rs0", 0, Mode::Relaxed, &mut out)?;
    add("a change event", &mut out)?;
    write_oplog_entry(update.raw, Mode::Canonical, &mut out)?;
    add("an entry in JSON", &mut out)?;
    let origin = Origin {
        topic: "cdc.shop.orders",
        source: "rs0",
        processed_at: 1_700_000_001_000,
        schemas: SchemaIds::default(),
    };
    let form = Debezium {
        mode: Mode::Relaxed,
        with_schema: false,
    };
    write_debezium(&insert, identity(&insert), form, &origin, &mut out)?;
    add("Debezium's envelope", &mut out)?;
    write_avro_event(
        &update,
        identity(&update),
        "rs0",
        Mode::Relaxed,
        1,
        &mut out,
    )?;
    out = avro_as_json(&out)?;
    add("Avro", &mut out)?;
    write_latest_state(&insert, Mode::Relaxed, &mut out)?;
    add("a latest state", &mut out)?;

    found.extend(with_documents(&update)?);
    Ok(found)
}

/// Returns the examples of an update with documents that were looked up.
fn with_documents(update: &Entry<'_>) -> Result<Vec<(&'static str, String)>> {
    let document = doc! { "_id": 1, "a": 5 }.to_vec()?;
    let document = Document::new(&document)?;
    let current = CurrentDocument {
        document: Some(document),
        at: Some(Timestamp::new(1_700_000_009, 2)),
    };
    let current = LookedUp {
        current: Some(current),
        before: DocumentBefore::NotLookedUp,
    };
    let before = LookedUp {
        current: None,
        before: DocumentBefore::Document(document),
    };
    let events = [("a lookup", &current), ("a document before", &before)];
    let events = events.map(|(name, looked_up)| {
        let entry = Entry {
            looked_up: Some(looked_up),
            ..*update
        };
        let mut out = Vec::new();
        write_change_event(&entry, "rs0", 0, Mode::Relaxed, &mut out)?;
        Ok((name, String::from_utf8(out)?))
    });
    events.into_iter().collect()
}

fn avro_as_json(value: &[u8]) -> Result<Vec<u8>> {
    let schema = Schema::parse_str(VALUE_SCHEMA)?;
    let reader = GenericDatumReader::builder(&schema).build()?;
    let mut rest = value.get(5..).context("a header")?;
    let event = serde_json::Value::try_from(reader.read_value(&mut rest)?)?;
    Ok(serde_json::to_vec(&event)?)
}

/// Returns the JSON blocks of a document, each in one line.
fn blocks(text: &str) -> Vec<String> {
    let after = text.split("```json\n").skip(1);
    let blocks = after.filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| block.lines().map(str::trim_start).collect())
        .collect()
}

#[test]
fn every_example_of_a_format_is_what_the_program_writes() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let blocks = blocks(&std::fs::read_to_string(page)?);
    let examples = examples()?;
    let missing = examples.iter().filter(|it| !blocks.contains(it.1));
    let missing: Vec<String> = missing
        .map(|(name, text)| format!("{name}: {text}"))
        .collect();
    ensure!(missing.is_empty(), "missing:\n{}", missing.join("\n"));
    let known: Vec<&String> = examples.values().collect();
    let other = blocks.iter().find(|block| !known.contains(block));
    ensure!(other.is_none(), "another example: {other:?}");
    Ok(())
}
