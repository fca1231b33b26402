//! Administration of topics: creating and describing them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use tokio::runtime::Handle;

use super::context::Context;
use super::error::{KafkaFailure, is_refused_login, is_transient, with_right};
use super::new_topic::TopicSetting;
use super::options::{KafkaOptions, client_config};
use super::topic::{TopicMetadata, TopicSettings, collect};
use crate::retry::Backoff;

/// The time limit of the first connection: a wrong address must be reported within seconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The time to wait for an event of a client that has failed.
const EVENT_WAIT: Duration = Duration::from_millis(20);
/// The time limit of any other call, including retries.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of topics up to which each is queried by name. For more topics the whole cluster's
/// metadata is read.
const QUERIED_BY_NAME: usize = 8;

/// The result of creating a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// The topic is new.
    Created,
    /// The topic existed, possibly with other settings.
    Existed,
}

/// An administration client for topics. Clones share the connections.
#[derive(Clone)]
pub struct Admin {
    brokers: String,
    requests: Arc<Requests>,
    /// The client that reads metadata. Unlike the admin client, which is a producer, it never
    /// creates a topic by querying it, and it exposes its errors.
    metadata: Arc<BaseConsumer<Context>>,
    context: Context,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Connects, and checks that a broker responds.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the options are wrong or no broker responds.
    pub async fn connect(options: &KafkaOptions) -> Result<Self, KafkaFailure> {
        let context = Context::new();
        let mut config = client_config(options);
        let metadata = config
            .create_with_context(context.clone())
            .map_err(KafkaFailure::Options)?;
        // The log lines of the admin client would collect in a queue that is never read. The
        // metadata client logs the same lines.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let brokers = options.brokers.clone();
        let admin = Self {
            brokers,
            requests: Arc::new(Requests::new(config)),
            metadata: Arc::new(metadata),
            context,
        };
        // The reply lists the topics that the user may describe. A query for one topic by name
        // would be refused if the user had rights on other topics only.
        admin.topic_metadata(Vec::new(), CONNECT_PATIENCE).await?;
        Ok(admin)
    }

