//! The member of the group: a Kafka consumer that is polled by a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::{
    HEARTBEAT_MS, Heartbeat, KafkaOptions, client_config, is_fatal, is_group_refused,
    is_unauthorized,
};
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};

use super::context::MemberContext;
use super::error::InstancesError;
use super::leadership::Request;
use super::shared_source::SharedSource;
use crate::config::InstancesConfig;
use crate::error::ProducerError;

/// The longest time that a poll waits, and so the delay of requests and of the shutdown.
const POLL: Duration = Duration::from_millis(100);
/// Interval between two attempts to reach a broker after the client has lost all of them, and the time
/// limit of each.
const REACHED_EVERY: Duration = Duration::from_secs(2);
/// Time limit of a request. The client repeats a commit twice, so a confirmation takes at most half a
/// minute while the coordinator does not answer.
const REQUEST_MS: &str = "10000";
/// The client's default of `max.poll.interval.ms`, which must not be less than the session timeout.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// A source that this instance leaves to others.
#[derive(Debug)]
struct Resigned {
    source: Arc<SharedSource>,
    /// The time at which this instance subscribes to the source again; `None` if it never does.
    until: Option<Instant>,
}

/// The member of the group.
#[derive(Debug)]
pub(super) struct Member {
    config: InstancesConfig,
    sources: Vec<Arc<SharedSource>>,
    health: Health,
    requests: mpsc::Receiver<Request>,
    resigned: Vec<Resigned>,
}

impl Member {
    pub(super) const fn new(
        config: InstancesConfig,
        sources: Vec<Arc<SharedSource>>,
        health: Health,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            config,
            sources,
            health,
            requests,
            resigned: Vec::new(),
        }
    }

    /// Joins the group and stays in it until the shutdown. Unless the shutdown is forced, the member leaves
    /// the group only when all sessions have ended, so that the next instance of a source starts where
    /// they stopped.
    ///
    /// # Errors
    /// [`InstancesError`].
    pub(super) fn run(
        mut self,
        kafka: &KafkaOptions,
        shutdown: &Shutdown,
    ) -> Result<(), ProducerError> {
        let context = MemberContext::new(self.sources.clone(), self.health.clone());
        let consumer: BaseConsumer<MemberContext> = (self.client(kafka))
            .create_with_context(context)
            .map_err(InstancesError::Options)?;
        self.subscribe(&consumer)?;
        tracing::info!(group = self.config.group, "joining the group of instances");
        let mut reached = Instant::now();
        let mut heartbeat = Heartbeat::new();
        while !(shutdown.is_forced() || shutdown.triggered() && self.are_returned()) {
            self.health.beat();
            heartbeat.wake_if_due(&consumer);
            // The partitions are paused, so there are only errors to receive.
            if let Some(Err(error)) = consumer.poll(self.patience()) {
                self.judge(&error)?;
            }
            self.take_request(&consumer)?;
            self.end_rests(&consumer)?;
            if consumer.context().is_cut_off() && reached.elapsed() >= REACHED_EVERY {
                reached = Instant::now();
                if consumer.fetch_metadata(None, REACHED_EVERY).is_ok() {
                    consumer.context().reached();
                }
            }
        }
        // The consumer leaves the group when it is dropped.
        Ok(())
    }

    fn client(&self, kafka: &KafkaOptions) -> ClientConfig {
        let mut client = client_config(kafka);
        let session = self.config.takeover_after;
        let poll_interval = session.max(POLL_INTERVAL);
        if client.get("client.id").is_none() {
            client.set("client.id", "oplog-producer");
        }
        // Instances usually share their configuration, and members with the same group.instance.id would
        // fence each other.
        client.remove("group.instance.id");
        client
            .set("group.id", &self.config.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.as_millis().to_string())
            .set(
                "max.poll.interval.ms",
                poll_interval.as_millis().to_string(),
            )
            .set("heartbeat.interval.ms", HEARTBEAT_MS)
            .set("socket.timeout.ms", REQUEST_MS)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest");
        client
    }

    /// Returns true if no session runs under a lease.
    fn are_returned(&self) -> bool {
        let mut sources = self.sources.iter();
        sources.all(|source| source.await_return(Duration::ZERO))
    }

    /// Subscribes to all sources that this instance does not leave to others.
    fn subscribe(&self, consumer: &BaseConsumer<MemberContext>) -> Result<(), InstancesError> {
        let is_wanted = |source: &&Arc<SharedSource>| {
            !self
                .resigned
                .iter()
                .any(|it| Arc::ptr_eq(&it.source, source))
        };
        let wanted = self.sources.iter().filter(is_wanted);
        let topics: Vec<&str> = wanted.map(|source| source.topic.as_str()).collect();
        if topics.is_empty() {
            consumer.unsubscribe();
            return Ok(());
        }
        let subscribed = consumer.subscribe(&topics);
        subscribed.map_err(|source| self.refused(source))
    }

    fn refused(&self, source: KafkaError) -> InstancesError {
        let group = self.config.group.clone();
        InstancesError::Refused { group, source }
    }

    /// Returns the error if it ends the membership and only an operator can remove its cause. Other errors
    /// are logged: a missing right to a position topic concerns only its source, and librdkafka recovers
    /// from the rest by itself.
    fn judge(&self, error: &KafkaError) -> Result<(), InstancesError> {
        let group = || self.config.group.clone();
        if is_group_refused(error) {
            return Err(InstancesError::Unauthorized {
                group: group(),
                source: error.clone(),
            });
        }
        use RDKafkaErrorCode as Code;
        let is_refused = matches!(
            error.rdkafka_error_code(),
            Some(Code::InvalidSessionTimeout | Code::InconsistentGroupProtocol)
        );
        if is_refused || is_fatal(error) {
            return Err(self.refused(error.clone()));
        }
        if is_unauthorized(error) {
            // The session of the source reports what is missing.
            tracing::warn!(%error, group = group(), "a position topic cannot be read by the group");
        } else {
            tracing::debug!(%error, group = group(), "the group's client reports an error");
        }
        Ok(())
    }

    /// Returns how long the next poll may wait for an error.
    fn patience(&self) -> Duration {
        match self.requests.is_empty() {
            true => POLL,
            false => Duration::ZERO,
        }
    }

    /// Answers one request. The answer may take half a minute, so the thread must poll and report that it
    /// is alive before the next one.
    fn take_request(
        &mut self,
        consumer: &BaseConsumer<MemberContext>,
    ) -> Result<(), InstancesError> {
        match self.requests.try_recv() {
            Ok(Request::Confirm { source, answer }) => {
                reply(answer, is_confirmed(consumer, &source));
            }
            Ok(Request::Resign {
                source,
                rest,
                answer,
            }) => {
                let until = rest.map(|rest| Instant::now() + rest);
                self.resigned.retain(|it| !Arc::ptr_eq(&it.source, &source));
                self.resigned.push(Resigned { source, until });
                self.subscribe(consumer)?;
                reply(answer, true);
            }
            // Without a request, or after the end of all code that could ask, there is nothing to do.
            Err(_) => {}
        }
        Ok(())
    }

    /// Subscribes again to the sources whose rest is over.
    fn end_rests(&mut self, consumer: &BaseConsumer<MemberContext>) -> Result<(), InstancesError> {
        let before = self.resigned.len();
        let now = Instant::now();
        self.resigned
            .retain(|resigned| resigned.until.is_none_or(|until| until > now));
        if self.resigned.len() < before {
            self.subscribe(consumer)?;
        }
        Ok(())
    }
}

