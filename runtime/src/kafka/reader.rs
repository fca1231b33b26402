//! A reader of internal topics, which have one partition. It returns only committed records.
//!
//! Control records and records of aborted or open transactions may lie between the last committed
//! record and the end of the partition. The end is therefore the offset that the broker reports
//! (the last stable offset, which a hanging transaction holds back), never "the record at end − 1".

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::context::Context;
use super::error::{
    KafkaFailure, error_code, is_group_refused, is_refused_login, is_transient, with_right,
};
use super::options::{KafkaOptions, SMALL_FETCH, client_config, limit_fetch};
use crate::retry::Backoff;

/// The time limit of a read, whatever the topic's length.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time limit of one request or one wait for records.
const STEP: Duration = Duration::from_secs(5);
/// The distance from the end at which the search for the last record starts.
const FIRST_SPAN: i64 = 64;
/// The factor by which each further search increases the distance.
const SPAN_FACTOR: i64 = 16;
/// The only partition of an internal topic.
const PARTITION: i32 = 0;

/// A committed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// The content of a topic from an offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newer {
    /// The committed records, in order.
    pub records: Vec<Stored>,
    /// The offset at which the next read continues.
    pub next: i64,
    /// True if this is the whole topic, which replaces everything read before.
    pub is_whole: bool,
}

/// A reader of internal topics. Each call opens its own connection and commits no offsets.
#[derive(Clone)]
pub struct Reader {
    config: ClientConfig,
    brokers: String,
    patience: Duration,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Creates a reader. It connects when it reads.
    #[must_use]
    pub fn new(options: &KafkaOptions) -> Self {
        let mut config = client_config(options);
        // librdkafka needs a group for its queue. The reader neither joins it nor commits.
        config
            .set("group.id", "oplog-relay-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true")
            // If records were removed after the offsets were read, the remaining ones are still
            // read.
            .set("auto.offset.reset", "earliest")
            // A reply without records marks the end, so waiting for records only costs time.
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384");
        limit_fetch(&mut config, SMALL_FETCH, SMALL_FETCH);
        Self {
            config,
            brokers: options.brokers.clone(),
            patience: PATIENCE,
        }
    }

    /// Sets the time limit of a call; the default is 30 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns every committed record of a topic in order. In a compacted topic, the last record of
    /// a key is the valid one.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the topic does not exist, access is refused, or the topic cannot be read
    /// to its end in time.
    pub async fn read_all(&self, topic: &str) -> Result<Vec<Stored>, KafkaFailure> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || this.read_all_blocking(&topic)).await
    }

    /// Returns every committed record from an offset on, in order. It returns the whole topic if
    /// `from` is `None` or outside the topic's current offsets.
    ///
    /// # Errors
    /// [`KafkaFailure`] as in [`Reader::read_all`].
    pub async fn read_from(&self, topic: &str, from: Option<i64>) -> Result<Newer, KafkaFailure> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || this.read_from_blocking(&topic, from)).await
    }

    /// Returns the last committed record of a topic, or `None` if there is none.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the topic does not exist, access is refused, or the topic cannot be read
    /// to its end in time.
    pub async fn read_last_committed(&self, topic: &str) -> Result<Option<Stored>, KafkaFailure> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || this.read_last_committed_blocking(&topic)).await
    }

    /// Reads like [`read_all`](Self::read_all), for threads that may block.
    ///
    /// # Errors
    /// [`KafkaFailure`] as in [`read_all`](Self::read_all).
    pub fn read_all_blocking(&self, topic: &str) -> Result<Vec<Stored>, KafkaFailure> {
        Ok(self.read_from_blocking(topic, None)?.records)
    }

    fn read_from_blocking(&self, topic: &str, from: Option<i64>) -> Result<Newer, KafkaFailure> {
        let session = self.open(topic)?;
        let Bounds { low, end } = session.bounds()?;
        let from = from.filter(|from| (low..=end).contains(from));
        let mut records = Vec::new();
        session.scan(from.unwrap_or(low), end, |record| records.push(record))?;
        // The scan continues to the current end of the partition, which may be after `end`.
        let last = records
            .last()
            .map_or(low, |record: &Stored| record.offset + 1);
        Ok(Newer {
            records,
            next: end.max(last),
            is_whole: from.is_none(),
        })
    }

    /// Reads like [`read_last_committed`](Self::read_last_committed), for threads that may block.
    ///
    /// # Errors
    /// [`KafkaFailure`] as in [`read_last_committed`](Self::read_last_committed).
    pub fn read_last_committed_blocking(
        &self,
        topic: &str,
    ) -> Result<Option<Stored>, KafkaFailure> {
        let session = self.open(topic)?;
        let Bounds { low, end } = session.bounds()?;
        let mut span = FIRST_SPAN;
        loop {
            let from = end.saturating_sub(span).max(low);
            let mut last = None;
            session.scan(from, end, |record| last = Some(record))?;
            if last.is_some() || from == low {
                return Ok(last);
            }
            // The span may hold only control records and aborted records, so the search widens.
            span = span.saturating_mul(SPAN_FACTOR);
        }
    }

    fn open(&self, topic: &str) -> Result<Session, KafkaFailure> {
        let context = Context::new();
        let consumer = self
            .config
            .create_with_context(context.clone())
            .map_err(KafkaFailure::Options)?;
        Ok(Session {
            consumer,
            context,
            topic: topic.to_owned(),
            brokers: self.brokers.clone(),
            start: Instant::now(),
            patience: self.patience,
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaFailure> + Send + 'static,
) -> Result<T, KafkaFailure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| KafkaFailure::Abandoned("reading a topic".to_owned()))?
}

