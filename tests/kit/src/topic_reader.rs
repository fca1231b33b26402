//! Reads the data topics of a prefix back, as any `read_committed` reader sees them: by assignment,
//! without a group, up to the last stable offsets, once no transaction is open.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_core::barrier::{BARRIER_ORD, strip};
use oplog_relay_core::document::Document;
use oplog_relay_core::format::{self, Format, ID_HEADER, RANGE_HEADER};
use oplog_relay_core::json::parse_document;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::topic::is_data_topic;
use oplog_relay_runtime::kafka::is_transient;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::services::wait_for;

const STEP: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(120);

/// A topic and one of its partitions.
pub type Place = (String, i32);

/// The records of each partition in order.
pub type Contents = BTreeMap<Place, Vec<TopicRecord>>;

/// A record as it was read.
#[derive(Debug, Clone)]
pub struct TopicRecord {
    /// The offset.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// The timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The entries that the value decodes to.
    pub entries: Vec<TopicEntry>,
}

/// An entry found in a record.
#[derive(Debug, Clone)]
pub struct TopicEntry {
    /// The source that the record names.
    pub source: String,
    /// The entry's id.
    pub id: EntryId,
    /// The entry's BSON.
    pub bytes: Vec<u8>,
}

impl TopicRecord {
    /// Returns the value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers.find_map(|(key, value)| (key == name).then_some(value.as_slice()))
    }
}

/// Reads and decodes all data topics of a prefix.
///
/// # Errors
/// A topic cannot be read, or a record cannot be decoded.
pub fn read_topics(brokers: &str, prefix: &str, format: Format) -> Result<Contents> {
    let mut contents = read_records(brokers, prefix, "read_committed")?;
    for (place, records) in &mut contents {
        for record in records {
            record.entries = decode(record, format)
                .with_context(|| format!("{place:?} at {} is undecodable", record.offset))?;
        }
    }
    Ok(contents)
}

/// Reads all data topics of a prefix without decoding them, because records may be fragments.
///
/// # Errors
/// A topic cannot be read.
pub fn read_undecoded(brokers: &str, prefix: &str) -> Result<Contents> {
    read_records(brokers, prefix, "read_committed")
}

/// Reads one topic of one partition without decoding anything. A record without a value has an
/// empty one.
///
/// # Errors
/// The topic cannot be read.
pub fn read_topic_records(brokers: &str, topic: &str) -> Result<Vec<TopicRecord>> {
    let isolations = ["read_committed", "read_uncommitted"];
    let [committed, all] = isolations.map(|isolation| consumer(brokers, isolation));
    let mut records = Vec::new();
    read_topic((&committed?, &all?), topic, &[0], |message| {
        records.push(record(message)?);
        Ok(())
    })?;
    Ok(records)
}

/// Waits until no transaction is open in these partitions. A transaction is committed before all of
/// its partitions have the marker.
///
/// # Errors
/// A transaction stays open.
pub fn wait_until_settled<'t>(
    brokers: &str,
    partitions: impl IntoIterator<Item = (&'t str, i32)>,
) -> Result<()> {
    let committed = consumer(brokers, "read_committed")?;
    let all = consumer(brokers, "read_uncommitted")?;
    for (topic, partition) in partitions {
        settled((&committed, &all), topic, partition)?;
    }
    Ok(())
}

/// Counts the distinct keys in the data topics of a prefix; commands and barriers have none. Only
/// the keys are kept in memory.
///
/// # Errors
/// A topic cannot be read.
pub fn count_keys(brokers: &str, prefix: &str) -> Result<u64> {
    let committed = consumer(brokers, "read_committed")?;
    let all = consumer(brokers, "read_uncommitted")?;
    let mut count = 0;
    for (topic, partitions) in data_topics(&committed, prefix)? {
        let mut keys = HashSet::new();
        read_topic((&committed, &all), &topic, &partitions, |message| {
            keys.extend(message.key().map(<[u8]>::to_vec));
            Ok(())
        })?;
        count += keys.len() as u64;
    }
    Ok(count)
}

/// Counts the data records that a `read_uncommitted` reader sees, which include uncommitted and
/// aborted ones.
///
/// # Errors
/// A topic cannot be read.
pub fn count_uncommitted(brokers: &str, prefix: &str) -> Result<usize> {
    let contents = read_records(brokers, prefix, "read_uncommitted")?;
    Ok(contents.values().map(Vec::len).sum())
}

/// Returns all entries of all partitions, with the place of each.
pub fn entries(contents: &Contents) -> impl Iterator<Item = (&Place, &TopicRecord, &TopicEntry)> {
    contents.iter().flat_map(|(place, records)| {
        records.iter().flat_map(move |record| {
            let entries = record.entries.iter();
            entries.map(move |entry| (place, record, entry))
        })
    })
}

fn consumer(brokers: &str, isolation: &str) -> Result<BaseConsumer> {
    let consumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "topic-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", "4194304")
        .create()?;
    Ok(consumer)
}

