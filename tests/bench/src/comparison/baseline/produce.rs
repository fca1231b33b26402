//! The baselines of the producer: the driver's cursor, librdkafka's producer, and a loop of both.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::options::{CursorType, FindOptions, ReadConcern};
use mongodb::raw_batch_cursor::RawBatchCursor;
use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::key::{partition_for, write_key};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::MARK;
use oplog_relay_kit::stub::{NAMESPACE, Oplog, Shape};

const LIMIT: Duration = Duration::from_secs(60);
/// Number of records between two polls of the delivery reports.
const POLL_EVERY: u64 = 1024;
/// Number of entries that the plain producer sends repeatedly. They have far more bytes than the
/// window of lz4, so the repetition does not improve the compression.
const PREPARED: u64 = 20_000;

/// Opens a tailable cursor on the whole oplog.
pub(in crate::comparison) async fn open_cursor(source: &str) -> Result<RawBatchCursor> {
    let client = Client::with_uri_str(source).await?;
    let oplog = client
        .database("local")
        .collection::<RawDocumentBuf>("oplog.rs");
    let options = FindOptions::builder()
        .cursor_type(CursorType::TailableAwait)
        .max_await_time(Duration::from_secs(1))
        .read_concern(ReadConcern::majority())
        .build();
    let beginning = Timestamp {
        time: 0,
        increment: 0,
    };
    let filter = doc! { "ts": { "$gte": beginning } };
    Ok(oplog.find(filter).with_options(options).batch().await?)
}

/// Passes every document to `take` until the given number of documents has been read.
async fn tail(
    source: &str,
    entries: u64,
    mut take: impl FnMut(Document<'_>) -> Result<()>,
) -> Result<()> {
    let mut cursor = open_cursor(source).await?;
    eprintln!("{MARK}");
    let mut seen = 0;
    while seen < entries {
        let batch = cursor.next().await.context("the cursor was closed")??;
        for document in Document::new(batch.doc_slices()?.as_bytes())?.elements() {
            take(document.and_then(Element::document)?)?;
            seen += 1;
        }
    }
    ensure!(seen == entries, "{seen} of {entries} entries arrived");
    Ok(())
}

/// Runs a future to completion on a single-threaded runtime.
pub(in crate::comparison) fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// Reads the entries without writing them.
pub(super) fn read_only(source: &str, entries: u64) -> Result<()> {
    let mut bytes = 0;
    on_one_thread(tail(source, entries, |document| {
        bytes += document.as_bytes().len();
        Ok(())
    }))?;
    println!("{bytes} bytes");
    Ok(())
}

/// Sends prepared records without reading any.
pub(super) fn write_only(sink: &Sink, entries: u64) -> Result<()> {
    let oplog = Oplog::generate(PREPARED.min(entries), Shape::Inserts);
    let mut prepared = Vec::new();
    for number in 0..oplog.len() {
        let bytes = oplog.entry(number).context("no prepared entry")?;
        let mut key = Vec::new();
        write_key(
            Entry::parse(Document::new(bytes)?)?.document_id()?,
            &mut key,
        )?;
        prepared.push((bytes, key));
    }
    eprintln!("{MARK}");
    for (number, (value, key)) in (0..entries).zip(prepared.iter().cycle()) {
        sink.send(&sink.topic, number, key, value)?;
    }
    sink.finish()
}

/// Reads from the cursor, computes the key and writes with librdkafka. The suffix of a collection's
/// name, relative to the first collection, is also the suffix of its topic's name.
pub(super) fn read_and_write(source: &str, sink: &Sink, entries: u64) -> Result<()> {
    let (mut number, mut key) = (0, Vec::new());
    let mut topic = sink.topic.clone();
    on_one_thread(tail(source, entries, |document| {
        let entry = Entry::parse(document)?;
        key.clear();
        write_key(entry.document_id()?, &mut key)?;
        topic.truncate(sink.topic.len());
        topic.push_str(entry.ns.strip_prefix(NAMESPACE).unwrap_or_default());
        sink.send(&topic, number, &key, document.as_bytes())?;
        number += 1;
        Ok(())
    }))?;
    sink.finish()
}

/// A plain librdkafka producer with the batch size and the queue size of `oplog-producer`.
pub(super) struct Sink {
    producer: BaseProducer,
    /// The topic of the first collection.
    pub(super) topic: String,
    partitions: u32,
}

impl Sink {
    pub(super) fn open(brokers: &str, topic: &str, partitions: u32) -> Result<Sink> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("delivery.report.only.error", "true")
            .create()?;
        Ok(Sink {
            producer,
            topic: topic.to_owned(),
            partitions,
        })
    }

    pub(super) fn send(&self, topic: &str, number: u64, key: &[u8], value: &[u8]) -> Result<()> {
        let partition = i32::try_from(partition_for(key, self.partitions))?;
        let record = BaseRecord::to(topic).partition(partition);
        let mut record = record.key(key).payload(value);
        if number.is_multiple_of(POLL_EVERY) {
            self.producer.poll(Duration::ZERO);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    pub(super) fn finish(&self) -> Result<()> {
        Ok(self.producer.flush(LIMIT)?)
    }
}
