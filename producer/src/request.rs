//! `oplog-producer full-sync`: requests a copy of collections from a running producer.

use oplog_relay_core::state::SourceMode;
use oplog_relay_core::topic::state_topic;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{Admin, KafkaFailure, Reader, is_unauthorized};

use crate::config::RequestConfig;
use crate::error::ProducerError;
use crate::publish::send_single_record;
use crate::saved::checkpoint::read_state;
use crate::saved::error::SavedError;

/// Writes a request for a full sync to the state topic of a source, where its producer reads it.
///
/// # Errors
/// [`SavedError::NotStarted`] for a source that no producer has started;
/// [`SavedError::ReadThroughEvents`] for a source that is read through a change stream;
/// [`SavedError::State`] for a state that cannot be read; [`ProducerError::KafkaFailure`] if a
/// topic cannot be read; [`ProducerError::Kafka`] if the request cannot be written.
pub async fn request_full_sync(config: &RequestConfig) -> Result<(), ProducerError> {
    let topic = state_topic(&config.topic_prefix, &config.source_name);
    let admin = Admin::connect(&config.kafka).await?;
    if admin.partitions(&topic).await?.is_none() {
        return Err(SavedError::NotStarted {
            topic,
            source_name: config.source_name.clone(),
            prefix: config.topic_prefix.clone(),
        }
        .into());
    }
    let mode = match read_state(&Reader::new(&config.kafka), &topic).await {
        Ok(state) => state.source.map(|source| source.mode),
        // A user that may only write requests cannot read the mode. The request is sent nevertheless: the
        // producer of a change stream ignores it.
        Err(ProducerError::KafkaFailure(KafkaFailure::Refused { source, .. }))
            if is_unauthorized(&source) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    if mode == Some(SourceMode::ChangeStream) {
        let source_name = config.source_name.clone();
        return Err(SavedError::ReadThroughEvents { source_name }.into());
    }
    let key = format!("request/{}", now_ms());
    let value = serde_json::to_vec(&config.request)
        .expect("a request has only texts, numbers and lists, which JSON can express");
    let options = config.kafka.clone();
    let sent =
        tokio::task::spawn_blocking(move || send_single_record(&options, &topic, &key, &value));
    sent.await
        .map_err(|_| ProducerError::Ended("the thread that writes the request ended"))?
}