/// Reads records without decoding them.
fn read_records(brokers: &str, prefix: &str, isolation: &str) -> Result<Contents> {
    let consumer = consumer(brokers, isolation)?;
    let all = self::consumer(brokers, "read_uncommitted")?;
    let mut contents = Contents::new();
    for (topic, partitions) in data_topics(&consumer, prefix)? {
        let places = partitions.iter().map(|number| (topic.clone(), *number));
        contents.extend(places.map(|place| (place, Vec::new())));
        read_topic((&consumer, &all), &topic, &partitions, |message| {
            let place = (message.topic().to_owned(), message.partition());
            contents.entry(place).or_default().push(record(message)?);
            Ok(())
        })?;
    }
    Ok(contents)
}

/// Returns the data topics of a prefix with their partitions.
fn data_topics(consumer: &BaseConsumer, prefix: &str) -> Result<Vec<(String, Vec<i32>)>> {
    let metadata = consumer.fetch_metadata(None, STEP)?;
    let topics = metadata.topics().iter();
    let ours = topics.filter(|topic| is_data_topic(prefix, topic.name()));
    let found = ours.map(|topic| {
        let partitions = topic.partitions().iter().map(MetadataPartition::id);
        (topic.name().to_owned(), partitions.collect())
    });
    Ok(found.collect())
}

/// Reads one topic, because the client reports the end of a partition by its number only.
///
/// A transaction is committed before all of its partitions have the marker, so first every
/// partition's last stable offset must have reached its end.
fn read_topic(
    (consumer, all): (&BaseConsumer, &BaseConsumer),
    topic: &str,
    partitions: &[i32],
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let mut assigned = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    for &partition in partitions {
        let (low, end) = settled((consumer, all), topic, partition)?;
        if low < end {
            assigned.add_partition_offset(topic, partition, Offset::Offset(low))?;
            open.insert(partition);
        }
    }
    consumer.assign(&assigned)?;
    let deadline = Instant::now() + READ_WITHIN;
    while !open.is_empty() {
        ensure!(Instant::now() < deadline, "{topic} {open:?} did not end");
        match consumer.poll(STEP) {
            None => {}
            Some(Ok(message)) => take(&message)?,
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until no transaction is open in a partition, and returns the partition's start and end.
fn settled(
    (committed, all): (&BaseConsumer, &BaseConsumer),
    topic: &str,
    partition: i32,
) -> Result<(i64, i64)> {
    wait_for("the end of transactions", READ_WITHIN, || {
        let ends = |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition, STEP);
        let offsets = ends(all).and_then(|(_, written)| Ok((written, ends(committed)?)));
        match offsets {
            Ok((written, (low, end))) => Ok((end >= written).then_some((low, end))),
            // A topic that was just created may not have a leader yet.
            Err(error) if is_transient(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
}

fn record(message: &BorrowedMessage<'_>) -> Result<TopicRecord> {
    let headers = message.headers().map(|headers| headers.iter().collect());
    let headers: Vec<rdkafka::message::Header<'_, &[u8]>> = headers.unwrap_or_default();
    Ok(TopicRecord {
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        timestamp: message.timestamp().to_millis().context("no timestamp")?,
        headers: headers
            .into_iter()
            .map(|header| {
                let value = header.value.unwrap_or_default().to_vec();
                (header.key.to_owned(), value)
            })
            .collect(),
        entries: Vec::new(),
    })
}

fn decode(record: &TopicRecord, format: Format) -> Result<Vec<TopicEntry>> {
    let mut arena = record.value.clone();
    let mut found = Vec::new();
    let header = record.header(ID_HEADER);
    format::decode(format, 0..arena.len(), header, &mut arena, &mut found)?;
    let source = source_of(record, format)?;
    let mut entries = Vec::with_capacity(found.len());
    for decoded in found {
        // A barrier is not an entry of the source, and a command may have no barrier.
        if decoded.id.ord == BARRIER_ORD {
            continue;
        }
        let document = decoded.document(&arena)?;
        let mut bytes = Vec::new();
        if !strip(document, &mut bytes)? {
            bytes = document.as_bytes().to_vec();
        }
        entries.push(TopicEntry {
            source: source.clone(),
            id: decoded.id,
            bytes,
        });
    }
    Ok(entries)
}

/// Returns the source that a record names: in its header, or in the event's `_id`.
fn source_of(record: &TopicRecord, format: Format) -> Result<String> {
    let header = match format {
        Format::Raw => RANGE_HEADER,
        Format::Bson | Format::Oplog(_) => ID_HEADER,
        Format::Avro(_) | Format::ReaderAvro(_) => {
            // Five bytes of the wire format, then the length of the first text: the source's name,
            // which is shorter than 64 bytes.
            let length = usize::from(record.value.get(5).context("no length")? / 2);
            let source = record.value.get(6..6 + length).context("no source")?;
            return Ok(std::str::from_utf8(source)?.to_owned());
        }
        Format::Debezium(_) | Format::Snapshot(_) => bail!("{format} is for readers only"),
        Format::Json(_) | Format::ReaderJson(_) => {
            let mut event = Vec::new();
            parse_document(&record.value, &mut event)?;
            let id = Document::new(&event)?.get("_id")?.context("no _id")?;
            let source = id.document()?.get("source")?.context("no source")?;
            return Ok(source.str()?.to_owned());
        }
    };
    let text = record
        .header(header)
        .with_context(|| format!("no {header}"))?;
    match std::str::from_utf8(text)?.split_once('/') {
        Some((source, _)) => Ok(source.to_owned()),
        None => bail!("{header} names no source"),
    }
}
