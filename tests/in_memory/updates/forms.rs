//! The forms of updates that are easily mistaken for one another, through plan and model.

use anyhow::Result;
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::document::{Document, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::json::{Mode, parse_document, write_document};
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::Model;
use oplog_relay_tests::schema::EventSchema;

use crate::updates::histories::build;
use crate::updates::{NS, documents};

/// Returns entries of the document with `_id` 1.
fn entries(log: &[(&str, &str)]) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let numbered = (1..).zip(log);
    let entries = numbered.map(|(increment, (op, o))| {
        let ts = Timestamp::new(9, increment);
        let mut bytes = Vec::new();
        parse_document(o.as_bytes(), &mut bytes)?;
        let o = Document::new(&bytes)?;
        let entry = build(|entry| {
            entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
            entry.str("op", op).str("ns", NS).document("o", o);
            entry.nested("o2", kind::DOCUMENT, |key| {
                key.int32("_id", 1);
            });
        });
        Ok((EntryId { ts, ord: 0 }, entry))
    });
    entries.collect()
}

/// Replays the entries one by one, then all at once again. Returns the documents after both, as
/// relaxed Extended JSON.
fn replayed(log: &[(&str, &str)]) -> Result<[String; 2]> {
    let entries = entries(log)?;
    let mut model = Model::default();
    let mut texts = Vec::new();
    for batch in [1, entries.len()] {
        for entries in entries.chunks(batch) {
            model.replay(&Planner::new(2), entries)?;
        }
        let mut text = Vec::new();
        for document in documents(&model) {
            let document = Document::new(&document)?;
            anyhow::ensure!(write_document(document, Mode::Relaxed, &mut text)?.is_exact());
        }
        texts.push(String::from_utf8(text)?);
    }
    let again = texts.pop().unwrap_or_default();
    Ok([texts.pop().unwrap_or_default(), again])
}

fn leads(log: &[(&str, &str)], expected: &str) -> Result<()> {
    assert_eq!(replayed(log)?, [expected, expected]);
    Ok(())
}

#[test]
fn replacement_with_dollar_v_field() -> Result<()> {
    let replacement = r#"{"_id":1,"$v":2,"diff":{"u":{"a":1}}}"#;
    leads(
        &[("i", r#"{"_id":1,"k":1}"#), ("u", replacement)],
        replacement,
    )
}

#[test]
fn replacement_with_leading_dollar_field() -> Result<()> {
    let replacement = r#"{"_id":1,"$set":{"a":1}}"#;
    leads(
        &[("i", r#"{"_id":1,"k":1}"#), ("u", replacement)],
        replacement,
    )
}

#[test]
fn v1_without_dollar_v() -> Result<()> {
    let log = [
        ("i", r#"{"_id":1,"k":1}"#),
        ("u", r#"{"$set":{"a":1},"$unset":{"k":true}}"#),
    ];
    leads(&log, r#"{"_id":1,"a":1}"#)
}

#[test]
fn two_set_keys_in_one_o() -> Result<()> {
    let log = [
        ("i", r#"{"_id":1,"k":1}"#),
        ("u", r#"{"$v":1,"$set":{"a":1},"$set":{"b":2}}"#),
    ];
    leads(&log, r#"{"_id":1,"k":1,"a":1,"b":2}"#)
}

#[test]
fn ferretdb_set_whole_document() -> Result<()> {
    let log = [
        ("i", r#"{"_id":1,"k":1}"#),
        ("u", r#"{"$v":1,"$set":{"_id":1,"a":1}}"#),
    ];
    leads(&log, r#"{"_id":1,"a":1}"#)
}

/// Both `_id`s have the same key, and the stored type is that of the replacement.
#[test]
fn id_type_change_1_to_1_0() -> Result<()> {
    let log = [
        ("i", r#"{"_id":1,"k":1}"#),
        ("u", r#"{"_id":1.0,"k":2}"#),
        ("u", r#"{"$v":2,"diff":{"i":{"a":1}}}"#),
    ];
    leads(&log, r#"{"_id":1.0,"k":2,"a":1}"#)
}

#[test]
fn a_diff_after_a_whole_state_applies_to_that_state() -> Result<()> {
    let log = [
        ("i", r#"{"_id":1,"o":{"x":1}}"#),
        ("u", r#"{"$v":2,"diff":{"so":{"i":{"y":1}}}}"#),
        ("d", r#"{"_id":1}"#),
        ("i", r#"{"_id":1,"z":0,"o":{}}"#),
        ("u", r#"{"$v":2,"diff":{"u":{"z":1},"so":{"i":{"w":1}}}}"#),
        ("u", r#"{"$v":2,"diff":{"u":{"z":2}}}"#),
    ];
    leads(&log, r#"{"_id":1,"z":2,"o":{"w":1}}"#)
}

#[test]
fn change_events_of_diffs_fit_the_schema() -> Result<()> {
    let schema = EventSchema::of_change_events()?;
    let log = [
        (
            "u",
            r#"{"$v":2,"diff":{"d":{"a":false},"u":{"b":1},"i":{"c":[]},"so":{"u":{"1":2}}}}"#,
        ),
        (
            "u",
            r#"{"$v":2,"diff":{"sr":{"a":true,"l":3,"u0":1,"s2":{"d":{"x":false}}}}}"#,
        ),
        ("u", r#"{"$v":2,"diff":{"u":{"x.y":1,"":2}}}"#),
        ("u", r#"{"$v":2,"diff":{"damaged":1}}"#),
    ];
    for (_, entry) in entries(&log)? {
        let entry = Entry::parse(Document::new(&entry)?)?;
        for mode in [Mode::Relaxed, Mode::Canonical] {
            let mut event = Vec::new();
            write_change_event(&entry, "rs0", 0, mode, &mut event)?;
            schema.check(&serde_json::from_slice(&event)?)?;
        }
    }
    Ok(())
}