/// The consumer of one call and its start time.
struct Session {
    consumer: BaseConsumer<Context>,
    context: Context,
    topic: String,
    brokers: String,
    start: Instant,
    patience: Duration,
}

/// The offsets between which a partition can be read.
struct Bounds {
    /// The first offset.
    low: i64,
    /// The last stable offset.
    end: i64,
}

impl Session {
    /// Returns the first offset and the last stable one. The client queries the latter because it
    /// reads only committed records (`rd_kafka_query_watermark_offsets` in librdkafka 2.12).
    fn bounds(&self) -> Result<Bounds, KafkaFailure> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let timeout = STEP.min(self.left().max(Duration::from_millis(100)));
            let error = match self
                .consumer
                .fetch_watermarks(&self.topic, PARTITION, timeout)
            {
                Ok((low, end)) => return Ok(Bounds { low, end }),
                Err(error) => error,
            };
            self.check_error(error)?;
            std::thread::sleep(backoff.next_delay());
        }
    }

    /// Passes each committed record from `from` up to the end of the partition to `each`.
    fn scan(&self, from: i64, end: i64, mut each: impl FnMut(Stored)) -> Result<(), KafkaFailure> {
        if from >= end {
            return Ok(());
        }
        self.assign(from)?;
        let mut reached = from;
        while !self.left().is_zero() {
            match self.consumer.poll(STEP.min(self.left())) {
                None => {}
                Some(Ok(record)) => {
                    reached = record.offset();
                    each(Stored {
                        offset: record.offset(),
                        timestamp_ms: record.timestamp().to_millis(),
                        key: record.key().map(<[u8]>::to_vec),
                        value: record.payload().map(<[u8]>::to_vec),
                    });
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => self.check_error(error)?,
            }
        }
        Err(KafkaFailure::Timeout {
            action: format!("reading topic {}", self.topic),
            seconds: self.patience.as_secs(),
            reason: format!("at offset {reached} of {end}{}", self.complaint()),
        })
    }

    fn assign(&self, from: i64) -> Result<(), KafkaFailure> {
        let mut partitions = TopicPartitionList::new();
        partitions
            .add_partition_offset(&self.topic, PARTITION, Offset::Offset(from))
            .and_then(|()| self.consumer.assign(&partitions))
            .map_err(|source| self.refused(source))
    }

    /// Returns `Ok` for transient errors until the time limit has passed, and for errors that do
    /// not affect the read.
    fn check_error(&self, error: KafkaError) -> Result<(), KafkaFailure> {
        use RDKafkaErrorCode as Code;
        match error_code(&error) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(KafkaFailure::UnknownTopic(self.topic.clone()))
            }
            _ if is_group_refused(&error) => Ok(()),
            _ if is_refused_login(&error) => Err(KafkaFailure::Credentials {
                brokers: self.brokers.clone(),
                reason: self
                    .context
                    .complaint()
                    .unwrap_or_else(|| error.to_string()),
            }),
            _ if !is_transient(&error) => Err(self.refused(error)),
            _ if self.left().is_zero() => {
                // The poll passes the client's last log lines to the context. No records are
                // expected here.
                drop(self.consumer.poll(Duration::ZERO));
                let reason = format!("{error}{}", self.complaint());
                Err(KafkaFailure::Unreachable {
                    brokers: self.brokers.clone(),
                    reason,
                })
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, source: KafkaError) -> KafkaFailure {
        let action = format!("reading topic {}", self.topic);
        let right = format!("Read on topic {}", self.topic);
        KafkaFailure::Refused {
            action: with_right(action, &source, &right),
            source,
        }
    }

    fn complaint(&self) -> String {
        self.context
            .complaint()
            .map(|reason| format!("; {reason}"))
            .unwrap_or_default()
    }

    fn left(&self) -> Duration {
        self.patience.saturating_sub(self.start.elapsed())
    }
}
