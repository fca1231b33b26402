//! The context of a client: where its log lines and errors go.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What a client complained about last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The error.
    pub error: KafkaError,
    /// Its circumstances, such as the broker and the system's reason.
    pub reason: String,
}

/// Logs a client's lines under the target `librdkafka` and keeps its last and its fatal error.
/// Clones share what they keep. Contexts with duties of their own hold one and delegate to it.
#[derive(Debug, Clone, Default)]
pub struct Context {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    last: Option<LastError>,
    fatal: Option<LastError>,
}

impl Context {
    /// Nothing kept yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last error, if any.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last
            .clone()
    }

    /// The error that made the client unusable, if any.
    #[must_use]
    pub fn fatal_error(&self) -> Option<LastError> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fatal
            .clone()
    }

    /// Forgets the last error, before an attempt whose own errors are wanted.
    pub fn clear_last_error(&self) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last = None;
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // librdkafka's errors are mostly connections that it opens again by itself: a warning to
        // us. What ends in a failure reaches the program as an error of the call.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let fatal = error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal);
        if fatal {
            tracing::error!(target: "librdkafka", %error, reason, "client is unusable");
        } else {
            tracing::debug!(target: "librdkafka", %error, reason, "client error");
        }
        let seen = LastError {
            error,
            reason: reason.to_owned(),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if fatal && kept.fatal.is_none() {
            kept.fatal = Some(seen.clone());
        }
        kept.last = Some(seen);
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_first_fatal_error_are_kept() {
        let context = Context::new();
        let other = context.clone();
        other.error(KafkaError::Global(RDKafkaErrorCode::Fatal), "one");
        other.error(KafkaError::Global(RDKafkaErrorCode::Fatal), "two");
        other.error(
            KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "three",
        );
        assert_eq!(context.fatal_error().unwrap().reason, "one");
        assert_eq!(context.last_error().unwrap().reason, "three");
        context.clear_last_error();
        assert_eq!(other.last_error(), None);
        assert!(other.fatal_error().is_some());
    }
}
