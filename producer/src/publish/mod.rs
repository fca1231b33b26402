//! Sends chunks to Kafka in transactions, the position last.
//!
//! A Kafka transaction contains records, then (after a flush) the position that they reach. So a
//! transaction that a broker commits only in part can duplicate an entry, but never lose one. On any
//! error that the client returns, the producer is dropped; a new session opens another one and
//! continues from the checkpoint. The first record to a partition is sent alone (`known_partitions`).
//!
//! # Modules
//!
//! - `barriers` writes commands and their barriers, which contain offsets; `log_end_offsets` reads
//!   those offsets
//! - `known_partitions` knows the partitions in which the broker has the state of this producer;
//!   `first_record` sends the first record to each of the other partitions
//! - `fragments` splits records that are larger than their topic accepts; `headers` makes the headers
//!   of a record
//! - `delivery` receives the delivery reports; `waiting` waits for them
//! - `pace` limits the bytes in flight; `markers` determines the pause between a commit and the next
//!   transaction
//! - `saved_record` sends a record of the state topic that no entry belongs to
//! - `single_record` sends a record outside of any transaction
//! - `error` has the reasons why records can never be written

mod barriers;
mod delivery;
pub mod error;
pub(crate) mod first_record;
mod fragments;
mod headers;
pub(crate) mod known_partitions;
pub mod log_end_offsets;
mod markers;
mod pace;
mod saved_record;
pub(crate) mod single_record;
mod waiting;

use std::ops::Range;
use std::time::{Duration, Instant};

use oplog_relay_core::format::fragment::Fragment;
use oplog_relay_core::state::PositionRecord;
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::{
    KafkaOptions, client_config, is_fenced, is_unauthorized, with_right,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::encode::chunk::{Chunk, EncodedRecord, NewTopic, STATE_TOPIC};
use crate::error::ProducerError;
use crate::publish::error::PublishError;
use crate::publish::log_end_offsets::Ends;
use crate::telemetry::latency::CommitTimes;

use crate::publish::known_partitions::KnownPartitions;
pub use crate::publish::single_record::send_single_record;
use barriers::NextOffsets;
use delivery::{DeliveryFailure, PublisherContext, cannot_be_split, too_large};
use headers::headers;
use markers::MarkerWait;
pub use pace::Pace;

/// Handling of a record that is larger than its topic accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oversize {
    /// The stream stops before the record.
    #[default]
    Stop,
    /// The record is split into fragments.
    Split,
}

/// The number of records, and of bytes of their values, that were sent in a transaction.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    records: u64,
    bytes: u64,
    /// The bytes of those that are known to be delivered.
    delivered: u64,
}

impl Sent {
    /// Returns the mean number of bytes of a record.
    fn each(self) -> u64 {
        self.bytes / self.records.max(1)
    }
}

/// Default time that a Kafka transaction may stay open at the broker.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The client option that overrides the default.
pub const TRANSACTION_TIMEOUT_OPTION: &str = "transaction.timeout.ms";
/// Time after which a transactional request counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of kilobytes of records that wait inside librdkafka: one record of the largest size
/// fits.
const QUEUE_KBYTES: u32 = 131_072;
/// Maximum size of a record. Topics are created with the same limit if the cluster accepts it.
pub const MAX_RECORD_BYTES: usize = 100 << 20;
/// Number of bytes of a batch with one record, without the record's key, headers and value (Kafka's
/// record batch of version 2: 61 and the lengths of its parts), with some to spare.
pub(crate) const RECORD_OVERHEAD: usize = 256;
/// Default maximum number of bytes of a batch of several records.
const BATCH_BYTES: usize = 1_000_000;
/// Time to wait for delivery reports that may explain a failure.
const REPORTS: Duration = Duration::from_secs(1);
/// Number of records between two checks of delivery reports.
const POLL_EVERY: u32 = 1024;
/// Number of bytes between two checks of delivery reports.
const POLL_EVERY_BYTES: usize = 1 << 20;
/// A transactional producer of one source. An error ends it.
pub struct Publisher {
    producer: BaseProducer<PublisherContext>,
    transactional_id: String,
    position_topic: String,
    /// The largest record batch that the position topic accepts, in bytes.
    position_limit: usize,
    source: String,
    topics: Vec<NewTopic>,
    oversize: Oversize,
    /// The time at which the open transaction began.
    begun: Option<Instant>,
    unpolled: u32,
    unpolled_bytes: usize,
    /// What was sent in the open transaction.
    sent: Sent,
    known: KnownPartitions,
    ends: Ends,
    next_offsets: NextOffsets,
    transaction_timeout: Duration,
    pace: Pace,
    markers: MarkerWait,
    /// Health, to which the publisher reports liveness while deliveries make progress.
    health: Health,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("transactional_id", &self.transactional_id)
            .finish()
    }
}

