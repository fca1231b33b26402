//! Dumps as sources: formats, start positions, filters, and inspection without Kafka.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bson::{Bson, Timestamp, doc};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::command::scope;
use oplog_relay_core::entry::Operation;
use oplog_relay_core::format::Format;
use oplog_relay_core::json::Mode;
use oplog_relay_kit::model::{Model, Scenario};
use oplog_relay_kit::services::{Kafka, Program, wait_until};
use oplog_relay_kit::topic_reader::{Contents, read_topics};
use oplog_relay_tests::schema::EventSchema;

use crate::history::History;
use crate::support::{Ended, LIMIT, Line, gzip};

const NAME: &str = "dump";

fn run(kafka: &Kafka, path: &Path, prefix: &str) -> Line {
    Line::run(kafka, path, prefix)
        .with("--source-name", NAME)
        .with("--start", "oldest")
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, bytes)?;
    Ok(path)
}

/// Returns the first `first` entries of a history, and the others, as dumps.
fn halves(history: &History, first: usize) -> (Vec<u8>, Vec<u8>) {
    let (one, other) = history.0.split_at(first);
    (one.concat(), other.concat())
}

#[test]
fn dumps_of_every_shape_give_every_entry_once() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    let oplog = Scenario::new("updates").oplog()?;
    let history = History::of_dump(&oplog)?;
    let (first, second) = halves(&history, 1500);
    let plain = written(folder.path(), "oplog.bson", &oplog)?;
    let packed = written(folder.path(), "packed.bson.gz", &gzip(&oplog)?)?;
    // The segments overlap, and their names are not in the order of time.
    let segments = folder.path().join("segments");
    fs::create_dir(&segments)?;
    let (longer, _) = halves(&history, 1600);
    written(&segments, "z.bson", &longer)?;
    written(&segments, "a.bson.gz", &gzip(&second)?)?;
    for (prefix, path) in [
        ("plain", &plain),
        ("packed", &packed),
        ("segments", &segments),
    ] {
        run(&kafka, path, prefix).produce_all()?;
        let contents = read_topics(&kafka.brokers(), prefix, Format::Bson)?;
        history
            .expect_once_in(&contents, prefix, NAME, Format::Bson)
            .context(prefix)?;
    }

    // The first half is produced, then the whole dump, and then the whole dump again, which has no
    // new entries.
    let half = written(folder.path(), "half.bson", &first)?;
    for path in [&half, &plain, &packed] {
        run(&kafka, path, "halves").produce_all()?;
    }
    let contents = read_topics(&kafka.brokers(), "halves", Format::Bson)?;
    history.expect_once_in(&contents, "halves", NAME, Format::Bson)?;
    // A dump that does not contain the saved position has a gap before it.
    let later = written(folder.path(), "later.bson", &history.0[3330..].concat())?;
    run(&kafka, &half, "gap").produce_all()?;
    run(&kafka, &later, "gap")
        .produce()?
        .with_code(3)?
        .with_log(&["position lost"])?;
    Ok(())
}

/// Returns the arguments of a producer whose source is its standard input.
fn piped(kafka: &Kafka, prefix: &str) -> [String; 7] {
    [
        "run".to_owned(),
        "--source=-".to_owned(),
        "--start=oldest".to_owned(),
        "--http=off".to_owned(),
        format!("--source-name={NAME}"),
        format!("--topic-prefix={prefix}"),
        format!("--brokers={}", kafka.brokers()),
    ]
}

#[test]
fn standard_input_is_a_dump() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    let oplog = Scenario::new("crud-types").oplog()?;
    let path = written(folder.path(), "input", &gzip(&oplog)?)?;
    let input = File::open(path)?;
    let mut producer = Program::with_input("oplog-producer", piped(&kafka, "piped"), input)?;
    let code = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    ensure!(code == 0, "{code}: {log}");
    // A new session cannot read the input again, so the first session must not fail.
    ensure!(!log.contains("the session failed"), "{log}");
    let contents = read_topics(&kafka.brokers(), "piped", Format::Bson)?;
    let history = History::of_dump(&oplog)?;
    history.expect_once_in(&contents, "piped", NAME, Format::Bson)?;
    Ok(())
}

