//! Delivery reports. The client reports only failed deliveries, and one of these failures is kept.

use std::sync::{Mutex, PoisonError};

use oplog_relay_core::format::ID_HEADER;
use oplog_relay_runtime::kafka::Context;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Headers, Message};
use rdkafka::producer::ProducerContext;

use super::RECORD_OVERHEAD;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// The context of the client. It keeps the first delivery failure, or a final one if there is any, and
/// passes logs and errors to the context that all clients share.
#[derive(Debug, Default)]
pub(crate) struct PublisherContext {
    pub(crate) client: Context,
    failed: Mutex<Option<DeliveryFailure>>,
}

#[derive(Debug, Clone)]
pub(crate) struct DeliveryFailure {
    pub(crate) topic: String,
    /// Topic, partition and entry.
    pub(crate) place: String,
    /// Uncompressed size of the record with its overhead.
    pub(crate) bytes: usize,
    pub(crate) error: KafkaError,
}

impl DeliveryFailure {
    fn new(error: &KafkaError, message: &BorrowedMessage<'_>) -> Self {
        let (topic, partition) = (message.topic(), message.partition());
        let id = message.headers().and_then(|headers| {
            let id = headers.iter().find(|header| header.key == ID_HEADER);
            Some(String::from_utf8_lossy(id?.value?).into_owned())
        });
        let id = id.map(|id| format!(" (entry {id})"));
        let headers = message.headers().map_or(0, |headers| {
            let sizes = headers
                .iter()
                .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len));
            sizes.sum::<usize>()
        });
        Self {
            topic: topic.to_owned(),
            place: format!("{topic}[{partition}]{}", id.unwrap_or_default()),
            bytes: message.payload_len() + message.key_len() + headers + RECORD_OVERHEAD,
            error: error.clone(),
        }
    }

    pub(crate) fn is_size(&self) -> bool {
        self.error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
    }

    /// Returns true if the record breaks a rule of the broker or of the topic, so that a new session
    /// cannot deliver it either. Missing permissions do not count, because they may be granted
    /// later.
    pub(crate) fn is_refusal(&self) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(
            self.error.rdkafka_error_code(),
            Some(Code::InvalidTimestamp | Code::PolicyViolation | Code::InvalidRecord)
        )
    }

    /// Returns true if the record itself was refused, which makes other records of its transaction
    /// fail.
    pub(crate) fn is_final(&self) -> bool {
        self.is_size() || self.is_refusal()
    }
}

impl PublisherContext {
    /// Returns the delivery failure that was kept.
    pub(crate) fn failure(&self) -> Option<DeliveryFailure> {
        let failed = self.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for PublisherContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ProducerContext for PublisherContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let failure = DeliveryFailure::new(error, message);
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            // Other records of the transaction fail because of a final error, and may be reported
            // before it.
            if failed.is_none() || failure.is_final() {
                *failed = Some(failure);
            }
        }
    }
}

/// Returns the error for a record that is larger than its topic accepts and must stay whole.
pub(crate) fn cannot_be_split(place: &str, bytes: usize, limit: usize) -> ProducerError {
    let place = place.to_owned();
    EntryFault::CannotBeSplit {
        place,
        bytes,
        limit,
    }
    .into()
}

/// Returns the error for a record that is larger than its topic accepts.
pub(crate) fn too_large(place: &str, bytes: usize, limit: usize) -> ProducerError {
    let place = place.to_owned();
    EntryFault::TooLarge {
        place,
        bytes,
        limit,
    }
    .into()
}
