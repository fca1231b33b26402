//! `oplog-producer inspect`: what would be produced, as JSON lines, without Kafka.

use std::io::{self, BufWriter, Write};

use oplog_relay_core::document::Document;
use oplog_relay_core::format::Format;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::runtime::shutdown::Shutdown;
use oplog_relay_core::state::State;
use oplog_relay_core::topic::state_topic;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::chunk::{Chunk, EncodedRecord};
use crate::config::InspectConfig;
use crate::encoder::Encoder;
use crate::error::ProducerError;
use crate::origin::Origin;
use crate::route::Router;
use crate::source::{QUEUE_BATCHES, SourceEvent, StartAt};
use crate::topics::Topics;

/// Prints records until the dump ends, the source has nothing more, or the limit is reached.
///
/// # Errors
/// What the source or the encoder finds; [`ProducerError::Output`].
pub async fn inspect(config: InspectConfig, shutdown: Shutdown) -> Result<(), ProducerError> {
    let stream = &config.stream;
    let origin = Origin::open(&stream.origin, stream.source_name.as_deref()).await?;
    let start = match stream.start {
        Some(start) => origin.start(start).await?,
        None => StartAt::Oldest,
    };
    let topics = Topics::Nowhere {
        state_topic: state_topic(&stream.topic_prefix, origin.name()),
        partitions: stream.partitions,
    };
    let router = Router::new(
        &stream.topic_prefix,
        stream.filter.clone(),
        State::default(),
    );
    let encoder = Encoder::new(origin.name(), stream.format, router, topics, None, None);
    let printer = Printer {
        topics: Vec::new(),
        format: stream.format,
        left: config.limit.unwrap_or(u64::MAX),
        out: BufWriter::new(io::stdout()),
    };
    let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
    let printing = tokio::task::spawn_blocking(move || print(events, encoder, printer));
    let feeding = origin.feed(start, events_in, shutdown.clone(), || ());
    tokio::pin!(feeding, printing);
    tokio::select! {
        printed = &mut printing => printed,
        fed = &mut feeding => {
            fed?;
            printing.await
        }
    }
    .map_err(|_| ProducerError::Ended("printing"))?
}

fn print(
    mut events: mpsc::Receiver<SourceEvent>,
    mut encoder: Encoder,
    mut printer: Printer,
) -> Result<(), ProducerError> {
    let mut chunk = Chunk::default();
    while printer.left > 0 {
        match events.blocking_recv() {
            Some(SourceEvent::Batch(batch)) => {
                let mut print = |chunk: &mut Chunk| printer.print(chunk);
                let encoded = encoder.encode(&batch, &mut chunk, &mut print);
                encoder.complete(&mut chunk);
                printer.print(&mut chunk)?;
                encoded?;
            }
            Some(SourceEvent::Idle | SourceEvent::End) | None => break,
        }
    }
    printer.out.flush().map_err(ProducerError::Output)
}

struct Printer {
    topics: Vec<String>,
    format: Format,
    left: u64,
    out: BufWriter<io::Stdout>,
}

impl Printer {
    fn print(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        self.topics.append(&mut chunk.new_topics);
        for record in &chunk.records {
            // Records of the state topic are the program's own.
            if self.left == 0 || record.topic.0 == 0 {
                continue;
            }
            self.left -= 1;
            let line = self.line(chunk, record);
            match writeln!(self.out, "{line}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.left = 0,
                written => written.map_err(ProducerError::Output)?,
            }
        }
        chunk.clear();
        Ok(())
    }

    fn line(&self, chunk: &Chunk, record: &EncodedRecord) -> Value {
        let text = |range| String::from_utf8_lossy(chunk.bytes(range)).into_owned();
        let headers: Map<String, Value> = record
            .header
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::String(text(value))))
            .collect();
        let value = chunk.bytes(&record.value);
        json!({
            "topic": self.topics.get(record.topic.0),
            "partition": record.partition,
            "timestamp": record.timestamp,
            "key": record.key.as_ref().map(text),
            "headers": headers,
            "value": show(self.format, value),
            "value_bytes": value.len(),
        })
    }
}

/// JSON as it is, BSON as canonical Extended JSON, a frame by its size alone.
fn show(format: Format, value: &[u8]) -> Value {
    match format {
        Format::Json(_) => serde_json::from_slice(value).unwrap_or(Value::Null),
        Format::Bson => {
            let mut text = Vec::new();
            let written = Document::new(value)
                .and_then(|document| write_document(document, Mode::Canonical, &mut text));
            match written {
                Ok(_) => serde_json::from_slice(&text).unwrap_or(Value::Null),
                Err(_) => Value::Null,
            }
        }
        Format::Raw => Value::Null,
    }
}
