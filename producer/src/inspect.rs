//! `oplog-producer inspect`: prints, as JSON lines, the records that `run` would produce. It does
//! not use Kafka.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oplog_relay_core::document::Document;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::{VALUE_SCHEMA, id_in_key};
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::{History, State};
use oplog_relay_core::topic::state_topic;
use oplog_relay_runtime::config::Start;
use oplog_relay_runtime::shutdown::Shutdown;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::config::{InspectConfig, Lookups};
use crate::encode::Encoder;
use crate::encode::chunk::{Chunk, EncodedRecord, STATE_TOPIC, TopicIndex};
use crate::error::ProducerError;
use crate::prepare::lookup::{BeforeLookup, CurrentLookup};
use crate::prepare::route::Router;
use crate::prepare::topics::Topics;
use crate::source::origin::{Origin, Resume};
use crate::source::{QUEUE_BATCHES, SourceEvent, StartAt};
use crate::stdout::is_open;

/// Prints records until the dump ends, everything that a live source has at the start is printed, or
/// the limit is reached.
///
/// # Errors
/// The errors of the source and of the encoder; [`ProducerError::Output`].
pub async fn inspect(config: InspectConfig, shutdown: Shutdown) -> Result<(), ProducerError> {
    let stream = &config.stream;
    let origin = Origin::of(stream).await?;
    let start = start(&origin, stream.start).await?;
    let topics = Topics::Nowhere {
        state_topic: state_topic(&stream.topic_prefix, origin.name()),
        partitions: stream.partitions,
    };
    let router = Router::new(
        &stream.topic_prefix,
        stream.filter.clone(),
        State::default(),
    )
    .ordered(stream.order)?
    .with_collections(origin.collections());
    let (lookup, before) = lookups(&origin, stream.lookups, &shutdown).await?;
    let transactions = origin.transactions(start, History::default(), shutdown.clone());
    let name = origin.name();
    let encoder = Encoder::new(
        name,
        stream.format,
        router,
        topics,
        None,
        None,
        transactions,
    )
    .with_router_headers(stream.headers)
    .looking_up_current(lookup)
    .looking_up_before(before);
    let printer = Printer {
        source: origin.name().to_owned(),
        topics: Vec::new(),
        format: stream.format,
        left: config.limit.unwrap_or(u64::MAX),
        newest: origin.newest().await?.map(|newest| newest.ts),
        out: BufWriter::new(io::stdout()),
    };
    let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
    let printing = tokio::task::spawn_blocking(move || print(events, encoder, printer));
    let feeding = origin.feed(
        start,
        Resume::default(),
        events_in,
        shutdown.clone(),
        |_| (),
    );
    tokio::pin!(feeding, printing);
    let (fed, printed) = tokio::select! {
        printed = &mut printing => (Ok(()), printed),
        // Entries that were read before an error are still printed.
        fed = &mut feeding => (fed, printing.await),
    };
    fed?;
    printed.map_err(|_| ProducerError::Ended("the printing thread ended"))?
}

/// Returns the given starting point. Without it, returns the oldest entry, or the present for a
/// change stream, which does not report the oldest entry.
async fn start(origin: &Origin, given: Option<Start>) -> Result<StartAt, ProducerError> {
    match given {
        Some(start) => origin.start(start).await,
        None if origin.is_change_stream() => origin.start(Start::Now).await,
        None => Ok(StartAt::Oldest),
    }
}

/// Returns the lookups that are configured.
async fn lookups(
    origin: &Origin,
    wanted: Lookups,
    shutdown: &Shutdown,
) -> Result<(Option<CurrentLookup>, Option<Box<BeforeLookup>>), ProducerError> {
    let current = match wanted.current {
        true => Some(origin.current_lookup(shutdown.clone()).await?),
        false => None,
    };
    let before = match wanted.before {
        true => Some(Box::new(origin.before_lookup(shutdown.clone()).await?)),
        false => None,
    };
    Ok((current, before))
}

fn print(
    mut events: mpsc::Receiver<SourceEvent>,
    mut encoder: Encoder,
    mut printer: Printer,
) -> Result<(), ProducerError> {
    let mut chunk = Chunk::default();
    while printer.left > 0 {
        match events.blocking_recv() {
            Some(event @ (SourceEvent::Batch(_) | SourceEvent::Events(_))) => {
                let mut print = |chunk: &mut Chunk| printer.print(chunk);
                let encoded = match &event {
                    SourceEvent::Events(batch) => {
                        encoder.encode_events(batch, &mut chunk, &mut print)
                    }
                    SourceEvent::Batch(batch) => encoder.encode(batch, &mut chunk, &mut print),
                    _ => Ok(()),
                };
                encoder.complete(&mut chunk);
                let end = chunk.reached.position.map(|end| end.ts);
                printer.print(&mut chunk)?;
                if printer.newest.is_some() && end >= printer.newest {
                    break;
                }
                match encoded {
                    Err(ProducerError::Interrupted) => break,
                    encoded => encoded?,
                }
            }
            Some(SourceEvent::Earlier(batch)) => encoder.recall(&batch)?,
            // `inspect` runs no full sync.
            Some(SourceEvent::Copied(_) | SourceEvent::Idle) => {}
            Some(SourceEvent::CaughtUp | SourceEvent::End) | None => break,
        }
    }
    is_open(printer.out.flush()).map(|_| ())
}

