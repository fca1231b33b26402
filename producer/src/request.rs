//! `oplog-producer full-sync`: asks a producer that is running to copy collections.

use std::time::{SystemTime, UNIX_EPOCH};

use oplog_relay_core::topic::state_topic;
use oplog_relay_runtime::kafka::Admin;

use crate::config::RequestConfig;
use crate::error::ProducerError;
use crate::publish::send_alone;

/// Asks the producer that tails a source for a full sync.
///
/// # Errors
/// [`ProducerError::Usage`] for a source that no producer has begun; [`ProducerError::Kafka`].
pub async fn request_full_sync(config: &RequestConfig) -> Result<(), ProducerError> {
    let topic = state_topic(&config.topic_prefix, &config.source_name);
    let admin = Admin::connect(&config.kafka).await?;
    if admin.partitions(&topic).await?.is_none() {
        return Err(ProducerError::Usage(format!(
            "there is no topic {topic}: no producer has begun source {:?} under prefix {:?}",
            config.source_name, config.topic_prefix
        )));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let key = format!("request/{}", now.unwrap_or_default().as_millis());
    let value = serde_json::to_vec(&config.request)
        .map_err(|error| ProducerError::Usage(format!("{key}: {error}")))?;
    let options = config.kafka.clone();
    let sent = tokio::task::spawn_blocking(move || send_alone(&options, &topic, &key, &value));
    sent.await
        .map_err(|_| ProducerError::Ended("writing the request"))?
}
