//! Small inputs of old servers (`tests/fixtures/faults`), from the entries to the model target.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::format::{Format, decode};
use oplog_relay_core::json::Mode;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::Model;

use crate::handmade::carry::carry;

fn entries(file: &str) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults");
    let bytes = fs::read(folder.join(file)).with_context(|| file.to_owned())?;
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (document, after) = Document::split(rest)?;
        found.push(document.as_bytes().to_vec());
        rest = after;
    }
    Ok(found)
}

#[test]
fn a_lone_drop_of_a_database_ends_its_collections() -> Result<()> {
    let carried = carry(&entries("drop-database-3.4.bson")?)?;
    ensure!(carried.refused.is_none(), "{:?}", carried.refused);
    let ids: Vec<String> = carried
        .entries
        .iter()
        .map(|entry| entry.carried.0.to_string())
        .collect();
    let expected = [
        "1700000000:1/0",
        "1700000000:2/0",
        "1700000000:3/0",
        "1700000000:3/1",
        "1700000000:3/2",
        "1700000000:4/0",
    ];
    ensure!(ids == expected, "{ids:?}");
    let mut model = Model::default();
    for entry in &carried.entries {
        model.replay(&Planner::new(1), std::slice::from_ref(&entry.carried))?;
    }
    let state = model.state();
    let left: Vec<_> = state.iter().filter(|(_, all)| !all.is_empty()).collect();
    ensure!(left.len() == 1 && state["bugs_34.a"].len() == 1, "{left:?}");
    let document = bson::Document::from_reader(state["bugs_34.a"][0].as_slice())?;
    ensure!(
        document == bson::doc! { "_id": 2, "new": true },
        "{document}"
    );
    Ok(())
}

/// Returns the entry that a consumer makes of an entry's event, and whether the event has
/// `rawEntry`.
fn through_json(id: EntryId, bytes: &[u8], mode: Mode) -> Result<(Vec<u8>, bool)> {
    let (mut arena, mut found) = (Vec::new(), Vec::new());
    let entry = Entry::parse(Document::new(bytes)?)?;
    write_change_event(&entry, "rs0", id.ord, mode, &mut arena)?;
    let has_raw_entry = String::from_utf8_lossy(&arena).contains(r#","rawEntry":""#);
    let value = 0..arena.len();
    decode(Format::Json(mode), value, None, &mut arena, &mut found)?;
    let decoded = found.first().context("no entry")?;
    Ok((decoded.document(&arena)?.as_bytes().to_vec(), has_raw_entry))
}

#[test]
fn names_that_occur_twice_are_replayed_exactly_from_json() -> Result<()> {
    let carried = carry(&entries("duplicate-names.bson")?)?;
    let mut states = Vec::new();
    for mode in [None, Some(Mode::Canonical), Some(Mode::Relaxed)] {
        let mut model = Model::default();
        for entry in &carried.entries {
            let (id, bytes) = &entry.carried;
            let mut read = bytes.clone();
            if let Some(mode) = mode {
                let (entry, has_raw_entry) = through_json(*id, bytes, mode)?;
                ensure!(has_raw_entry && entry == *bytes, "{id} in {mode:?}");
                read = entry;
            }
            // Updates are left out: a server refuses some of them, which a sink then rewrites.
            let entry = Entry::parse(Document::new(&read)?)?;
            if entry.o2.is_none() {
                model.replay(&Planner::new(1), &[(*id, read)])?;
            }
        }
        states.push(model.state());
    }
    ensure!(states[0] == states[1] && states[0] == states[2]);
    ensure!(states[0]["bugs_t.dup"].len() == 1);
    Ok(())
}
