//! Golden oplogs of a real server, through every exact format and the plan of a replay into the
//! model target, must end in the state that the server had.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use oplog_consumer::plan::Planner;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::format::{self, Format};
use oplog_relay_core::json::Mode;
use oplog_relay_core::position::EntryId;
use oplog_relay_tests::model::{Model, Scenario};
use oplog_relay_tests::schema::ChangeEventSchema;
use oplog_relay_tests::stream::{Begin, Stream};

const SCENARIOS: [&str; 4] = [
    "crud-types",
    "updates",
    "transactions",
    "transactions-prepared",
];

/// Entries of each partition, in order.
type Partitions = BTreeMap<(String, i32), Vec<(EntryId, Vec<u8>)>>;

/// A user's own `applyOps` updates it in forms that a server never logs: whole documents without
/// `_id`, `$inc`, `$push`, upserts. A replay stops at them.
const BY_A_USER: &str = "transactions_a.plain";

/// Spreads the entries over partitions: what the producer makes of a dump, without the commands
/// that the model does not know.
fn spread(scenario: &Scenario) -> Result<Partitions> {
    let runtime = tokio::runtime::Runtime::new()?;
    let dump = runtime.block_on(Stream::dump(&scenario.oplog()?, Begin::oldest()))?;
    let mut partitions = Partitions::new();
    for (_, partition, id, bytes) in dump.records {
        let entry = Entry::parse(Document::new(&bytes)?)?;
        let known = match entry.operation {
            Operation::Command => {
                let (db, _) = entry.namespace();
                let command = entry.command()?;
                let ns = format!("{db}.{}", command.str()?);
                command.name == b"create" && ns != BY_A_USER
            }
            _ => entry.ns != BY_A_USER,
        };
        if known {
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

/// Replays partition by partition, in batches of that many entries.
fn replay(model: &mut Model, format: Format, partitions: &Partitions, batch: usize) -> Result<()> {
    let planner = Planner::new(4);
    for entries in partitions.values() {
        for entries in carried(format, entries)?.chunks(batch) {
            model.replay(&planner, entries)?;
        }
    }
    Ok(())
}

#[test]
fn golden_oplogs_lead_to_the_servers_state_through_every_exact_format() -> Result<()> {
    for name in SCENARIOS {
        let scenario = Scenario::new(name).without(BY_A_USER);
        let partitions = spread(&scenario)?;
        for format in [Format::Raw, Format::Bson, Format::Json(Mode::Canonical)] {
            for batch in [1, 7, 1000] {
                let mut model = Model::default();
                replay(&mut model, format, &partitions, batch)?;
                let outcome = scenario.expect(&model.state());
                ensure!(
                    outcome.is_ok(),
                    "{name} as {format} by {batch}: {outcome:?}"
                );
                ensure!(model.unmatched == 0, "{} unmatched", model.unmatched);
            }
        }
    }
    Ok(())
}

#[test]
fn golden_oplogs_replayed_again_from_the_beginning_lead_to_the_same_bytes() -> Result<()> {
    for name in SCENARIOS {
        let scenario = Scenario::new(name).without(BY_A_USER);
        let partitions = spread(&scenario)?;
        let mut model = Model::default();
        for batch in [100, 64] {
            replay(&mut model, Format::Bson, &partitions, batch)?;
            scenario.expect(&model.state())?;
        }
    }
    Ok(())
}

/// A `$set` of a field that is there leaves its place, one that came back after an `$unset`
/// stands last: a stretch that begins inside a document's life may leave other orders of fields,
/// as with every replay of an oplog.
#[test]
fn golden_oplogs_replayed_again_from_any_point_lead_to_the_same_fields() -> Result<()> {
    for name in SCENARIOS {
        let scenario = Scenario::new(name).without(BY_A_USER);
        let partitions = spread(&scenario)?;
        for part in [2, 3, 5, 50] {
            let mut model = Model::default();
            replay(&mut model, Format::Bson, &partitions, 100)?;
            let tail = |entries: &Vec<_>| entries[entries.len() - entries.len() / part..].to_vec();
            let again = partitions.iter();
            let again = again.map(|(place, entries)| (place.clone(), tail(entries)));
            replay(&mut model, Format::Bson, &again.collect(), 64)?;
            let (found, expected) = (model.state(), scenario.expected()?);
            ensure!(found.keys().eq(expected.keys()));
            for (ns, documents) in &expected {
                for (found, wanted) in found[ns].iter().zip(documents) {
                    let (one, other) = (sorted(found)?, sorted(wanted)?);
                    ensure!(one == other, "{ns} from {part}: {one:?} and {other:?}");
                }
                ensure!(found[ns].len() == documents.len(), "{ns} from {part}");
            }
        }
    }
    Ok(())
}

/// A document whose fields are in order of their names, at every level.
fn sorted(document: &[u8]) -> Result<Vec<u8>> {
    let mut fields = Vec::new();
    for element in Document::new(document)?.elements() {
        let element = element?;
        let value = match element.kind {
            kind::DOCUMENT | kind::ARRAY => sorted(element.value)?,
            _ => element.value.to_vec(),
        };
        fields.push((element.name, element.kind, value));
    }
    fields.sort();
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    for (name, kind, value) in &fields {
        let (name, kind) = (*name, *kind);
        builder.element(Element { name, kind, value });
    }
    builder.finish();
    Ok(out)
}

#[test]
fn every_golden_change_event_fits_the_schema() -> Result<()> {
    let schema = ChangeEventSchema::load()?;
    let mut deep = 0;
    for name in SCENARIOS {
        for entries in spread(&Scenario::new(name).without(BY_A_USER))?.values() {
            for (id, bytes) in entries {
                let entry = Entry::parse(Document::new(bytes)?)?;
                for mode in [Mode::Relaxed, Mode::Canonical] {
                    let mut event = Vec::new();
                    write_change_event(&entry, "rs0", id.ord, mode, &mut event)?;
                    match serde_json::from_slice(&event) {
                        // 170 levels are valid, but more than this parser takes.
                        Err(error) if error.to_string().contains("recursion") => deep += 1,
                        event => schema.check(&event?)?,
                    }
                }
            }
        }
    }
    ensure!(deep < 20, "{deep} events were not looked at");
    Ok(())
}
