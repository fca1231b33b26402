//! Sends letters to the dead-letter topic: reads the records again from their source topic, produces
//! them, and waits until all of them are acknowledged.
//!
//! Dead letters are rare, so reading their records again is cheap, and the normal path does not
//! have to keep keys and headers. A set of letters belongs to one partition and one chunk, so it
//! takes one short read. The producer's queue is bounded, and one set is sent at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dead_letter::letter::LetterHeader;
use oplog_relay_core::format::fragment::FRAGMENT_HEADER;
use oplog_relay_runtime::kafka::{
    Context, KafkaOptions, SMALL_FETCH, client_config, is_group_refused, is_transient, limit_fetch,
};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::letter::{Envelope, Letter, headers};

/// Maximum time until a record is acknowledged, including the client's retries.
const DELIVERY: Duration = Duration::from_secs(20);
/// Maximum time for reading a set of records again.
const READING: Duration = Duration::from_secs(30);
/// Maximum time that one poll waits.
const STEP: Duration = Duration::from_millis(200);
/// Largest record that the producer sends, including the added headers. The topic is created with
/// `max.message.bytes` of 100 MiB, or less if the cluster does not allow that.
const LARGEST: usize = (100 << 20) - 1;
/// Maximum size of the producer's queue in KiB. A single larger record is accepted too.
const QUEUE_KBYTES: usize = 16 << 10;
/// Error code of a record that is too large for the topic or for the client.
const TOO_LARGE: RDKafkaErrorCode = RDKafkaErrorCode::MessageSizeTooLarge;

/// Delivery results of the letters, by their index.
#[derive(Debug, Default)]
struct Delivered {
    acknowledged: BTreeSet<usize>,
    too_large: BTreeSet<usize>,
    failure: Option<KafkaError>,
}

/// The producer's context, which collects the delivery reports.
#[derive(Debug, Clone, Default)]
struct Deliveries {
    kafka: Context,
    reports: Arc<Mutex<Delivered>>,
}