/// Answers a request, unless the code that asked has ended.
fn reply(answer: oneshot::Sender<bool>, value: bool) {
    if answer.send(value).is_err() {
        tracing::debug!("the code that asked about an assignment has ended");
    }
}

/// Returns true if the coordinator accepts a commit of this member's generation for the source's
/// partition. The committed offset itself has no meaning.
fn is_confirmed(consumer: &BaseConsumer<MemberContext>, source: &SharedSource) -> bool {
    let is_assigned = || source.is_assigned() && !consumer.assignment_lost();
    let mut list = TopicPartitionList::new();
    if !is_assigned()
        || list
            .add_partition_offset(&source.topic, 0, Offset::Offset(0))
            .is_err()
    {
        return false;
    }
    match consumer.commit(&list, CommitMode::Sync) {
        Ok(()) => is_assigned(),
        Err(error) => {
            tracing::info!(%error, source = source.name, "the group does not confirm the assignment");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer may take half a minute, and the loop reports between two of them that it is alive.
    #[test]
    fn waiting_requests_are_answered_one_per_round() {
        let config = InstancesConfig {
            group: "__cdc.producers".to_owned(),
            takeover_after: Duration::from_secs(10),
        };
        let source = Arc::new(SharedSource::named("cdc", "rs0"));
        let (requests_in, requests) = mpsc::channel(2);
        let mut member = Member::new(config, vec![], Health::default(), requests);
        let context = MemberContext::new(vec![], Health::default());
        let consumer: BaseConsumer<MemberContext> =
            ClientConfig::new().create_with_context(context).unwrap();
        let ask = || {
            let (answer, answered) = oneshot::channel();
            let source = Arc::clone(&source);
            requests_in
                .try_send(Request::Confirm { source, answer })
                .unwrap();
            answered
        };
        let (mut first, mut second) = (ask(), ask());
        assert_eq!(member.patience(), Duration::ZERO);
        member.take_request(&consumer).unwrap();
        assert_eq!(first.try_recv(), Ok(false));
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        member.take_request(&consumer).unwrap();
        assert_eq!(second.try_recv(), Ok(false));
        assert_eq!(member.patience(), POLL);
        member.take_request(&consumer).unwrap();
    }
}
