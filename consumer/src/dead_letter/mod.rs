//! Dead letters: records that cannot be applied. With `--dead-letter`, or with `dead-letter` as the
//! value of `--unmatched` or `--unrepeatable`, they are written to the topic
//! `__<group>.dead-letters` instead of stopping the program.
//!
//! A dead letter has the record's key, value and headers, and further headers that identify the
//! record and the reason. If a record contains several entries (raw format), the value is the one
//! entry that failed. A value that is too large for the topic is omitted; the headers then point to
//! the original.
//!
//! A document that is still held in memory at a barrier or at the end (`replay::held_documents`) becomes
//! one letter. Its value is an entry that inserts the document with all of its entries applied.
//!
//! A refused command can become a dead letter only if it leaves namespaces unchanged, because later
//! entries then still find their collection. A `create` can become one, too: it is recorded as
//! done, and the first document creates the collection with default options. A refused command that
//! drops, empties or renames a collection always stops the replay. Without a `drop` or an
//! `emptycapped`, documents of the previous incarnation would remain in the next one. Without a
//! `renameCollection`, entries would be applied to a namespace whose documents are elsewhere.
//!
//! Kafka acknowledges a letter before its record counts as done, so a committed offset never passes
//! a letter that was not written. After a crash in between, the letter is sent again: delivery is
//! at least once.
//!
//! # Modules
//!
//! - `reason` has the reasons for a dead letter
//! - `letter` describes the content of a letter
//! - `post` reads the records of letters again and sends the letters
//! - `list` prints the dead letters
//! - `error` has the reasons why the topic cannot be used

pub mod error;
mod letter;
mod list;
mod post;
mod reason;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{
    Admin, KafkaOptions, MAX_MESSAGE_BYTES, NewTopicShape, TopicSettings, WantedSetting,
    is_transient, with_right,
};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::error::KafkaError;

use crate::config::GroupConfig;
use crate::dead_letter::error::DeadLetterError;
use crate::error::ConsumerError;
use crate::telemetry::metrics::Metrics;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

use letter::Envelope;
pub use letter::{Letter, LetterEntry};
pub use list::list;
use post::DeadLetterProducer;
pub use reason::{Reason, Reasons, parse_reasons};

/// Number of attempts to send a set of letters before the program stops.
const ATTEMPTS: u32 = 6;
/// Minimum interval between two log lines about dead letters.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum time until a new topic is available on the brokers.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(30);
/// Values of `max.message.bytes` to try for the topic, in order. Managed clusters allow less than
/// the first one.
const LIMITS: [usize; 3] = [100 << 20, 20 << 20, 8 << 20];

/// Returns the name of the dead-letter topic of a group.
#[must_use]
pub fn dead_letter_topic(group: &str) -> String {
    format!("__{group}.dead-letters")
}

/// Refuses a topic with log compaction, which would remove letters, and warns about a retention limit.
fn check_settings(topic: &str, settings: &TopicSettings) -> Result<(), DeadLetterError> {
    let policy = settings.cleanup_policy.as_deref().unwrap_or("delete");
    if policy.contains("compact") {
        return Err(DeadLetterError::Compacted {
            topic: topic.to_owned(),
            policy: policy.to_owned(),
        });
    }
    for (limit, value) in [
        ("retention.ms", settings.retention_ms),
        ("retention.bytes", settings.retention_bytes),
    ] {
        if let Some(value) = value.filter(|value| *value >= 0) {
            tracing::warn!(
                topic,
                limit,
                value,
                "the dead-letter topic has a retention limit: Kafka will delete old dead letters"
            );
        }
    }
    Ok(())
}

/// Creates the topic with unlimited retention: letters are kept until an operator deletes them.
async fn create(admin: &Admin, topic: &str) -> Result<(), ConsumerError> {
    let (partitions, replication_factor) = (1, -1);
    let shape = NewTopicShape {
        name: topic,
        partitions,
        replication_factor,
    };
    let wanted = [
        WantedSetting::needed("cleanup.policy", "delete"),
        WantedSetting::needed("retention.ms", "-1"),
        WantedSetting::preferred("retention.bytes", [-1]),
        WantedSetting::preferred(MAX_MESSAGE_BYTES, LIMITS),
    ];
    let settings = admin.accepted_settings(shape, &wanted).await?;
    admin
        .create_topic(topic, partitions, replication_factor, &settings)
        .await?;
    admin.wait_for_topic(topic, TOPIC_TIMEOUT).await?;
    Ok(())
}

