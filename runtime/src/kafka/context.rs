//! The context of a client, which receives its log lines and errors.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The facility of log lines that state why a broker cannot be used.
const BROKER_FAILURE: &str = "FAIL";

/// A client context. It logs the client's lines with the target `librdkafka`, and keeps the fatal
/// error and the last reason why a broker could not be used. Clones share this state. Contexts with
/// additional duties contain one and delegate to it.
#[derive(Debug, Clone, Default)]
pub struct Context {
    errors: Arc<Mutex<Errors>>,
}

#[derive(Debug, Default)]
struct Errors {
    complaint: Option<String>,
    fatal: Option<KafkaError>,
}

impl Context {
    /// Creates a context without recorded errors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the last reason why the client could not use a broker: the address, and the error of
    /// the system or of the broker.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.errors().complaint.clone()
    }

    /// Returns the error that made the client unusable.
    #[must_use]
    pub fn fatal_error(&self) -> Option<KafkaError> {
        self.errors().fatal.clone()
    }

    /// Clears the reason that [`complaint`](Self::complaint) returns, before a new attempt.
    pub fn clear_complaint(&self) {
        self.errors().complaint = None;
    }

    fn errors(&self) -> MutexGuard<'_, Errors> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // A consumer returns only the code of such an error. Its text appears only in the log.
        if facility == BROKER_FAILURE {
            self.errors().complaint = Some(without_thread(line).to_owned());
        }
        // Most errors of librdkafka are lost connections that it reopens by itself, so they are
        // logged as warnings. An error that causes a failure reaches the program as an error of the
        // call.
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
            tracing::error!(target: "librdkafka", %error, reason, "the Kafka client is unusable");
            self.errors().fatal.get_or_insert(error);
        } else {
            tracing::debug!(target: "librdkafka", %error, reason, "Kafka client error");
        }
    }
}

/// Returns a log line without the thread that wrote it: `[thrd:main]: `.
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
