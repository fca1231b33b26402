//! Recorded entries that are written to the oplog of a FerretDB: they must result in the same
//! records as a dump of them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bson::Document;
use mongodb::Client;
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::Scenario;
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka};
use oplog_relay_kit::topic_reader::{Place, read_topics};

use crate::support::{Line, source};

/// The largest number of entries that FerretDB inserts as one batch. After each batch it logs the
/// inserts in the same oplog, and those entries are newer than all recorded entries.
const MOST: usize = 100;

/// Writes the first entries that the source can store, and returns them as a dump. FerretDB refuses
/// an entry whose document has field names with `$`; each entry is first written to the trial
/// server to detect this. If `gaps` is false, the function stops at the first refused entry, so
/// that no transaction is missing a part.
async fn write(source: &FerretDb, trial: &FerretDb, oplog: &[u8], gaps: bool) -> Result<Vec<u8>> {
    let trial = Client::with_uri_str(trial.uri()).await?;
    let trial = trial.database("trial").collection::<Document>("entries");
    let (mut rest, mut accepted, mut bytes) = (oplog, Vec::new(), Vec::new());
    while !rest.is_empty() && accepted.len() < MOST {
        let (entry, after) = Raw::split(rest)?;
        let document = Document::from_reader(entry.as_bytes())?;
        if trial.insert_one(document.clone()).await.is_ok() {
            accepted.push(document);
            bytes.extend_from_slice(entry.as_bytes());
        } else if !gaps {
            break;
        }
        rest = after;
    }
    let source = Client::with_uri_str(source.uri()).await?;
    let entries = source.database("local").collection::<Document>("oplog.rs");
    entries.insert_many(accepted).await?;
    Ok(bytes)
}

/// Returns the entries of each partition in order, by topic without the prefix. The `_id` that a
/// live source adds to its entries is removed.
fn carried(kafka: &Kafka, prefix: &str) -> Result<BTreeMap<Place, Vec<(EntryId, Document)>>> {
    let mut carried = BTreeMap::new();
    for ((topic, partition), records) in read_topics(&kafka.brokers(), prefix, Format::Bson)? {
        let entries: &mut Vec<_> = carried
            .entry((topic.replacen(prefix, "", 1), partition))
            .or_default();
        for entry in records.iter().flat_map(|record| &record.entries) {
            let mut document = Document::from_reader(entry.bytes.as_slice())?;
            document.remove("_id");
            entries.push((entry.id, document));
        }
    }
    Ok(carried)
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_live_source_are_carried_as_those_of_a_dump() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    for (name, least) in [("transactions-prepared", 20), ("ddl", 60)] {
        let (source, trial) = (source()?, FerretDb::start(&FerretDbOptions::target())?);
        let written = write(
            &source,
            &trial,
            &Scenario::new(name).oplog()?,
            name == "ddl",
        )
        .await?;
        let path = folder.path().join(name);
        std::fs::write(&path, &written)?;
        let (live, dump) = (format!("live-{name}"), format!("dump-{name}"));
        for (prefix, from) in [(&live, source.uri()), (&dump, path.display().to_string())] {
            Line::run(&kafka, from, prefix)
                .with("--source-name", "same")
                .with("--start", "oldest")
                .flag("--until-caught-up")
                .produce_all()?;
        }
        let (one, other) = (carried(&kafka, &live)?, carried(&kafka, &dump)?);
        let count: usize = one.values().map(Vec::len).sum();
        ensure!(count >= least, "{name}: {count} entries");
        ensure!(one == other, "{name} differs");
    }
    Ok(())
}