#[test]
fn idle_standard_input_does_not_delay_the_shutdown() -> Result<()> {
    let kafka = Kafka::shared()?;
    // The pipe stays open to the end, and nothing is written to it.
    let (input, open) = std::io::pipe()?;
    let mut producer = Program::with_input("oplog-producer", piped(&kafka, "silent"), input)?;
    wait_until("a session", LIMIT, || {
        producer
            .stderr_text()
            .is_ok_and(|log| log.contains("session opened"))
    })?;
    producer.stop(LIMIT)?;
    let log = producer.stderr_text()?;
    ensure!(
        !log.contains("stopped before the shutdown was complete"),
        "{log}"
    );
    drop(open);
    Ok(())
}

#[test]
fn an_invalid_log_level_is_reported() -> Result<()> {
    let kafka = Kafka::shared()?;
    let level = "--log-level=info,oplog=loud".to_owned();
    let args = piped(&kafka, "loud").into_iter().chain([level]);
    let mut producer = Program::producer(args)?;
    let code = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    ensure!(
        code == 2 && log.contains("info,oplog=loud"),
        "{code}: {log}"
    );
    Ok(())
}

/// The formats, with the values of `--format` and `--json`.
const FORMATS: [(Format, &str, &str); 4] = [
    (Format::Raw, "raw", "relaxed"),
    (Format::Bson, "bson", "relaxed"),
    (Format::Json(Mode::Relaxed), "json", "relaxed"),
    (Format::Json(Mode::Canonical), "json", "canonical"),
];

/// Checks the values of JSON topics against the published schema.
fn expect_schema(contents: &Contents, format: Format) -> Result<()> {
    let schema = EventSchema::of_change_events()?;
    for record in contents.values().flatten() {
        if let Format::Json(_) = format {
            match serde_json::from_slice(&record.value) {
                // Some documents are nested more deeply than this parser permits.
                Err(error) if error.to_string().contains("recursion") => {}
                event => schema.check(&event?)?,
            }
        }
    }
    Ok(())
}

#[test]
fn recorded_oplogs_lead_to_the_servers_state_through_every_exact_format() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    for name in ["crud-types", "updates"] {
        let scenario = Scenario::new(name);
        let oplog = scenario.oplog()?;
        let history = History::of_dump(&oplog)?;
        let path = written(folder.path(), &format!("{name}.bson"), &oplog)?;
        for (format, flag, mode) in FORMATS {
            let prefix = format!("{name}-{flag}-{mode}");
            let line = run(&kafka, &path, &prefix)
                .with("--format", flag)
                .with("--json", mode);
            line.produce_all()?;
            let contents = read_topics(&kafka.brokers(), &prefix, format)?;
            history
                .expect_once_in(&contents, &prefix, NAME, format)
                .context(prefix)?;
            expect_schema(&contents, format)?;
            if !format.is_exact() {
                continue;
            }
            let (mut model, planner) = (Model::default(), Planner::new(4));
            for records in contents.values() {
                let entries = records.iter().flat_map(|record| &record.entries);
                let entries: Vec<_> = entries
                    .map(|entry| (entry.id, entry.bytes.clone()))
                    .collect();
                for entries in entries.chunks(100) {
                    model.replay(&planner, entries)?;
                }
            }
            scenario.expect(&model.state())?;
        }
    }
    Ok(())
}

/// Returns a dump with an insert, an update and a delete of a document of 15.9 MB.
fn large_document() -> Result<Vec<u8>> {
    let text = "0123456789abcdef".repeat(15_900_000 / 16);
    let at = |increment| Timestamp {
        time: 1_700_000_000,
        increment,
    };
    let wall = Bson::DateTime(bson::DateTime::from_millis(1_700_000_000_000));
    let head = |increment, op: &str| {
        doc! { "ts": at(increment), "t": 1_i64, "v": 2_i64, "op": op, "ns": "big.docs" }
    };
    let mut insert = head(1, "i");
    insert.extend(doc! { "o": { "_id": 1, "text": &text }, "wall": &wall });
    let mut update = head(2, "u");
    let set = doc! { "$v": 1, "$set": { "text": text } };
    update.extend(doc! { "o": set, "o2": { "_id": 1 }, "wall": &wall });
    let mut delete = head(3, "d");
    delete.extend(doc! { "o": { "_id": 1 }, "wall": &wall });
    let mut dump = Vec::new();
    for entry in [insert, update, delete] {
        dump.extend(entry.to_vec()?);
    }
    Ok(dump)
}