struct Printer {
    source: String,
    topics: Vec<String>,
    format: Format,
    left: u64,
    /// Time of the newest entry at the start, if the source reports it. Printing ends there, because
    /// not every server reports that it has no further entries.
    newest: Option<Timestamp>,
    out: BufWriter<io::Stdout>,
}

impl Printer {
    fn print(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        let new = chunk.new_topics.drain(..);
        self.topics.extend(new.map(|topic| topic.name));
        self.print_records(chunk)?;
        if let Some(barrier) = &chunk.barrier {
            // Without Kafka there are no offsets, so the barriers are printed with 0.
            let ends: Vec<Vec<i64>> = barrier
                .topics
                .iter()
                .map(|at| (0..at.partitions).map(|_| 0).collect())
                .collect();
            let name = |topic: &TopicIndex| self.topics.get(topic.0).map_or("", String::as_str);
            let names: Vec<&str> = barrier.topics.iter().map(|at| name(&at.topic)).collect();
            let mut records = Chunk::default();
            let entry = chunk.bytes(&barrier.entry);
            barrier.write(entry, &self.source, &names, &ends, &mut records)?;
            self.print_records(&records)?;
        }
        chunk.clear();
        Ok(())
    }

    fn print_records(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        for record in &chunk.records {
            // Records of the state topic are internal and not printed.
            if self.left == 0 || record.topic == STATE_TOPIC {
                continue;
            }
            self.left -= 1;
            let line = serde_json::to_string(&self.line(chunk, record))
                .map_err(|error| ProducerError::Output(error.into()))?;
            if !is_open(writeln!(self.out, "{line}"))? {
                self.left = 0;
            }
        }
        Ok(())
    }

    fn line<'p>(&'p self, chunk: &Chunk, record: &EncodedRecord) -> Line<'p> {
        let text = |range| String::from_utf8_lossy(chunk.bytes(range)).into_owned();
        let for_routers = chunk.router_headers.get(record.router_headers.clone());
        let headers = record.header.iter().chain(for_routers.unwrap_or_default());
        let value = chunk.bytes(&record.value);
        Line {
            topic: self.topics.get(record.topic.0).map(String::as_str),
            partition: record.partition,
            timestamp: record.timestamp,
            key: record
                .key
                .as_ref()
                .map(|key| match self.format.has_schemas() {
                    true => id_in_key(chunk.bytes(key)).unwrap_or_default().to_owned(),
                    false => text(key),
                }),
            headers: headers
                .map(|header| (header.name, text(&header.value)))
                .collect(),
            value_bytes: value.len(),
            value: show(self.format, value),
        }
    }
}

/// A record as it is printed.
#[derive(Serialize)]
struct Line<'l> {
    topic: Option<&'l str>,
    partition: i32,
    timestamp: i64,
    key: Option<String>,
    headers: BTreeMap<&'static str, String>,
    value_bytes: usize,
    value: Option<Box<RawValue>>,
}

/// Returns an Avro record as JSON, in which `rawEntry` is base64.
fn event_as_json(value: &[u8]) -> Option<Vec<u8>> {
    let schema = Schema::parse_str(VALUE_SCHEMA).ok()?;
    let reader = GenericDatumReader::builder(&schema).build().ok()?;
    // In the wire format a magic byte and the id of the schema, five bytes, precede the record.
    let mut record = value.get(5..)?;
    let mut event = reader.read_value(&mut record).ok()?;
    if let Value::Record(fields) = &mut event {
        for (_, field) in fields {
            if let Value::Union(_, value) = field
                && let Value::Bytes(bytes) = &**value
            {
                *field = Value::String(STANDARD.encode(bytes));
            }
        }
    }
    let event = serde_json::Value::try_from(event).ok()?;
    serde_json::to_vec(&event).ok()
}

/// Returns a value as JSON: JSON unchanged, BSON as canonical Extended JSON, Avro decoded. Raw
/// frames and tombstones have no such form.
fn show(format: Format, value: &[u8]) -> Option<Box<RawValue>> {
    let text = match format {
        Format::Json(_)
        | Format::ReaderJson(_)
        | Format::Oplog(_)
        | Format::Debezium(_)
        | Format::Snapshot(_) => value.to_vec(),
        Format::Bson => {
            let mut text = Vec::new();
            let written = write_document(Document::new(value).ok()?, Mode::Canonical, &mut text);
            written.is_ok().then_some(text)?
        }
        Format::Avro(_) | Format::ReaderAvro(_) => event_as_json(value)?,
        Format::Raw => return None,
    };
    RawValue::from_string(String::from_utf8(text).ok()?).ok()
}