    /// Creates a topic. A `replication_factor` of −1 selects the broker's default. Settings of an
    /// existing topic are not changed.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the cluster refuses, or does not respond in time.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replication_factor: i32,
        settings: &[TopicSetting],
    ) -> Result<Creation, KafkaFailure> {
        let client = self.requests.client()?;
        let action = format!("creating topic {name}");
        let topic = new_topic(name, partitions, replication_factor, settings);
        let options = request_options();
        let right = format!("Create on topic {name}, or on the cluster");
        let mut attempts = Attempts::new(PATIENCE, right);
        loop {
            let error = match client.create_topics([&topic], &options).await {
                Ok(outcomes) => match outcomes.into_iter().next() {
                    Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                        return Ok(Creation::Existed);
                    }
                    Some(Err((_, code))) => KafkaError::AdminOp(code),
                    _ => return Ok(Creation::Created),
                },
                Err(error) => error,
            };
            attempts.wait_or_fail(&action, error).await?;
        }
    }

    /// Checks whether the cluster would create a topic, without creating it. Returns the code of a
    /// refusal.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the cluster does not respond in time.
    pub async fn validate_topic(
        &self,
        name: &str,
        partitions: i32,
        replication_factor: i32,
        settings: &[TopicSetting],
    ) -> Result<Option<RDKafkaErrorCode>, KafkaFailure> {
        let client = self.requests.client()?;
        let action = format!("checking whether topic {name} can be created");
        let topic = new_topic(name, partitions, replication_factor, settings);
        let options = request_options().validate_only(true);
        let right = format!("Create on topic {name}, or on the cluster");
        let mut attempts = Attempts::new(PATIENCE, right);
        loop {
            let error = match client.create_topics([&topic], &options).await {
                Ok(outcomes) => match outcomes.into_iter().next() {
                    Some(Err((_, code))) => match KafkaError::AdminOp(code) {
                        error if is_transient(&error) => error,
                        _ => return Ok(Some(code)),
                    },
                    _ => return Ok(None),
                },
                Err(error) => error,
            };
            attempts.wait_or_fail(&action, error).await?;
        }
    }

    /// Creates topics in one request, and returns those that are new. A topic that the cluster
    /// refuses is skipped: creating it separately shows the reason.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the cluster does not respond in time.
    pub async fn create_topics(
        &self,
        names: &[&str],
        partitions: i32,
        replication_factor: i32,
        settings: &[TopicSetting],
    ) -> Result<BTreeSet<String>, KafkaFailure> {
        let client = self.requests.client()?;
        let topics = names.iter();
        let topics: Vec<_> = topics
            .map(|name| new_topic(name, partitions, replication_factor, settings))
            .collect();
        let options = request_options();
        let right = format!(
            "Create on topics such as {}, or on the cluster",
            names.first().unwrap_or(&"")
        );
        let mut attempts = Attempts::new(PATIENCE, right);
        loop {
            match client.create_topics(&topics, &options).await {
                Ok(outcomes) => return Ok(outcomes.into_iter().filter_map(Result::ok).collect()),
                Err(error) => attempts.wait_or_fail("creating topics", error).await?,
            }
        }
    }

    /// Returns the settings of those topics that exist, by name.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the cluster refuses, or does not respond in time.
    pub async fn describe_topics(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, TopicSettings>, KafkaFailure> {
        let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut found = self.topic_metadata(owned, PATIENCE).await?;
        found.retain(|name, topic| names.contains(&name.as_str()) && topic.partitions > 0);
        if found.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut settings = BTreeMap::new();
        for resource in self.describe(found.keys().map(String::as_str)).await? {
            if let rdkafka::admin::OwnedResourceSpecifier::Topic(name) = &resource.specifier
                && let Some(topic) = found.get(name)
            {
                settings.insert(name.clone(), TopicSettings::new(*topic, &resource));
            }
        }
        Ok(settings)
    }

    /// Returns the settings of a topic, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`KafkaFailure`] if the cluster refuses, or does not respond in time.
    pub async fn topic_settings(&self, name: &str) -> Result<Option<TopicSettings>, KafkaFailure> {
        Ok(self.describe_topics(&[name]).await?.remove(name))
    }

    /// Returns the number of partitions of a topic, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`KafkaFailure`] if no broker responds in time, or access is refused.
    pub async fn partitions(&self, name: &str) -> Result<Option<i32>, KafkaFailure> {
        let topics = self.topic_metadata(vec![name.to_owned()], PATIENCE).await?;
        Ok(topics
            .get(name)
            .map(|topic| topic.partitions)
            .filter(|partitions| *partitions > 0))
    }

    /// Returns all topics that this user may describe, with their numbers of partitions.
    ///
    /// # Errors
    /// [`KafkaFailure`] if no broker responds in time.
    pub async fn topics(&self) -> Result<BTreeMap<String, i32>, KafkaFailure> {
        let topics = self.topic_metadata(Vec::new(), PATIENCE).await?;
        Ok(topics
            .into_iter()
            .map(|(name, topic)| (name, topic.partitions))
            .collect())
    }

    /// Waits until every partition of a topic has a leader. Returns the number of partitions.
    ///
    /// # Errors
    /// [`KafkaFailure`] if that takes longer than `patience`, or access is refused.
    pub async fn wait_for_topic(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<i32, KafkaFailure> {
        let topics = self.wait_for_topics(&[name.to_owned()], patience).await?;
        Ok(topics.get(name).map_or(0, |topic| topic.partitions))
    }

    /// Waits until every partition of several topics has a leader.
    ///
    /// # Errors
    /// [`KafkaFailure`] as in [`Admin::wait_for_topic`].
    pub async fn wait_for_all(
        &self,
        names: &[String],
        patience: Duration,
    ) -> Result<(), KafkaFailure> {
        self.wait_for_topics(names, patience).await.map(drop)
    }

    async fn wait_for_topics(
        &self,
        names: &[String],
        patience: Duration,
    ) -> Result<BTreeMap<String, TopicMetadata>, KafkaFailure> {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let left = left.max(Duration::from_secs(1));
            let topics = self.topic_metadata(names.to_vec(), left).await?;
            let unready = names.iter().find_map(|name| {
                let reason = unready(topics.get(name))?;
                Some((name, reason))
            });
            let Some((name, reason)) = unready else {
                return Ok(topics);
            };
            if start.elapsed() >= patience {
                let action = format!("waiting for topic {name}");
                return Err(KafkaFailure::Timeout {
                    action,
                    seconds: patience.as_secs(),
                    reason,
                });
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn describe(
        &self,
        names: impl Iterator<Item = &str>,
    ) -> Result<Vec<ConfigResource>, KafkaFailure> {
        let client = self.requests.client()?;
        let options = request_options();
        let names: Vec<&str> = names.collect();
        let topics: Vec<_> = names
            .iter()
            .copied()
            .map(ResourceSpecifier::Topic)
            .collect();
        let shown = names
            .get(..names.len().min(3))
            .unwrap_or_default()
            .join(", ");
        let right = format!("DescribeConfigs on topics such as {shown}");
        let mut attempts = Attempts::new(PATIENCE, right);
        let action = "reading topic settings";
        'attempt: loop {
            let outcomes = match client.describe_configs(&topics, &options).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    attempts.wait_or_fail(action, error).await?;
                    continue;
                }
            };
            let mut resources = Vec::with_capacity(outcomes.len());
            for outcome in outcomes {
                match outcome {
                    Ok(resource) => resources.push(resource),
                    // The topic was deleted after its metadata was read.
                    Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                    Err(code) => {
                        attempts
                            .wait_or_fail(action, KafkaError::AdminOp(code))
                            .await?;
                        continue 'attempt;
                    }
                }
            }
            return Ok(resources);
        }
    }

    /// Returns the metadata of the named topics, or of all topics if `names` is empty or long.
    async fn topic_metadata(
        &self,
        names: Vec<String>,
        patience: Duration,
    ) -> Result<BTreeMap<String, TopicMetadata>, KafkaFailure> {
        let this = self.clone();
        let work = move || {
            if names.is_empty() || names.len() > QUERIED_BY_NAME {
                return this
                    .fetch(None, patience)
                    .and_then(|metadata| collect(&metadata));
            }
            let mut topics = BTreeMap::new();
            for name in &names {
                topics.extend(collect(&this.fetch(Some(name), patience)?)?);
            }
            Ok(topics)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| KafkaFailure::Abandoned("reading Kafka metadata".to_owned()))?
    }

    /// Reads the pending events of the metadata client: its log lines go to the context, and its
    /// errors arrive in place of records. Returns true if a broker refused the login.
    fn is_login_refused(&self) -> bool {
        let mut refused = false;
        // A poll without a wait ends at the first log line, and would miss the error behind it.
        while let Some(event) = self.metadata.poll(EVENT_WAIT) {
            refused |= event.is_err_and(|error| is_refused_login(&error));
        }
        refused
    }

    fn fetch(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaFailure> {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        self.context.clear_complaint();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let timeout = left.clamp(Duration::from_millis(100), REQUEST_TIMEOUT);
            let outcome = self.metadata.fetch_metadata(topic, timeout);
            let error = match outcome {
                Ok(metadata) => {
                    // The client is assigned no partitions, so the poll only serves log lines.
                    drop(self.metadata.poll(Duration::ZERO));
                    return Ok(metadata);
                }
                Err(error) => error,
            };
            let refused = self.is_login_refused();
            if !is_transient(&error) {
                let action = "reading Kafka metadata".to_owned();
                return Err(KafkaFailure::Refused {
                    action,
                    source: error,
                });
            }
            let reason = || {
                self.context
                    .complaint()
                    .unwrap_or_else(|| error.to_string())
            };
            // The client itself would retry, and would only report that no broker responds.
            if refused {
                return Err(KafkaFailure::Credentials {
                    brokers: self.brokers.clone(),
                    reason: reason(),
                });
            }
            if start.elapsed() >= patience {
                return Err(KafkaFailure::Unreachable {
                    brokers: self.brokers.clone(),
                    reason: reason(),
                });
            }
            std::thread::sleep(backoff.next_delay());
        }
    }
}

