//! Several instances that share their sources: one of them follows each source, and the others stand
//! by.
//!
//! The instances are members of one Kafka consumer group that subscribes to the position topics of
//! the sources. Such a topic has one partition, and the instance to which it is assigned follows the
//! source. The records of the topics are not read through the group.
//!
//! Exactly-once delivery does not depend on the group: a session fences every older one, and only
//! then reads the checkpoint. The group prevents two instances from fencing each other in turn, and
//! starts the takeover when an instance ends or sends no more heartbeats.
//!
//! # Modules
//!
//! - `shared_source` is a source with the state of its assignment
//! - `leadership` is the right to follow a source, for the code that follows it
//! - `member` is the member of the group, which has a thread of its own
//! - `context` receives the rebalances
//! - `error` has the reasons why an instance cannot be a member

mod context;
pub mod error;
mod leadership;
mod member;
mod shared_source;

use std::sync::Arc;
use std::time::Duration;

use oplog_relay_runtime::http::{Health, Part};
use oplog_relay_runtime::kafka::{Admin, KafkaOptions};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use prometheus::Registry;
use tokio::sync::mpsc;

use crate::config::{InstancesConfig, SourceConfig};
use crate::error::{Directive, ProducerError};
use crate::prepare::internal_topics::ensure_internal_topic;

pub use leadership::{Leadership, Lease};

use leadership::Request;
use member::Member;
use shared_source::SharedSource;

/// Number of requests that may wait for the member's thread, for each source.
const REQUESTS: usize = 4;
/// Time after which the member's thread counts as stuck. A confirmation may block it for half a minute
/// while the coordinator does not answer.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// This program as one of several instances.
#[derive(Debug)]
pub struct Instances {
    config: InstancesConfig,
    kafka: KafkaOptions,
    /// Replication factor of new topics; -1 for the broker's default.
    replication_factor: i32,
    sources: Vec<Arc<SharedSource>>,
    health: Health,
    requests_in: mpsc::Sender<Request>,
    requests: mpsc::Receiver<Request>,
}

impl Instances {
    /// Creates an instance that is not a member yet. All sources have the same Kafka cluster.
    ///
    /// # Panics
    /// If there is no source.
    #[must_use]
    pub fn new(config: InstancesConfig, sources: &[&SourceConfig]) -> Self {
        let (requests_in, requests) = mpsc::channel(REQUESTS * sources.len().max(1));
        let first = sources.first().expect("a configuration has a source");
        let shared = sources.iter().map(|source| SharedSource::of(source));
        Self {
            health: Health::new(STUCK_AFTER),
            config,
            kafka: first.kafka.clone(),
            replication_factor: first.replication_factor,
            sources: shared.map(Arc::new).collect(),
            requests_in,
            requests,
        }
    }

    /// Returns the right to follow the source with this index in the configuration.
    ///
    /// # Panics
    /// If there is no such source.
    #[must_use]
    pub fn leadership(&self, number: usize) -> Leadership {
        let source = Arc::clone(&self.sources[number]);
        Leadership::new(source, self.requests_in.clone())
    }

    /// Returns the membership as a part of the HTTP server.
    #[must_use]
    pub fn part(&self) -> Part {
        Part {
            name: Some(format!("group {}", self.config.group)),
            ..Part::whole(Registry::new(), self.health.clone())
        }
    }

    /// Creates the position topics that are missing, and keeps this instance in the group until the
    /// shutdown. An error starts the shutdown.
    ///
    /// # Errors
    /// The errors of [`ensure_internal_topic`]; [`error::InstancesError`].
    pub async fn run(self, shutdown: &Shutdown) -> Result<(), ProducerError> {
        let health = self.health.clone();
        let ended = match health.beat_during(self.ensure_topics(shutdown)).await {
            Ok(true) => self.be_member(shutdown.clone()).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            shutdown.trigger();
        }
        ended
    }

    /// Returns false if a shutdown starts before the topics exist.
    async fn ensure_topics(&self, shutdown: &Shutdown) -> Result<bool, ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let error = match shutdown.unless(self.try_ensure_topics()).await {
                None => return Ok(false),
                Some(Ok(())) => return Ok(true),
                Some(Err(error)) => error,
            };
            // Credentials that are refused at the start are wrong, so a retry does not help.
            if error.directive() != Directive::Retry || error.is_refused_login() {
                return Err(error);
            }
            tracing::warn!(%error, "the position topics cannot be checked; this is tried again");
            self.health.set_ready(false, &error.to_string());
            if !backoff.sleep(shutdown).await {
                return Ok(false);
            }
        }
    }

    async fn try_ensure_topics(&self) -> Result<(), ProducerError> {
        let admin = Admin::connect(&self.kafka).await?;
        let factor = self.replication_factor;
        for source in &self.sources {
            let ensured = ensure_internal_topic(&admin, &source.prefix, &source.name, factor).await;
            let Err(error) = ensured else {
                continue;
            };
            // A topic that exists and is unfit ends only its source, in the first session.
            let exists = admin.partitions(&source.topic).await?.is_some();
            if error.directive() == Directive::Retry || !exists {
                return Err(error);
            }
            tracing::warn!(source = source.name, %error, "the source cannot be followed");
        }
        Ok(())
    }

    async fn be_member(self, shutdown: Shutdown) -> Result<(), ProducerError> {
        let member = Member::new(self.config, self.sources, self.health, self.requests);
        let kafka = self.kafka;
        let ended = tokio::task::spawn_blocking(move || member.run(&kafka, &shutdown));
        ended
            .await
            .map_err(|_| ProducerError::Ended("the thread of the group's member ended"))?
    }
}
