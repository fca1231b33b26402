//! `oplog-consumer dead-letters`: lists the contents of the dead-letter topic.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::{
    Context, SMALL_FETCH, client_config, is_group_refused, is_transient, limit_fetch,
};
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Map, Value, json};

use super::dead_letter_topic;
use super::letter::PREFIX;
use crate::config::DeadLettersConfig;
use crate::dead_letter::error::DeadLetterError;
use crate::error::ConsumerError;

const REQUEST: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(200);
/// Maximum time without a record or an end-of-partition event from Kafka.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes the dead letters of a group: a table to a terminal, or one JSON object per line to a pipe
/// or file.
///
/// # Errors
/// Returns an error if the topic cannot be read, or if standard output cannot be written or is
/// closed.
pub fn list(config: &DeadLettersConfig, shutdown: &Shutdown) -> Result<(), ConsumerError> {
    let topic = dead_letter_topic(&config.group);
    let failed = |error| ConsumerError::kafka(format!("reading {topic}"), error);
    let (consumer, end) = match open(config, &topic) {
        Ok(opened) => opened,
        Err(error) if is_unknown(&error) => {
            let group = config.group.clone();
            return Err(DeadLetterError::NoTopic { topic, group }.into());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut out = std::io::stdout().lock();
    let to_terminal = out.is_terminal();
    let mut last_event = Instant::now();
    let mut next = 0;
    while next < end && !shutdown.triggered() {
        match consumer.poll(STEP) {
            None if last_event.elapsed() < PATIENCE => {}
            None => {
                let timeout = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                return Err(failed(timeout));
            }
            Some(Ok(record)) => {
                last_event = Instant::now();
                next = record.offset() + 1;
                let line = if to_terminal {
                    line(&record)
                } else {
                    Value::Object(described(&record)).to_string()
                };
                writeln!(out, "{line}").map_err(closed)?;
            }
            // The last offsets may have no record, so `next` may never reach `end`.
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            // This reader uses assign(), so a missing right on the group does not matter.
            Some(Err(error)) if is_group_refused(&error) => {}
            Some(Err(error)) if is_transient(&error) && last_event.elapsed() < PATIENCE => {}
            Some(Err(error)) => return Err(failed(error)),
        }
    }
    out.flush().map_err(closed)
}

fn open(config: &DeadLettersConfig, topic: &str) -> KafkaResult<(BaseConsumer<Context>, i64)> {
    let mut client = client_config(&config.kafka);
    client
        .set("group.id", "oplog-relay-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "4096");
    limit_fetch(&mut client, SMALL_FETCH, SMALL_FETCH);
    let consumer: BaseConsumer<Context> = client.create_with_context(Context::new())?;
    let (low, end) = consumer.fetch_watermarks(topic, 0, REQUEST)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Offset(low))?;
    consumer.assign(&partitions)?;
    Ok((consumer, end))
}

fn is_unknown(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}

fn closed(error: std::io::Error) -> ConsumerError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => ConsumerError::OutputClosed,
        _ => ConsumerError::Output {
            file: "standard output".to_owned(),
            source: error,
        },
    }
}

/// Returns the fields of a dead letter: its offset in the dead-letter topic as `position`, its
/// headers without their prefix and with numeric values as numbers, its key, and the size of its
/// value.
fn described(record: &BorrowedMessage<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("position".to_owned(), json!(record.offset()));
    for header in record.headers().iter().flat_map(|headers| headers.iter()) {
        let Some(name) = header.key.strip_prefix(PREFIX) else {
            continue;
        };
        let text = String::from_utf8_lossy(header.value.unwrap_or_default());
        let value = match (name, text.parse::<i64>()) {
            ("partition" | "offset" | "code", Ok(number)) => json!(number),
            _ => json!(text),
        };
        all.insert(name.to_owned(), value);
    }
    let key = record.key().map(String::from_utf8_lossy);
    all.insert("key".to_owned(), json!(key));
    let bytes = record.payload().map(<[u8]>::len);
    all.insert("bytes".to_owned(), json!(bytes));
    all
}

fn line(record: &BorrowedMessage<'_>) -> String {
    let all = described(record);
    let text = |name: &str| match all.get(name) {
        Some(Value::String(text)) => text.replace(char::is_control, " "),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    format!(
        "{:>6}  {}  {:<12}  {}[{}]@{}  {}  {}",
        text("position"),
        text("time"),
        text("reason"),
        text("topic"),
        text("partition"),
        text("offset"),
        text("ns"),
        text("message")
    )
}