/// The sizes of the records that a publisher sends.
#[derive(Debug, Clone, Copy)]
pub struct RecordSizes {
    /// The policy for records that are larger than their topic accepts.
    pub oversize: Oversize,
    /// The smallest limit of the topics in bytes.
    pub smallest_limit: usize,
    /// The limit of the position topic in bytes.
    pub position_limit: usize,
}

impl Publisher {
    /// Opens a producer and fences every older one of the same source. The checkpoint is safe to read
    /// only after this. Batches are no larger than the smallest limit of the topics, so that no
    /// record is refused because of others in its batch.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`]; [`PublishError`] for options that the client does not
    /// accept, and if a permission is missing; [`ProducerError::Fenced`].
    pub fn open(
        options: &KafkaOptions,
        transactional_id: &str,
        position_topic: &str,
        source: &str,
        RecordSizes {
            oversize,
            smallest_limit: smallest,
            position_limit,
        }: RecordSizes,
    ) -> Result<Self, ProducerError> {
        let mut config = client_config(options);
        let transaction_timeout = transaction_timeout(options);
        let millis = transaction_timeout.as_millis().to_string();
        for (key, value) in [
            ("compression.type", "lz4"),
            // While the stream is catching up, records gather in the client's queue anyway, because
            // only five requests are in flight. When it is caught up, each transaction would wait for
            // this time twice: for its records and for its position.
            ("linger.ms", "0"),
            ("queue.buffering.max.messages", "1000000"),
        ] {
            // These are defaults of the program that the operator may override.
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        let batch = config.get("batch.size").and_then(|size| size.parse().ok());
        let batch = batch.unwrap_or(BATCH_BYTES).min(smallest.max(1));
        config
            .set("batch.size", batch.to_string())
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("transaction.timeout.ms", &millis)
            .set("message.timeout.ms", &millis)
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string())
            .set("delivery.report.only.error", "true");
        let producer: BaseProducer<PublisherContext> = config
            .create_with_context(PublisherContext::default())
            .map_err(|source| PublishError::Options { source })?;
        let publisher = Self {
            producer,
            transactional_id: transactional_id.to_owned(),
            position_topic: position_topic.to_owned(),
            position_limit,
            source: source.to_owned(),
            topics: Vec::new(),
            oversize,
            begun: None,
            unpolled: 0,
            unpolled_bytes: 0,
            sent: Sent::default(),
            known: KnownPartitions::default(),
            ends: Ends::new(options),
            next_offsets: NextOffsets::default(),
            transaction_timeout,
            pace: Pace::new(transaction_timeout),
            markers: MarkerWait::default(),
            health: Health::default(),
        };
        publisher
            .producer
            .init_transactions(REQUEST_TIMEOUT)
            .map_err(|error| publisher.not_opened(&error))?;
        Ok(publisher)
    }

    /// Returns the error of a producer that cannot be opened. A missing permission is final.
    fn not_opened(&self, error: &KafkaError) -> ProducerError {
        let doing = "opening the transactional producer";
        if !is_unauthorized(error) {
            return self.failed(doing, error);
        }
        let id = &self.transactional_id;
        let right = format!("Write on the transactional id {id}");
        let doing = with_right(doing, error, &right);
        let source = error.clone();
        PublishError::NotOpened { doing, source }.into()
    }

    /// Sets the limit of the bytes in flight, which the publisher also adjusts, and the health to
    /// which it reports liveness.
    #[must_use]
    pub fn paced(mut self, pace: Pace, health: Health) -> Self {
        (self.pace, self.health) = (pace, health);
        self
    }

