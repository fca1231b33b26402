//! Change events in Avro, read by another implementation of Avro.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::avro::{VALUE_SCHEMA, write_avro_event};
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::json::Mode;

use crate::recorded::{scenarios, spread};

#[test]
fn every_golden_event_in_avro_can_be_read_with_its_schema() -> Result<()> {
    let schema = Schema::parse_str(VALUE_SCHEMA)?;
    let reader = GenericDatumReader::builder(&schema).build()?;
    let mut compared = BTreeMap::<&str, u32>::new();
    for scenario in scenarios()? {
        for entries in spread(&scenario)?.values() {
            for (id, bytes) in entries {
                let entry = Entry::parse(Document::new(bytes)?)?;
                let (mut avro, mut json) = (Vec::new(), Vec::new());
                write_avro_event(&entry, *id, "rs0", Mode::Relaxed, 7, &mut avro)?;
                write_change_event(&entry, "rs0", id.ord, Mode::Relaxed, &mut json)?;
                ensure!(avro.starts_with(&[0, 0, 0, 0, 7]), "the wire format");
                let mut rest = avro.get(5..).unwrap_or_default();
                let event = reader.read_value(&mut rest)?;
                ensure!(rest.is_empty(), "{id}: bytes after the event");
                let event = serde_json::Value::try_from(event)?;
                // This parser does not read deeply nested documents.
                let Ok(json) = serde_json::from_slice::<serde_json::Value>(&json) else {
                    continue;
                };
                compare(&event, &json, &mut compared)
                    .with_context(|| format!("{event}\n{json}"))?;
            }
        }
    }
    let expected = [
        "documentKey",
        "fullDocument",
        "rawUpdateDescription",
        "updateDescription",
    ];
    for field in expected {
        ensure!(
            compared.get(field).is_some_and(|count| *count > 500),
            "{field}: {compared:?}"
        );
    }
    Ok(())
}

/// Compares an event in Avro with the same event in JSON, and counts the compared documents by
/// field.
fn compare(
    avro: &serde_json::Value,
    json: &serde_json::Value,
    compared: &mut BTreeMap<&'static str, u32>,
) -> Result<()> {
    ensure!(avro["_id"] == json["_id"]);
    ensure!(avro["operationType"] == json["operationType"]);
    ensure!(avro["clusterTime"] == json["clusterTime"]["$timestamp"]);
    ensure!(avro["ns"]["db"] == json["ns"]["db"]);
    ensure!(avro["ns"]["coll"].as_str() == json["ns"]["coll"].as_str());
    ensure!(avro["formatVersion"] == json["formatVersion"]);
    ensure!(avro["rawEntry"].is_null() == json.get("rawEntry").is_none());
    for field in [
        "documentKey",
        "fullDocument",
        "updateDescription",
        "rawUpdateDescription",
        "operationDescription",
        "lsid",
    ] {
        let Some(expected) = json.get(field) else {
            ensure!(avro[field].is_null(), "{field}");
            continue;
        };
        let text = avro[field].as_str().with_context(|| field.to_owned())?;
        let document: serde_json::Value = serde_json::from_str(text)?;
        ensure!(document == *expected, "{field}");
        *compared.entry(field).or_default() += 1;
    }
    for (field, number) in [("txnIndex", "txnIndex"), ("txnCount", "txnCount")] {
        ensure!(avro[field].as_i64() == json.get(number).and_then(serde_json::Value::as_i64));
    }
    Ok(())
}
