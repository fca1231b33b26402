//! A single record outside of any transaction.

use oplog_relay_runtime::kafka::{KafkaOptions, client_config, with_right};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::REQUEST_TIMEOUT;
use super::delivery::PublisherContext;
use crate::error::ProducerError;
use crate::publish::error::PublishError;

/// Sends one record outside of any transaction.
///
/// # Errors
/// [`ProducerError::Kafka`]; [`PublishError::Options`] for options that the client does not accept.
pub fn send_single_record(
    options: &KafkaOptions,
    topic: &str,
    key: &str,
    value: &[u8],
) -> Result<(), ProducerError> {
    let doing = || format!("writing to {topic}");
    let mut config = client_config(options);
    config.set(
        "message.timeout.ms",
        REQUEST_TIMEOUT.as_millis().to_string(),
    );
    let producer: BaseProducer<PublisherContext> = config
        .create_with_context(PublisherContext::default())
        .map_err(|source| PublishError::Options { source })?;
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(0)
        .key(key.as_bytes())
        .payload(value);
    let sent = producer.send(record).map_err(|(error, _)| error);
    sent.and_then(|()| producer.flush(REQUEST_TIMEOUT))
        .map_err(|error| ProducerError::kafka(doing(), error))?;
    match producer.client().context().failure() {
        Some(failure) => {
            let right = format!("Write on topic {topic}");
            let doing = with_right(doing(), &failure.error, &right);
            Err(ProducerError::kafka(doing, failure.error))
        }
        None => Ok(()),
    }
}