impl Deliveries {
    fn with<T>(&self, access: impl FnOnce(&mut Delivered) -> T) -> T {
        access(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, index: usize, error: KafkaError) {
        self.with(|reports| {
            if error.rdkafka_error_code() == Some(TOO_LARGE) {
                reports.too_large.insert(index);
            } else {
                reports.failure.get_or_insert(error);
            }
        });
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.kafka.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, index: Box<usize>) {
        match result {
            Ok(_) => self.with(|reports| reports.acknowledged.extend([*index])),
            Err((error, _)) => self.failed(*index, error.clone()),
        }
    }
}

/// A producer for the dead-letter topic, with the reader of the records. It is discarded after a
/// failure.
pub(super) struct DeadLetterProducer {
    producer: BaseProducer<Deliveries>,
    reader: BaseConsumer<Context>,
    /// The dead-letter topic.
    to: String,
}

/// The part of a record that is written to its letter.
#[derive(Clone, Copy)]
enum Part {
    /// Key, headers and value.
    Whole,
    /// Key and headers only: the value is too large for the topic.
    WithoutValue,
}

impl DeadLetterProducer {
    /// Creates the producer and the reader. They connect on first use.
    pub(super) fn open(options: &KafkaOptions, to: &str) -> KafkaResult<Self> {
        let mut config = client_config(options);
        let millis = DELIVERY.as_millis().to_string();
        config
            .set("enable.idempotence", "true")
            // A partition without state for this producer accepts the second of two in-flight
            // requests after the first one failed, and the client then counts both as acknowledged.
            .set("max.in.flight", "1")
            .set("message.timeout.ms", &millis)
            .set("message.max.bytes", LARGEST.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string())
            .set("compression.type", "lz4")
            // The reader reports broker errors already. The producer would also warn about consumer
            // options.
            .set_log_level(RDKafkaLogLevel::Emerg);
        let producer = config.create_with_context(Deliveries::default())?;
        let mut config = client_config(options);
        config
            // librdkafka requires a group.id; the reader neither joins a group nor commits offsets.
            .set("group.id", "oplog-relay-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "4096");
        limit_fetch(&mut config, SMALL_FETCH, SMALL_FETCH);
        let reader = config.create_with_context(Context::new())?;
        let to = to.to_owned();
        Ok(Self {
            producer,
            reader,
            to,
        })
    }

    /// Sends the letters of one partition, which must be sorted by offset. Returns after all of
    /// them are acknowledged.
    pub(super) fn send(&self, letters: &[Letter], envelope: Envelope<'_>) -> KafkaResult<()> {
        let reports = self.producer.context();
        reports.with(|reports| *reports = Delivered::default());
        self.send_part(letters, envelope, Part::Whole, |_| true)?;
        // A letter that is too large is sent a second time without its value.
        let large = reports.with(|reports| std::mem::take(&mut reports.too_large));
        if !large.is_empty() {
            self.send_part(letters, envelope, Part::WithoutValue, |index| {
                large.contains(&index)
            })?;
        }
        reports.with(|reports| {
            if reports.acknowledged.len() == letters.len() {
                return Ok(());
            }
            let unclear = || KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
            let too_large = || KafkaError::MessageProduction(TOO_LARGE);
            let failure = reports.failure.take();
            let large = !reports.too_large.is_empty();
            Err(failure.unwrap_or_else(if large { too_large } else { unclear }))
        })
    }

    /// Reads the records of the wanted letters, and produces the given part of each.
    fn send_part(
        &self,
        letters: &[Letter],
        envelope: Envelope<'_>,
        part: Part,
        is_wanted: impl Fn(usize) -> bool,
    ) -> KafkaResult<()> {
        let wanted = letters.iter().enumerate();
        let mut wanted = wanted.filter(|(index, _)| is_wanted(*index)).peekable();
        let Some((_, first)) = wanted.peek() else {
            return Ok(());
        };
        self.assign(envelope, first.offset)?;
        let deadline = Instant::now() + READING;
        while wanted.peek().is_some() {
            if Instant::now() >= deadline {
                let timed_out = RDKafkaErrorCode::OperationTimedOut;
                return Err(KafkaError::MessageConsumption(timed_out));
            }
            match self.reader.poll(STEP) {
                None => {}
                Some(Ok(record)) => {
                    // Letters with a lower offset refer to records that no longer exist.
                    while let Some((index, letter)) =
                        wanted.next_if(|(_, letter)| letter.offset <= record.offset())
                    {
                        let found = (letter.offset == record.offset()).then_some(&record);
                        self.produce(index, letter, envelope, found, part)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    for (index, letter) in wanted.by_ref() {
                        self.produce(index, letter, envelope, None, part)?;
                    }
                }
                // The reader uses assign(), so a missing right on the group does not matter.
                Some(Err(error)) if is_group_refused(&error) => {}
                Some(Err(error)) if is_transient(&error) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        self.reader.unassign()?;
        self.producer.flush(DELIVERY + STEP)
    }

    fn assign(&self, envelope: Envelope<'_>, offset: i64) -> KafkaResult<()> {
        let mut partitions = TopicPartitionList::new();
        let Envelope {
            topic, partition, ..
        } = envelope;
        partitions.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.reader.assign(&partitions)
    }

    fn produce(
        &self,
        index: usize,
        letter: &Letter,
        envelope: Envelope<'_>,
        found: Option<&BorrowedMessage<'_>>,
        part: Part,
    ) -> KafkaResult<()> {
        // A record may contain several entries. The letter then has only the entry that failed.
        let own = letter
            .entry
            .as_ref()
            .and_then(|entry| entry.bytes.as_deref());
        let value = own.or_else(|| found.and_then(Message::payload));
        let of_record = found.and_then(Message::headers);
        let of_record = || of_record.into_iter().flat_map(Headers::iter);
        // The first fragment of a record keeps its fragment header, because its value is
        // incomplete.
        let is_fragment = own.is_none() && of_record().any(|header| header.key == FRAGMENT_HEADER);
        let omitted = match (part, value, found) {
            (Part::WithoutValue, Some(value), _) => Some(format!(
                "the value ({} bytes), which is larger than the topic accepts: read it at topic, \
                 partition, offset",
                value.len()
            )),
            (_, None, None) => Some("the record, which no longer exists in its topic".to_owned()),
            _ if is_fragment => Some(
                "the other fragments, which follow the first one at topic, partition, offset"
                    .to_owned(),
            ),
            _ => None,
        };
        let value = value.filter(|_| matches!(part, Part::Whole));
        let mut all = OwnedHeaders::new();
        for header in of_record().filter(|header| is_fragment || header.key != FRAGMENT_HEADER) {
            all = all.insert(header);
        }
        for LetterHeader { name, value } in headers(letter, envelope, omitted.as_deref()) {
            all = all.insert(Header {
                key: &name,
                value: Some(&value),
            });
        }
        let mut record = BaseRecord::with_opaque_to(&self.to, Box::new(index))
            .partition(0)
            .headers(all);
        record.key = found.and_then(Message::key);
        record.payload = value;
        self.enqueue(index, record)
    }

    fn enqueue(
        &self,
        index: usize,
        mut record: BaseRecord<'_, [u8], [u8], Box<usize>>,
    ) -> KafkaResult<()> {
        let deadline = Instant::now() + DELIVERY;
        loop {
            let (error, again) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            match error.rdkafka_error_code() {
                Some(TOO_LARGE) => {
                    self.producer.context().failed(index, error);
                    return Ok(());
                }
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => {
                    self.producer.poll(STEP);
                    record = again;
                }
                _ => return Err(error),
            }
        }
    }
}