    /// Returns the time that a transaction may stay open.
    #[must_use]
    pub const fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    /// Returns true if a Kafka transaction is open.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        self.begun.is_some()
    }

    /// Returns the number of records that wait for the broker.
    #[must_use]
    pub fn in_flight(&self) -> i32 {
        self.producer.in_flight_count()
    }

    /// Returns true if a record of the open transaction is delivered, and adjusts the pause between
    /// transactions when the first one is.
    #[must_use]
    pub(crate) fn has_delivered(&mut self) -> bool {
        let undelivered = u64::try_from(self.in_flight()).unwrap_or_default();
        let has_delivered = undelivered < self.sent.records;
        if has_delivered && let Some(begun) = self.begun {
            self.markers.delivered(begun.elapsed());
        }
        has_delivered
    }

    /// Returns the number of partitions that got a record so far.
    #[must_use]
    pub(crate) fn partitions(&self) -> u64 {
        self.known.partitions()
    }

    /// Hands a chunk's records to the client, inside the open transaction.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`], [`ProducerError::Fenced`], [`ProducerError::Undecodable`] for a
    /// record that is larger than its topic accepts, or [`PublishError::Undeliverable`] for a
    /// record that a broker refuses.
    pub fn send(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        self.topics.extend(chunk.new_topics.iter().cloned());
        if chunk.is_without_records() {
            return Ok(());
        }
        self.begin()?;
        self.send_records(chunk)?;
        if let Some(barrier) = &chunk.barrier {
            self.send_barrier(barrier, chunk.bytes(&barrier.entry))?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        if self.begun.is_none() {
            // Chunks that arrive in the meantime become part of the same transaction.
            std::thread::sleep(self.markers.left(Instant::now()));
            self.producer
                .begin_transaction()
                .map_err(|error| self.failed("beginning a transaction", &error))?;
            self.begun = Some(Instant::now());
            self.sent = Sent::default();
            self.next_offsets.clear();
        }
        Ok(())
    }

    fn send_part(
        &mut self,
        chunk: &Chunk,
        record: &EncodedRecord,
        value: &Range<usize>,
        fragment: Option<Fragment>,
    ) -> Result<(), ProducerError> {
        self.count_sent(value.len());
        self.next_offsets.count(record.topic, record.partition);
        let poll_every = POLL_EVERY_BYTES.min(self.pace.buffer_bytes() / 4);
        if self.unpolled >= POLL_EVERY || self.unpolled_bytes >= poll_every {
            self.hold_back()?;
        }
        let found = self.topics.get(record.topic.0);
        let topic = &found.ok_or_else(unknown_topic)?.name;
        let mut out = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(record.partition)
            .timestamp(record.timestamp);
        if !value.is_empty() {
            out = out.payload(chunk.bytes(value));
        }
        if let Some(key) = &record.key {
            out = out.key(chunk.bytes(key));
        }
        if let Some(headers) = headers(chunk, record, fragment) {
            out = out.headers(headers);
        }
        let mut waited: Option<Instant> = None;
        loop {
            match self.producer.send(out) {
                Ok(()) => return Ok(()),
                Err((error, refused)) if is_full(&error) => {
                    // The queue is bounded in bytes, so a full queue has to wait for the broker,
                    // but not indefinitely.
                    let since = *waited.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.transaction_timeout {
                        return Err(self.failed("waiting for room in the send queue", &error));
                    }
                    out = refused;
                    self.poll(Duration::from_millis(10))?;
                }
                Err((error, _)) => return Err(self.refused(topic, record, &error)),
            }
        }
    }

    fn count_sent(&mut self, bytes: usize) {
        self.unpolled += 1;
        self.unpolled_bytes += bytes;
        self.sent.records += 1;
        self.sent.bytes += bytes as u64;
    }

    fn refused(&self, topic: &str, record: &EncodedRecord, error: &KafkaError) -> ProducerError {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            let place = format!("{topic}[{}]", record.partition);
            return too_large(&place, record.value.len(), MAX_RECORD_BYTES);
        }
        self.failed(&format!("sending to {topic}[{}]", record.partition), error)
    }

    /// Serves delivery reports.
    ///
    /// # Errors
    /// The errors of [`Publisher::send`].
    pub fn poll(&self, wait: Duration) -> Result<(), ProducerError> {
        self.producer.poll(wait);
        self.check_delivery()
    }

    fn check_delivery(&self) -> Result<(), ProducerError> {
        let context = self.producer.client().context();
        if let Some(fatal) = context.client.fatal_error() {
            return Err(self.failed("producing", &fatal));
        }
        match self.delivery_failure() {
            Some(failure) => Err(self.undelivered(&failure)),
            None => Ok(()),
        }
    }

    fn delivery_failure(&self) -> Option<DeliveryFailure> {
        self.producer.client().context().failure()
    }

    /// Returns the reason behind an error of a transaction: a record that its topic refuses makes all
    /// calls fail, and the order in which the failures are reported is arbitrary.
    #[must_use]
    pub fn explain(&self, error: ProducerError) -> ProducerError {
        if !matches!(error, ProducerError::Kafka { .. }) {
            return error;
        }
        let begun = Instant::now();
        loop {
            self.producer.poll(Duration::from_millis(10));
            match self.delivery_failure().filter(DeliveryFailure::is_final) {
                Some(failure) => return self.undelivered(&failure),
                None if self.in_flight() == 0 || begun.elapsed() > REPORTS => return error,
                None => {}
            }
        }
    }

    fn undelivered(&self, failure: &DeliveryFailure) -> ProducerError {
        let DeliveryFailure { place, error, .. } = failure;
        let mut topics = self.topics.iter();
        let found = topics.position(|topic| topic.name == failure.topic);
        let is_position = failure.topic == self.position_topic;
        // If a record below the known limit is refused, the limit has been lowered since then. A
        // new session reads the new limit.
        let limit = match found {
            Some(found) => self.topics[found].max_bytes,
            None if is_position => self.position_limit,
            None => MAX_RECORD_BYTES,
        };
        if failure.is_size() && failure.bytes > limit {
            let bytes = failure.bytes - RECORD_OVERHEAD;
            // Records of the internal topics are never split.
            let is_internal = is_position || found == Some(STATE_TOPIC.0);
            return match self.oversize {
                Oversize::Stop if !is_internal => too_large(place, bytes, limit),
                Oversize::Stop | Oversize::Split => cannot_be_split(place, bytes, limit),
            };
        }
        if failure.is_refusal() {
            let (place, source) = (place.clone(), error.clone());
            return PublishError::Undeliverable { place, source }.into();
        }
        let right = format!("Write on topic {}", failure.topic);
        let doing = format!("delivering a record to {place}");
        self.failed(&with_right(doing, error, &right), error)
    }

    /// Flushes the records, adds the position, and commits both.
    ///
    /// # Errors
    /// The errors of [`Publisher::send`]. After an error it is unknown whether the transaction is
    /// committed.
    pub fn commit(&mut self, position: &PositionRecord) -> Result<CommitTimes, ProducerError> {
        self.begin()?;
        self.drain()?;
        let delivered = Instant::now();
        self.check_barriers()?;
        let value = serde_json::to_vec(position)
            .expect("a position has only texts and numbers, which JSON can express");
        let record = BaseRecord::<[u8], [u8]>::to(&self.position_topic)
            .partition(0)
            .key(self.source.as_bytes())
            .payload(&value);
        self.producer
            .send(record)
            .map_err(|(error, _)| self.failed("sending the position", &error))?;
        // The commit flushes too, but checks only every 100 ms whether the records are delivered.
        self.drain()?;
        let positioned = Instant::now();
        self.producer
            .commit_transaction(REQUEST_TIMEOUT)
            .map_err(|error| self.failed("committing a transaction", &error))?;
        let answered = Instant::now();
        self.begun = None;
        self.markers.committed(answered, positioned - delivered);
        self.check_delivery()?;
        Ok(CommitTimes {
            delivered,
            positioned,
            answered,
        })
    }

    /// Aborts the open transaction, if one exists. Its records stay invisible to `read_committed`
    /// readers. If it was open for half of its timeout or longer, fewer bytes are in flight in the
    /// next one.
    pub fn abort(&mut self) {
        let is_slow = |begun: Instant| begun.elapsed() >= self.transaction_timeout / 2;
        if self.begun.is_some_and(is_slow) {
            let bytes = self.pace.expired(self.allowed_in_flight());
            tracing::warn!(
                limit_of_bytes_in_flight = bytes,
                transaction_timeout = ?self.transaction_timeout,
                "Kafka did not accept the records of a transaction in time; the next one has fewer \
                 bytes in flight. If this does not help, a record is too large for this \
                 connection: set a longer --kafka-option transaction.timeout.ms"
            );
        }
        if self.begun.take().is_some()
            && let Err(error) = self.producer.abort_transaction(Duration::from_secs(5))
        {
            tracing::debug!(%error, "the abort failed; the broker aborts the transaction later");
        }
    }

    /// Returns the error of a call that failed. A coordinator also raises the epoch if a transaction
    /// exceeds its timeout; that is not fencing by another instance, so the error is an ordinary
    /// failure.
    fn failed(&self, doing: &str, error: &KafkaError) -> ProducerError {
        // The client's fatal error is read as well, because deliveries that failed because of
        // fencing are reported before the fencing itself.
        let fatal = self.producer.client().fatal_error();
        let fatal = fatal.map(|(code, _)| KafkaError::Global(code));
        let fenced = is_fenced(error) || fatal.is_some_and(|fatal| is_fenced(&fatal));
        let expired = self
            .begun
            .is_some_and(|begun| begun.elapsed() >= self.transaction_timeout);
        if fenced && !expired {
            let transactional_id = self.transactional_id.clone();
            return ProducerError::Fenced { transactional_id };
        }
        ProducerError::kafka(doing, error)
    }
}

/// Returns the time that a transaction may stay open, from the operator's options.
#[must_use]
pub fn transaction_timeout(options: &KafkaOptions) -> Duration {
    let name = TRANSACTION_TIMEOUT_OPTION;
    let given = options.options.iter().rfind(|given| given.name == name);
    let given = given.and_then(|given| given.value.parse().ok());
    given.map_or(TRANSACTION_TIMEOUT, Duration::from_millis)
}

/// Returns the error for a record whose topic no chunk has announced, which is a bug in the encoder.
const fn unknown_topic() -> ProducerError {
    ProducerError::Ended("the topic of a record is not in the topic table")
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}
