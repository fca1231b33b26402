//! `oplog-producer full-sync`: requests a copy of collections from a running producer.

use oplog_relay_core::state::SourceMode;
use oplog_relay_core::topic::state_topic;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{Admin, Reader};

use crate::config::RequestConfig;
use crate::error::ProducerError;
use crate::publish::send_single_record;
use crate::saved::checkpoint::read_state;

/// Writes a request for a full sync to the state topic of a source, for the producer that tails it.
///
/// # Errors
/// [`ProducerError::Usage`] for a source that no producer has started, or that is read through a change
/// stream; [`ProducerError::Kafka`].
pub async fn request_full_sync(config: &RequestConfig) -> Result<(), ProducerError> {
    let topic = state_topic(&config.topic_prefix, &config.source_name);
    let admin = Admin::connect(&config.kafka).await?;
    if admin.partitions(&topic).await?.is_none() {
        return Err(ProducerError::Usage(format!(
            "topic {topic} does not exist: no producer has started source {:?} under prefix {:?}",
            config.source_name, config.topic_prefix
        )));
    }
    let state = read_state(&Reader::new(&config.kafka), &topic).await?;
    let mode = state.source.map(|source| source.mode);
    if mode == Some(SourceMode::ChangeStream) {
        return Err(ProducerError::Usage(format!(
            "source {:?} is read through a change stream, beside which no full sync can run: copy the \
             documents with mongodump and mongorestore",
            config.source_name
        )));
    }
    let key = format!("request/{}", now_ms());
    let value = serde_json::to_vec(&config.request)
        .map_err(|error| ProducerError::Usage(format!("{key}: {error}")))?;
    let options = config.kafka.clone();
    let sent =
        tokio::task::spawn_blocking(move || send_single_record(&options, &topic, &key, &value));
    sent.await
        .map_err(|_| ProducerError::Ended("the thread that writes the request ended"))?
}