/// The client for requests. It is created for the first request, because callers that only read
/// metadata do not need it. Dropping it takes up to 100 ms, because the thread that waits for its
/// replies checks for the end only at that interval. No caller waits for that.
struct Requests {
    config: ClientConfig,
    runtime: Handle,
    client: Mutex<Option<Arc<AdminClient<Context>>>>,
}

impl Requests {
    /// Creates the client. It must be called within a tokio runtime.
    fn new(config: ClientConfig) -> Self {
        Self {
            config,
            runtime: Handle::current(),
            client: Mutex::new(None),
        }
    }

    fn client(&self) -> Result<Arc<AdminClient<Context>>, KafkaFailure> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let new = self.config.create_with_context(Context::new());
        let new = Arc::new(new.map_err(KafkaFailure::Options)?);
        *client = Some(Arc::clone(&new));
        Ok(new)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let client = self
            .client
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.take() {
            drop(self.runtime.spawn_blocking(move || drop(client)));
        }
    }
}

/// Returns the reason why a topic cannot be written yet, or `None` if it can.
fn unready(topic: Option<&TopicMetadata>) -> Option<String> {
    match topic {
        Some(topic) if topic.partitions > 0 && topic.led == topic.partitions => None,
        Some(topic) if topic.partitions > 0 => Some(format!(
            "{} of {} partitions have a leader",
            topic.led, topic.partitions
        )),
        _ => Some("it does not exist".to_owned()),
    }
}

fn new_topic<'t>(
    name: &'t str,
    partitions: i32,
    replication_factor: i32,
    settings: &'t [TopicSetting],
) -> NewTopic<'t> {
    let topic = NewTopic::new(
        name,
        partitions,
        TopicReplication::Fixed(replication_factor),
    );
    settings.iter().fold(topic, |topic, setting| {
        topic.set(&setting.name, &setting.value)
    })
}

fn request_options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT))
}

/// The attempts at a request until it succeeds, is refused, or exceeds its time limit.
struct Attempts {
    start: Instant,
    patience: Duration,
    backoff: Backoff,
    /// The Kafka right that the request needs.
    right: String,
}

impl Attempts {
    fn new(patience: Duration, right: String) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        Self {
            start: Instant::now(),
            patience,
            backoff,
            right,
        }
    }

    /// Waits before the next attempt. Returns an error if the request must not be retried.
    async fn wait_or_fail(&mut self, action: &str, error: KafkaError) -> Result<(), KafkaFailure> {
        if !is_transient(&error) || self.start.elapsed() >= self.patience {
            return Err(KafkaFailure::Refused {
                action: with_right(action, &error, &self.right),
                source: error,
            });
        }
        tracing::debug!(%error, action, "retrying");
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}