#[test]
fn document_of_16_megabytes_passes_through_every_format() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    let dump = large_document()?;
    let history = History::of_dump(&dump)?;
    let path = written(folder.path(), "oplog.bson", &dump)?;
    for (format, flag, mode) in FORMATS {
        let prefix = format!("big-{flag}-{mode}");
        run(&kafka, &path, &prefix)
            .with("--format", flag)
            .with("--json", mode)
            .produce_all()?;
        let contents = read_topics(&kafka.brokers(), &prefix, format)?;
        history
            .expect_once_in(&contents, &prefix, NAME, format)
            .context(prefix)?;
    }
    Ok(())
}

#[test]
fn a_start_position_and_namespace_patterns_select_the_entries() -> Result<()> {
    let kafka = Kafka::shared()?;
    let folder = tempfile::tempdir()?;
    let oplog = Scenario::new("crud-types").oplog()?;
    let history = History::of_dump(&oplog)?;
    let path = written(folder.path(), "oplog.bson", &oplog)?;
    let middle = history.entries().nth(700).context("no entry")??.ts;
    let later = history.filtered(|entry| entry.ts >= middle)?;
    let from_second = history.filtered(|entry| entry.ts.seconds >= middle.seconds)?;
    let second = bson::DateTime::from_millis(i64::from(middle.seconds) * 1000);
    let second = second.try_to_rfc3339_string()?;
    let line = |prefix: &str| Line::run(&kafka, &path, prefix).with("--source-name", NAME);
    let some = history.filtered(|entry| {
        let is_chosen =
            |ns: &str| ns.starts_with("crud_types.ids_") && ns != "crud_types.ids_mixed";
        let command = scope(entry).ok().flatten().map(|scope| scope.ns());
        match entry.operation {
            Operation::Command => command.is_some_and(|ns| is_chosen(&ns)),
            _ => is_chosen(entry.ns),
        }
    })?;
    let chosen = line("chosen").with("--start", "oldest");
    let chosen = chosen.with("--include-namespaces", "crud_types.ids_*");
    let chosen = chosen.with("--exclude-namespaces", "crud_types.ids_mixed");
    for (prefix, line, expected) in [
        (
            "position",
            line("position").with("--start", middle.to_string()),
            &later,
        ),
        (
            "rfc3339",
            line("rfc3339").with("--start", second),
            &from_second,
        ),
        ("chosen", chosen, &some),
    ] {
        line.produce_all()?;
        let contents = read_topics(&kafka.brokers(), prefix, Format::Bson)?;
        expected
            .expect_once_in(&contents, prefix, NAME, Format::Bson)
            .context(prefix)?;
    }
    Ok(())
}

#[test]
fn inspect_prints_what_would_be_produced_without_kafka() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let oplog = Scenario::new("updates").oplog()?;
    let path = written(folder.path(), "oplog.bson", &oplog)?;
    let schema = EventSchema::of_change_events()?;
    for (format, flag, mode) in FORMATS {
        let line = Line::new("inspect")
            .with("--source", &path)
            .with("--source-name", NAME);
        let line = line
            .with("--topic-prefix", "seen")
            .with("--format", flag)
            .with("--json", mode);
        let ended = Ended::wait(line.with("--limit", "100").start_producer()?)?.with_code(0)?;
        let lines: Vec<serde_json::Value> = ended
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        // A frame has many entries, so there are fewer lines.
        ensure!(
            lines.len() == 100 || format == Format::Raw,
            "{} lines",
            lines.len()
        );
        for line in &lines {
            let topic = line["topic"].as_str().context("no topic")?;
            ensure!(topic.starts_with("seen.updates."), "{line}");
            ensure!(
                line["partition"].is_i64() && line["timestamp"].is_i64(),
                "{line}"
            );
            if let Format::Json(_) = format {
                schema.check(&line["value"])?;
            }
            let id = line["headers"]["oplog-id"].as_str();
            ensure!(id.is_some_and(|id| id.starts_with("dump/")) == (format == Format::Bson));
        }
    }
    Ok(())
}
