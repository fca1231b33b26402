//! The callbacks of the member's client, which run within its `poll`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::Context;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::shared_source::SharedSource;

/// The longest time that a rebalance waits until the sessions of revoked sources have committed what
/// they sent. The instance that takes over fences them in any case.
const RETURNED_WITHIN: Duration = Duration::from_secs(6);

/// The context of the member's client.
#[derive(Debug)]
pub(super) struct MemberContext {
    kafka: Context,
    sources: Vec<Arc<SharedSource>>,
    health: Health,
    /// True after the client has reported that it reaches no broker.
    is_cut_off: AtomicBool,
    /// True while this instance is a member of the group.
    is_joined: AtomicBool,
}

impl MemberContext {
    pub(super) fn new(sources: Vec<Arc<SharedSource>>, health: Health) -> Self {
        Self {
            kafka: Context::new(),
            sources,
            health,
            is_cut_off: AtomicBool::new(false),
            is_joined: AtomicBool::new(false),
        }
    }

    /// Returns true if no broker could be reached since the last call of [`Self::reached`].
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    /// Notes that a broker has answered. A member is then ready.
    pub(super) fn reached(&self) {
        self.is_cut_off.store(false, Ordering::Relaxed);
        if self.is_joined.load(Ordering::Relaxed) {
            self.health.set_ready(true, "");
        }
    }

    fn sources_in(&self, list: &TopicPartitionList) -> Vec<&Arc<SharedSource>> {
        let elements = list.elements();
        let is_in = |source: &&Arc<SharedSource>| {
            elements
                .iter()
                .any(|element| element.topic() == source.topic)
        };
        self.sources.iter().filter(is_in).collect()
    }

    /// Assigns the partitions without reading from them.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
    ) -> KafkaResult<()> {
        list.set_all_offsets(Offset::End)?;
        consumer.incremental_assign(list)?;
        if list.count() > 0 {
            consumer.pause(list)?;
        }
        for source in self.sources_in(list) {
            source.set_assigned(true);
        }
        self.is_joined.store(true, Ordering::Relaxed);
        self.reached();
        Ok(())
    }

    /// Waits until the sessions of the sources have ended, so that the next instance starts where they
    /// stopped, and gives the partitions back.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let sources = self.sources_in(list);
        for source in &sources {
            source.set_assigned(false);
        }
        // The coordinator has already removed a member whose assignment is lost, so there is nothing to
        // wait for.
        if consumer.assignment_lost() {
            self.is_joined.store(false, Ordering::Relaxed);
            let reason = "the group has removed this instance, which joins it again";
            self.health.set_ready(false, reason);
        } else {
            let deadline = Instant::now() + RETURNED_WITHIN;
            for source in sources {
                let left = deadline.saturating_duration_since(Instant::now());
                if !source.await_return(left) {
                    tracing::warn!(
                        source = source.name,
                        "the session has not ended in time; the instance that takes over fences it"
                    );
                }
            }
        }
        consumer.incremental_unassign(list)
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.kafka.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.is_cut_off.store(true, Ordering::Relaxed);
            self.health.set_ready(false, "no broker can be reached");
        }
        self.kafka.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let done = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a rebalance of the instances is incomplete; the next one repairs it");
        }
    }
}