/// Sends records to the group's dead-letter topic.
pub struct DeadLetters {
    kafka: KafkaOptions,
    group: String,
    reasons: Reasons,
    /// The producer; `None` until the first letter, and after a failure. The lock ensures that one
    /// set of letters is sent at a time.
    producer: Arc<Mutex<Option<DeadLetterProducer>>>,
    metrics: Arc<Metrics>,
    logged: Mutex<Option<Instant>>,
    shutdown: Shutdown,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("reasons", &self.reasons)
            .finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// If any reason is enabled, creates the dead-letter topic if it does not exist, and checks its
    /// settings.
    ///
    /// # Errors
    /// Returns an error if Kafka refuses the topic, or if its settings would lose letters.
    pub async fn open(
        config: &GroupConfig,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let GroupConfig { kafka, group, .. } = config;
        if !config.dead_letter.is_empty() {
            let topic = dead_letter_topic(group);
            let admin = Admin::connect(kafka).await?;
            if admin.partitions(&topic).await?.is_none() {
                create(&admin, &topic).await?;
            }
            if let Some(settings) = admin.topic_settings(&topic).await? {
                check_settings(&topic, &settings)?;
            }
        }
        Ok(Self {
            kafka: kafka.clone(),
            group: group.clone(),
            reasons: config.dead_letter.clone(),
            producer: Arc::default(),
            metrics,
            logged: Mutex::default(),
            shutdown,
        })
    }

    /// Returns true if records with this reason are sent to the dead-letter topic.
    #[must_use]
    pub fn takes(&self, reason: Reason) -> bool {
        self.reasons.contains(&reason)
    }

    /// Sends the letters of one partition. Returns after Kafka has acknowledged all of them, or
    /// [`Applied::Abandoned`] if the partition is revoked or the program ends first.
    ///
    /// # Errors
    /// Returns an error if Kafka does not acknowledge them within the permitted attempts.
    pub async fn send(
        &self,
        topic: &str,
        partition: i32,
        mut letters: Vec<Letter>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        letters.sort_by_key(|letter| letter.offset);
        let letters = Arc::new(letters);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            let Err(error) = self.attempt(topic, partition, &letters).await? else {
                self.report(topic, partition, &letters);
                return Ok(Applied::Done);
            };
            self.metrics.count_error("dead_letter");
            let retries = is_transient(&error) && backoff.attempts() + 1 < ATTEMPTS;
            if !retries {
                let name = dead_letter_topic(&self.group);
                let right = format!("Write on topic {name}");
                let doing = with_right(format!("writing to {name}"), &error, &right);
                return Err(ConsumerError::kafka(doing, error));
            }
            tracing::warn!(%error, "writing dead letters failed; retrying");
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Applied::Abandoned);
            }
        }
    }

    async fn attempt(
        &self,
        topic: &str,
        partition: i32,
        letters: &Arc<Vec<Letter>>,
    ) -> Result<Result<(), KafkaError>, ConsumerError> {
        let (kafka, group, topic) = (self.kafka.clone(), self.group.clone(), topic.to_owned());
        let (producer, letters) = (Arc::clone(&self.producer), Arc::clone(letters));
        let sent = tokio::task::spawn_blocking(move || {
            // A panic while the lock is held leaves the producer taken or intact, so poisoning is
            // ignored.
            let mut producer = producer.lock().unwrap_or_else(PoisonError::into_inner);
            let open = match producer.take() {
                Some(open) => open,
                None => DeadLetterProducer::open(&kafka, &dead_letter_topic(&group))?,
            };
            let time = bson::DateTime::from_millis(now_ms()).try_to_rfc3339_string();
            let envelope = Envelope {
                group: &group,
                topic: &topic,
                partition,
                time: &time.unwrap_or_default(),
            };
            open.send(&letters, envelope)?;
            *producer = Some(open);
            Ok(())
        });
        sent.await
            .map_err(|_| ConsumerError::Ended("the writer of dead letters"))
    }

    /// Counts the letters, and logs the first one of them once per log interval.
    fn report(&self, topic: &str, partition: i32, letters: &[Letter]) {
        for letter in letters {
            self.metrics.count_dead_letter(letter.reason);
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if let Some(letter) = letters.first().filter(|_| due) {
            *logged = Some(Instant::now());
            tracing::warn!(
                topic,
                partition,
                offset = letter.offset,
                reason = letter.reason.word(),
                message = letter.text,
                so_far = self.metrics.dead_letters(),
                "dead letter"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_log_compaction_is_refused() {
        let check = |policy: &str| {
            let settings = TopicSettings {
                cleanup_policy: Some(policy.to_owned()),
                ..TopicSettings::default()
            };
            check_settings("__g.dead-letters", &settings).map_err(|error| error.exit_code())
        };
        assert!(check("delete").is_ok());
        for policy in ["compact", "compact,delete"] {
            let refused = check(policy).err();
            assert_eq!(refused, Some(oplog_relay_runtime::exit::ExitCode::Usage));
        }
    }
}
