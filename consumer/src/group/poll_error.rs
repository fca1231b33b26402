//! Errors of the group's client that a poll returns.

use oplog_relay_runtime::kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::context::GroupContext;
use super::rebalance;
use crate::error::ConsumerError;

/// Returns the error that the program ends with, if it must end. Most errors are transient, and
/// librdkafka recovers by itself. `topics` are those that the member reads.
pub(super) fn judge(
    consumer: &BaseConsumer<GroupContext>,
    topics: &str,
    error: &KafkaError,
) -> Result<(), ConsumerError> {
    let context = consumer.context();
    let code = error.rdkafka_error_code();
    context.parts.metrics.count_error("kafka");
    match code {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Err(rebalance::explain_lost(consumer))
        }
        Some(RDKafkaErrorCode::PollExceeded) => {
            tracing::warn!("removed from the consumer group: no poll within max.poll.interval.ms");
            Ok(())
        }
        // The pattern does not match any topic yet, or a topic was removed.
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(()),
        // The client would skip the batch, or retry it indefinitely.
        Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => {
            let shown = context.partitions().places();
            Err(ConsumerError::kafka(
                format!(
                    "reading a record batch (the batch is damaged: its checksum or compression \
                     is invalid; no record after it was applied; another replica may have an \
                     intact copy; the batch is at one of these positions: {shown})"
                ),
                error.clone(),
            ))
        }
        _ if kafka::is_fatal(error) || is_refusal(code) => {
            let right = format!("Read on group {} and on all topics {topics}", context.group);
            let doing = "reading as a member of the group";
            let doing = kafka::with_right(doing, error, &right);
            Err(ConsumerError::kafka(doing, error.clone()))
        }
        _ => {
            tracing::warn!(%error, "Kafka client error; the client recovers by itself");
            Ok(())
        }
    }
}

/// Returns true for errors that a retry cannot fix: missing rights, invalid settings, a group
/// with another protocol, and a record larger than the client may receive.
fn is_refusal(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Some(
            Code::GroupAuthorizationFailed
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InconsistentGroupProtocol
                | Code::InvalidGroupId
                | Code::InvalidSessionTimeout
                | Code::MessageSizeTooLarge
        )
    )
}
