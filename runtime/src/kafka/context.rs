//! The context of a client: where its log lines and errors go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The facility of log lines that say why a broker cannot be used.
const BROKER_FAILURE: &str = "FAIL";

/// Logs a client's lines under the target `librdkafka`, and keeps the last reason for which it could
/// not use a broker and its fatal error. Clones share what they keep. Contexts with duties of their
/// own hold one and delegate to it.
#[derive(Debug, Clone, Default)]
pub struct Context {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    complaint: Option<String>,
    fatal: Option<KafkaError>,
}

impl Context {
    /// Nothing kept yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Why the client could not use a broker when it last tried: the address and the reason of the
    /// system or of the broker.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.kept().complaint.clone()
    }

    /// The error that made the client unusable, if any.
    #[must_use]
    pub fn fatal_error(&self) -> Option<KafkaError> {
        self.kept().fatal.clone()
    }

    /// Forgets the complaint, before an attempt whose own complaints are wanted.
    pub fn clear_complaint(&self) {
        self.kept().complaint = None;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // A consumer hands out the code of such an error only; its text is in the log alone.
        if facility == BROKER_FAILURE {
            self.kept().complaint = Some(without_thread(line).to_owned());
        }
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
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(target: "librdkafka", %error, reason, "client is unusable");
            self.kept().fatal.get_or_insert(error);
        } else {
            tracing::debug!(target: "librdkafka", %error, reason, "client error");
        }
    }
}

/// A line of the log without the thread that wrote it: `[thrd:main]: `.
fn without_thread(line: &str) -> &str {
    match line.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest,
        _ => line,
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_and_the_first_fatal_error_are_kept() {
        let context = Context::new();
        let other = context.clone();
        other.error(KafkaError::Global(RDKafkaErrorCode::Fatal), "one");
        other.error(
            KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "three",
        );
        let fatal = KafkaError::Global(RDKafkaErrorCode::Fatal);
        assert_eq!(context.fatal_error(), Some(fatal));

        other.log(RDKafkaLogLevel::Error, "FAIL", "[thrd:a:1/0]: a:1/0: one");
        other.log(RDKafkaLogLevel::Error, "FAIL", "[thrd:a:1/0]: a:1/0: two");
        other.log(RDKafkaLogLevel::Info, "TERMINATE", "[thrd:main]: end");
        assert_eq!(context.complaint().as_deref(), Some("a:1/0: two"));
        context.clear_complaint();
        assert_eq!(other.complaint(), None);
    }
}
