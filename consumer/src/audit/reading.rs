//! Reads a partition from its first record up to an offset. Only committed records are read.

use std::time::{Duration, Instant};

use oplog_relay_core::format::fragment::{FRAGMENT_HEADER, Fragment, Part, Run};
use oplog_relay_core::format::{FormatError, ID_HEADER, first_entry};
use oplog_relay_runtime::kafka::{
    Context, KafkaOptions, SMALL_FETCH, client_config, is_group_refused, is_transient, limit_fetch,
    with_right,
};
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::error::ConsumerError;
use crate::group::start::LogRange;

/// Time without a record after which a partition counts as unreadable.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// A record that was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'r> {
    pub(super) offset: i64,
    /// The value; `None` for a tombstone.
    pub(super) value: Option<&'r [u8]>,
    /// The header with the identity of the entry.
    pub(super) oplog_id: Option<&'r [u8]>,
    /// The header of a fragment.
    pub(super) fragment: Option<&'r [u8]>,
}

impl Record<'_> {
    /// Returns the role of this record, given the fragments `run` that were read before it.
    pub(super) fn part(&self, run: Option<Run>) -> Result<Part, FormatError> {
        let fragment = self.fragment.map(Fragment::parse).transpose()?;
        let first = || first_entry(self.value.unwrap_or_default(), self.oplog_id);
        Run::next(run, self.offset, fragment, first)
    }
}

/// The client for reading.
pub(super) type Client = BaseConsumer<Context>;

/// Creates a client that does not join a group and does not commit.
pub(super) fn open(kafka: &KafkaOptions) -> Result<Client, ConsumerError> {
    let mut config = client_config(kafka);
    config
        // librdkafka requires a group id for its queue.
        .set("group.id", "oplog-relay-audit")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "true")
        // The end of a partition is signalled by a reply without records, which a broker delays by
        // 500 ms by default.
        .set("fetch.wait.max.ms", "50")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "32768");
    limit_fetch(&mut config, SMALL_FETCH, SMALL_FETCH);
    config
        .create_with_context(Context::new())
        .map_err(|error| ConsumerError::kafka("creating a Kafka client", error))
}

/// Reads a partition up to an offset and passes each record to `each`. Returns true if the offset
/// or the end of the partition was reached.
///
/// # Errors
/// Returns an error if Kafka refuses a request, or `each` fails.
pub(super) fn read(
    consumer: &Client,
    range: &LogRange,
    end: i64,
    shutdown: &Shutdown,
    mut each: impl FnMut(Record<'_>) -> Result<(), ConsumerError>,
) -> Result<bool, ConsumerError> {
    let doing = || {
        format!(
            "reading {}, partition {}",
            range.name.topic, range.name.partition
        )
    };
    let failed = |error| {
        let right = format!("Read on topic {}", range.name.topic);
        ConsumerError::kafka(with_right(doing(), &error, &right), error)
    };
    if range.low >= end {
        return Ok(true);
    }
    let mut partitions = TopicPartitionList::new();
    let (topic, partition) = (range.name.topic.as_str(), range.name.partition);
    partitions
        .add_partition_offset(topic, partition, Offset::Offset(range.low))
        .and_then(|()| consumer.assign(&partitions))
        .map_err(failed)?;
    let mut moved = Instant::now();
    while moved.elapsed() < PATIENCE && !shutdown.triggered() {
        let record = match consumer.poll(POLL) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            // This reader uses assign(), so a missing right on the group does not matter.
            Some(Err(error)) if is_group_refused(&error) => continue,
            Some(Err(error)) if is_transient(&error) => continue,
            Some(Err(error)) => return Err(failed(error)),
            Some(Ok(record)) => record,
        };
        if record.topic() != topic || record.partition() != partition {
            // The record was fetched for the partition that was read before this one.
            continue;
        }
        moved = Instant::now();
        if record.offset() >= end {
            return Ok(true);
        }
        let header = |name: &str| {
            let mut headers = record.headers()?.iter();
            headers.find(|header| header.key == name)?.value
        };
        each(Record {
            offset: record.offset(),
            value: record.payload(),
            oplog_id: header(ID_HEADER),
            fragment: header(FRAGMENT_HEADER),
        })?;
    }
    Ok(false)
}
