//! Encodes golden oplogs of a real server in every exact format, decodes them and replays them into
//! the model target, whose state must then be that of the server.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::diff::Diff;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation, Update};
use oplog_relay_core::format::avro::{SchemaIds, write_avro_event};
use oplog_relay_core::format::debezium::{Debezium, write_debezium};
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::format::oplog::write_oplog_entry;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::format::{self, Format};
use oplog_relay_core::json::Mode;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::{Agreement, Model, Scenario, Version};
use oplog_relay_kit::stream::{Begin, Stream};
use oplog_relay_tests::schema::EventSchema;

/// Scenarios that only create collections and write documents.
const SCENARIOS: [(Version, &str); 12] = [
    (Version::V4_2, "crud-types"),
    (Version::V4_2, "updates"),
    (Version::V4_2, "transactions"),
    (Version::V4_2, "transactions-prepared"),
    (Version::V5_0, "array-truncation"),
    (Version::V5_0, "crud-types"),
    (Version::V5_0, "fcv-switch"),
    (Version::V5_0, "lookalike-entries"),
    (Version::V5_0, "pipeline-updates"),
    (Version::V5_0, "transactions"),
    (Version::V5_0, "transactions-prepared"),
    (Version::V5_0, "updates"),
];

/// Every scenario with `$v: 2` updates.
const WITH_DIFFS: [&str; 15] = [
    "array-truncation",
    "big-documents",
    "crud-types",
    "ddl",
    "ddl-5",
    "fcv-switch",
    "lookalike-entries",
    "pipeline-updates",
    "timeseries",
    "transactions",
    "transactions-prepared",
    "unique-indexes",
    "updates",
    "workload-a",
    "workload-b",
];
/// Number of diffs in all of these scenarios, including those within transactions.
const DIFFS: usize = 28_191;
/// Number of diffs that write the document's `_id` with its own value.
const DIFFS_WITH_ID: usize = 27;

/// The entries of each partition, in order.
pub(crate) type Partitions = BTreeMap<(String, i32), Vec<(EntryId, Vec<u8>)>>;

/// A collection that a user's own `applyOps` updates in forms that a server logs only for such a
/// command: whole documents without `_id`, `$inc`, `$push`, upserts. A replay stops at them.
const BY_A_USER: &str = "transactions_a.plain";

/// Distributes the entries over partitions as the producer does with a dump, except commands other
/// than `create` and the collection [`BY_A_USER`].
pub(crate) fn spread(scenario: &Scenario) -> Result<Partitions> {
    let runtime = tokio::runtime::Runtime::new()?;
    let dump = runtime.block_on(Stream::dump(&scenario.oplog()?, Begin::oldest()))?;
    let mut partitions = Partitions::new();
    for (_, partition, id, bytes) in dump.records {
        let entry = Entry::parse(Document::new(&bytes)?)?;
        let included = match entry.operation {
            Operation::Command => {
                let db = entry.namespace().db;
                let command = entry.command()?;
                let ns = format!("{db}.{}", command.str()?);
                command.name == b"create" && ns != BY_A_USER
            }
            _ => entry.ns != BY_A_USER,
        };
        if included {
            let place = (entry.ns.to_owned(), partition);
            partitions.entry(place).or_default().push((id, bytes));
        }
    }
    Ok(partitions)
}

/// Encodes entries as a producer does and decodes them as a consumer does.
fn carried(format: Format, entries: &[(EntryId, Vec<u8>)]) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let (mut arena, mut found) = (Vec::new(), Vec::new());
    let mut frame = Frame::default();
    for (id, bytes) in entries {
        let start = arena.len();
        let document = Document::new(bytes)?;
        let mut header = Vec::new();
        match format {
            Format::Raw => {
                frame.push(*id, document, Entry::parse(document)?.txn.is_some());
                continue;
            }
            Format::Bson => {
                id.write_header("rs0", &mut header);
                arena.extend_from_slice(bytes);
            }
            Format::Json(mode) => {
                write_change_event(&Entry::parse(document)?, "rs0", id.ord, mode, &mut arena)?;
            }
            Format::Oplog(mode) => {
                id.write_header("rs0", &mut header);
                write_oplog_entry(document, mode, &mut arena)?;
            }
            Format::Avro(mode) => {
                let entry = Entry::parse(document)?;
                write_avro_event(&entry, *id, "rs0", mode, 1, &mut arena)?;
            }
            Format::ReaderJson(_)
            | Format::Debezium(_)
            | Format::ReaderAvro(_)
            | Format::Snapshot(_) => {
                bail!("{format} is for readers only")
            }
        }
        let value = start..arena.len();
        format::decode(format, value, Some(&header), &mut arena, &mut found)?;
    }
    if !frame.is_empty() {
        frame.finish(&mut arena);
        format::decode(format, 0..arena.len(), None, &mut arena, &mut found)?;
    }
    let carried = found.into_iter();
    carried
        .map(|decoded| Ok((decoded.id, decoded.document(&arena)?.as_bytes().to_vec())))
        .collect()
}

/// Replays partition by partition, in batches of `batch` entries.
fn replay(model: &mut Model, format: Format, partitions: &Partitions, batch: usize) -> Result<()> {
    let planner = Planner::new(4);
    for entries in partitions.values() {
        for entries in carried(format, entries)?.chunks(batch) {
            model.replay(&planner, entries)?;
        }
    }
    Ok(())
}

pub(crate) fn scenarios() -> Result<Vec<Scenario>> {
    let all = SCENARIOS.into_iter();
    all.map(|(version, name)| {
        let scenario = Scenario::recorded_by(version, name).without(BY_A_USER);
        scenario.within_the_applier()
    })
    .collect()
}

#[test]
fn every_diff_that_a_server_wrote_is_understood() -> Result<()> {
    let (mut diffs, mut with_id) = (0, 0);
    for name in WITH_DIFFS {
        let oplog = Scenario::recorded_by(Version::V5_0, name).oplog()?;
        let runtime = tokio::runtime::Runtime::new()?;
        for (_, _, id, bytes) in runtime
            .block_on(Stream::dump(&oplog, Begin::oldest()))?
            .records
        {
            let entry = Entry::parse(Document::new(&bytes)?)?;
            if entry.operation != Operation::Update {
                continue;
            }
            if let Update::Diff(diff) = entry.update()? {
                let parsed = Diff::parse(diff).with_context(|| format!("{name}: {id}"))?;
                parsed.check_id(entry.document_id()?)?;
                diffs += 1;
                with_id += usize::from(writes_id(diff)?);
            }
        }
    }
    ensure!(diffs == DIFFS, "{diffs} diffs");
    ensure!(with_id == DIFFS_WITH_ID, "{with_id} diffs with _id");
    Ok(())
}

fn writes_id(diff: Document<'_>) -> Result<bool> {
    for section in ["u", "i"] {
        if let Some(fields) = diff.get(section)?
            && fields.document()?.get("_id")?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks every scenario, and names all that fail.
fn each(check: impl Fn(&Scenario, &Partitions) -> Result<()>) -> Result<()> {
    let mut failures = Vec::new();
    for scenario in scenarios()? {
        if let Err(error) = check(&scenario, &spread(&scenario)?) {
            failures.push(format!("{}: {error:#}", scenario.name()));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn golden_oplogs_lead_to_the_servers_state_through_every_exact_format() -> Result<()> {
    each(|scenario, partitions| {
        for format in [
            Format::Raw,
            Format::Bson,
            Format::Json(Mode::Canonical),
            Format::Oplog(Mode::Canonical),
            Format::Avro(Mode::Canonical),
        ] {
            for batch in [1, 7, 1000] {
                let mut model = Model::default();
                replay(&mut model, format, partitions, batch)?;
                let outcome = scenario.expect(&model.state());
                outcome.with_context(|| format!("{format} in batches of {batch}"))?;
                ensure!(model.unmatched == 0, "{} unmatched", model.unmatched);
            }
        }
        Ok(())
    })
}

#[test]
fn golden_oplogs_replayed_again_from_the_beginning_lead_to_the_same_bytes() -> Result<()> {
    each(|scenario, partitions| {
        let mut model = Model::default();
        for batch in [100, 64] {
            replay(&mut model, Format::Bson, partitions, batch)?;
            scenario.expect(&model.state())?;
        }
        Ok(())
    })
}

/// A `$set` of an existing field keeps its position; a field that returns after an `$unset` is the
/// last one. So a replay that starts in the middle of a document's history may result in a
/// different order of fields, as any application of an oplog may.
#[test]
fn golden_oplogs_replayed_again_from_any_point_lead_to_the_same_fields() -> Result<()> {
    each(|scenario, partitions| {
        for part in [2, 3, 5, 50] {
            let mut model = Model::default();
            replay(&mut model, Format::Bson, partitions, 100)?;
            let tail = |entries: &Vec<_>| entries[entries.len() - entries.len() / part..].to_vec();
            let again = partitions.iter();
            let again = again.map(|(place, entries)| (place.clone(), tail(entries)));
            replay(&mut model, Format::Bson, &again.collect(), 64)?;
            let outcome = scenario.expect_as(&model.state(), Agreement::Fields);
            outcome.with_context(|| format!("from the last 1/{part} of each partition"))?;
        }
        Ok(())
    })
}

#[test]
fn every_golden_event_in_debeziums_envelope_fits_the_schema() -> Result<()> {
    let schema = EventSchema::of_debezium()?;
    let mut ops = BTreeMap::<String, u32>::new();
    for scenario in scenarios()? {
        for entries in spread(&scenario)?.values() {
            for (id, bytes) in entries {
                let entry = Entry::parse(Document::new(bytes)?)?;
                if matches!(entry.operation, Operation::Command | Operation::Noop) {
                    continue;
                }
                let (mode, with_schema) = (Mode::Relaxed, false);
                let form = Debezium { mode, with_schema };
                let origin = Origin {
                    topic: "cdc.a.b",
                    source: "rs0",
                    processed_at: 1,
                    schemas: SchemaIds::default(),
                };
                let mut event = Vec::new();
                write_debezium(&entry, *id, form, &origin, &mut event)?;
                let event: serde_json::Value = serde_json::from_slice(&event)?;
                schema.check(&event)?;
                for field in ["after", "updateDescription"] {
                    if !event[field].is_null() {
                        *ops.entry(field.to_owned()).or_default() += 1;
                    }
                }
            }
        }
    }
    ensure!(
        ops.len() == 2 && ops.values().all(|count| *count > 500),
        "{ops:?}"
    );
    Ok(())
}

#[test]
fn every_golden_change_event_fits_the_schema() -> Result<()> {
    let schema = EventSchema::of_change_events()?;
    let mut deep = 0;
    for scenario in scenarios()? {
        for entries in spread(&scenario)?.values() {
            for (id, bytes) in entries {
                let entry = Entry::parse(Document::new(bytes)?)?;
                for mode in [Mode::Relaxed, Mode::Canonical] {
                    let mut event = Vec::new();
                    write_change_event(&entry, "rs0", id.ord, mode, &mut event)?;
                    match serde_json::from_slice(&event) {
                        // 170 levels are valid, but more than this parser permits.
                        Err(error) if error.to_string().contains("recursion") => deep += 1,
                        event => schema.check(&event?)?,
                    }
                }
            }
        }
    }
    ensure!(deep < 20, "{deep} events were not checked");
    Ok(())
}
