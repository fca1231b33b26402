//! Topics: the producer creates them with the settings that the data needs, and refuses a topic whose
//! settings would lose or reorder data.
//!
//! # Modules
//!
//! - `settings` has the settings of the topics that the producer creates
//! - `checks` checks the settings of existing topics
//! - `end_offsets` compares the end offsets with those that the last session saved
//! - `error` has the reasons why a topic must not be written to

mod checks;
mod end_offsets;
pub mod error;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::format::{FORMAT_VERSION, Format};
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::{STATE_VERSION, State, TopicRecord};
use oplog_relay_core::topic::is_data_topic;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{Admin, Creation, TopicSetting, TopicSettings};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::runtime::Handle;

use crate::error::ProducerError;
use crate::prepare::claims::{Claims, OtherSources};
use crate::prepare::topics::error::TopicError;
use crate::publish::MAX_RECORD_BYTES;
use crate::registry::SchemaRegistry;

pub use checks::limit;
use checks::{check_partitions, check_settings};
pub use end_offsets::{note_ends, warn_of_retention};
pub use settings::{DataTopicSettings, internal_settings, parse_topic_setting};

/// Maximum time until every partition of a new topic has a leader.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time to wait for the creator of a topic to commit its claim. With the default transaction timeout
/// it is longer than the longest Kafka transaction of a source that is catching up.
const CLAIM_PATIENCE: Duration = Duration::from_secs(20);
/// Maximum number of partitions that one request creates if it creates several topics; a controller
/// accepts 10,000 (Kafka 4.1).
const REQUEST_PARTITIONS: u32 = 1000;
/// Tolerance for entries that are ahead of the brokers' clocks.
pub(crate) const CLOCK_MARGIN_MS: i64 = 60_000;

/// The topics that the encoder writes to.
#[derive(Debug)]
pub enum Topics {
    /// The topics of a cluster.
    Cluster(Box<Cluster>),
    /// No topics: `inspect` only prints records.
    Nowhere {
        /// Name of the state topic.
        state_topic: String,
        /// Number of partitions that a topic would have.
        partitions: u32,
    },
}

impl Topics {
    /// Returns the name of the source's state topic.
    #[must_use]
    pub fn state_topic(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.state_topic,
            Self::Nowhere { state_topic, .. } => state_topic,
        }
    }

    /// Checks all topics of the saved routing table; without `format`, any saved format is accepted.
    ///
    /// # Errors
    /// [`TopicError`] if a topic was deleted, belongs to another source, has another format, or
    /// would lose or reorder data.
    pub fn check_saved(&self, state: &State, format: Option<Format>) -> Result<(), ProducerError> {
        for (name, saved) in &state.topics {
            check_format(name, saved, format.unwrap_or(saved.format))?;
        }
        match self {
            Self::Cluster(cluster) => cluster.check_saved(state),
            Self::Nowhere { .. } => Ok(()),
        }
    }

    /// Returns the largest record batch that a topic accepts, in bytes.
    #[must_use]
    pub fn max_bytes(&self, name: &str) -> usize {
        match self {
            Self::Cluster(cluster) => cluster.max_bytes(name),
            Self::Nowhere { .. } => MAX_RECORD_BYTES,
        }
    }

    /// Returns true if a topic may contain records from before this session.
    #[must_use]
    pub fn existed(&self, name: &str) -> bool {
        match self {
            // The list does not contain the state topic.
            Self::Cluster(cluster) => {
                name == cluster.state_topic || cluster.existing.contains_key(name)
            }
            Self::Nowhere { .. } => true,
        }
    }

    /// Returns the ids of a topic's schemas, and registers the schemas if this is configured. The
    /// ids are zeros if the format has no schemas.
    ///
    /// # Errors
    /// [`ProducerError::Registry`]; [`ProducerError::Interrupted`].
    pub fn schemas(&self, name: &str) -> Result<SchemaIds, ProducerError> {
        match self {
            Self::Cluster(cluster) => cluster.schemas(name),
            Self::Nowhere { .. } => Ok(SchemaIds::default()),
        }
    }

    /// Creates data topics that will be needed soon, many in one request: creating them one by one
    /// takes longer than sending their records. [`Topics::ensure`] then uses the settings read
    /// here.
    ///
    /// # Errors
    /// [`ProducerError::KafkaFailure`], and the errors of [`Claims::read`].
    pub fn prepare(&mut self, names: &BTreeSet<String>) -> Result<(), ProducerError> {
        match self {
            Self::Cluster(cluster) => cluster.prepare(names),
            Self::Nowhere { .. } => Ok(()),
        }
    }

    /// Makes sure that a data topic exists and has suitable settings, and returns its record for the
    /// state topic.
    ///
    /// # Errors
    /// [`TopicError`] if the topic would lose or reorder data, belongs to another source, or
    /// has another format; [`ProducerError::KafkaFailure`]; [`ProducerError::Kafka`] if its limit
    /// was lowered after the session started; [`ProducerError::Interrupted`].
    pub fn ensure(
        &self,
        name: &str,
        saved: Option<&TopicRecord>,
        format: Format,
    ) -> Result<TopicRecord, ProducerError> {
        if let Some(saved) = saved {
            // The session checked the settings of this topic at its start.
            check_format(name, saved, format)?;
            return Ok(saved.clone());
        }
        match self {
            Self::Cluster(cluster) => cluster.ensure(name, format),
            Self::Nowhere { partitions, .. } => Ok(record(format, *partitions)),
        }
    }
}

/// Checks that in this format no topic would lose its barriers, change its keys, or switch between
/// changes and latest states.
///
/// # Errors
/// [`TopicError::OtherAudience`].
pub fn check_audience(state: &State, format: Format) -> Result<(), TopicError> {
    let other = |saved: &TopicRecord| !saved.format.may_become(format);
    match state.topics.iter().find(|(_, saved)| other(saved)) {
        None => Ok(()),
        Some((name, saved)) => Err(TopicError::OtherAudience {
            topic: name.clone(),
            saved: saved.format,
            format,
        }),
    }
}

fn check_format(name: &str, saved: &TopicRecord, format: Format) -> Result<(), TopicError> {
    if saved.format == format {
        return Ok(());
    }
    Err(TopicError::OtherFormat {
        topic: name.to_owned(),
        saved: saved.format,
        format,
    })
}

const fn record(format: Format, partitions: u32) -> TopicRecord {
    TopicRecord {
        v: STATE_VERSION,
        format,
        format_version: FORMAT_VERSION,
        partitions,
        earlier: Vec::new(),
        ends: Vec::new(),
    }
}

/// The topics of a cluster, for a thread that may block.
#[derive(Debug)]
pub struct Cluster {
    /// Client for requests.
    pub admin: Admin,
    /// Handle of the runtime that the requests run on.
    pub runtime: Handle,
    /// Name of the source's state topic.
    pub state_topic: String,
    /// The largest record batch that the state topic accepts, in bytes.
    pub state_limit: usize,
    /// Number of partitions of new topics.
    pub partitions: u32,
    /// Replication factor of new topics.
    pub replication_factor: i32,
    /// Settings of new data topics.
    pub new_settings: DataTopicSettings,
    /// Reader of the claims of other sources.
    pub claims: Claims,
    /// Other sources and their topics at the start of the session.
    pub others: OtherSources,
    /// Time of the oldest entry that may be sent.
    pub oldest: Timestamp,
    /// Data topics of the prefix at the start of the session.
    pub existing: BTreeMap<String, TopicSettings>,
    /// Topics that were created, or whose settings were read, ahead of their first entry.
    pub prepared: BTreeMap<String, TopicSettings>,
    /// The registry of the topics' schemas, if the format has schemas.
    pub registry: Option<Arc<SchemaRegistry>>,
    /// The shutdown signal.
    pub shutdown: Shutdown,
}

/// Returns those of the named topics that are data topics of a prefix, with their settings.
///
/// # Errors
/// [`ProducerError::KafkaFailure`].
pub async fn existing<'n>(
    admin: &Admin,
    names: impl Iterator<Item = &'n str>,
    prefix: &str,
) -> Result<BTreeMap<String, TopicSettings>, ProducerError> {
    let names: Vec<&str> = names.filter(|name| is_data_topic(prefix, name)).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(admin.describe_topics(&names).await?)
}

impl Cluster {
    fn check_saved(&self, state: &State) -> Result<(), ProducerError> {
        for (name, saved) in &state.topics {
            self.others.check_owner(name)?;
            let settings = self.existing.get(name).ok_or_else(|| deleted(name))?;
            check_settings(name, settings, saved.format, self.oldest, now_ms())?;
            check_partitions(name, settings, saved)?;
        }
        Ok(())
    }

    fn max_bytes(&self, name: &str) -> usize {
        if name == self.state_topic {
            return self.state_limit;
        }
        let created = self.new_settings.max_bytes;
        self.existing.get(name).map_or(created, limit)
    }

    fn schemas(&self, name: &str) -> Result<SchemaIds, ProducerError> {
        let Some(registry) = &self.registry else {
            return Ok(SchemaIds::default());
        };
        let ids = self.shutdown.unless(registry.ids_of(name));
        let ids = self.runtime.block_on(ids);
        Ok(ids.ok_or(ProducerError::Interrupted)?.map_err(Box::new)?)
    }

    fn ensure(&self, name: &str, format: Format) -> Result<TopicRecord, ProducerError> {
        self.others.check_owner(name)?;
        let settings = match self.prepared.get(name) {
            Some(settings) => settings.clone(),
            None => self.runtime.block_on(self.create(name))?,
        };
        check_settings(name, &settings, format, self.oldest, now_ms())?;
        self.check_limit(name, &settings)?;
        Ok(record(
            format,
            u32::try_from(settings.partitions).unwrap_or(1),
        ))
    }

    /// Creates the missing topics, and reads the settings of all, in few requests.
    fn prepare(&mut self, names: &BTreeSet<String>) -> Result<(), ProducerError> {
        let names = names.iter().map(String::as_str);
        let names: Vec<&str> = names
            .filter(|name| !self.others.topics.contains_key(*name))
            .collect();
        let at_once = usize::try_from(REQUEST_PARTITIONS / self.partitions.max(1))
            .expect("a number of 32 bits fits into usize");
        let prepared = self.runtime.block_on(async {
            let mut prepared = BTreeMap::new();
            for names in names.chunks(at_once.max(1)) {
                prepared.append(&mut self.prepare_at_once(names).await?);
            }
            Ok::<_, ProducerError>(prepared)
        })?;
        self.prepared = prepared;
        Ok(())
    }

    async fn prepare_at_once(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, TopicSettings>, ProducerError> {
        let is_missing = |name: &&str| !self.existing.contains_key(*name);
        let missing: Vec<&str> = names.iter().copied().filter(is_missing).collect();
        let partitions = i32::try_from(self.partitions).expect("--partitions is at most 10,000");
        let (admin, replicas) = (&self.admin, self.replication_factor);
        let mut created = BTreeSet::new();
        if !missing.is_empty() {
            let settings = &self.new_settings.settings;
            created = admin
                .create_topics(&missing, partitions, replicas, settings)
                .await?;
            let new: Vec<String> = created.iter().cloned().collect();
            if !new.is_empty() {
                admin.wait_for_all(&new, PATIENCE).await?;
                tracing::info!(topics = new.len(), partitions, "topics are ready");
            }
        }
        let mut found = admin.describe_topics(names).await?;
        if found.len() > created.len() {
            let others = self.claims.read().await?;
            // Topics of other creators are checked at their first entry.
            found.retain(|name, _| {
                let is_settled = others.names.is_empty() || self.existing.contains_key(name);
                created.contains(name) || (is_settled && !others.topics.contains_key(name))
            });
        }
        Ok(found)
    }

    /// Checks that a topic is not limited to smaller batches than the client sends, whose batch
    /// size was chosen at the start of the session.
    fn check_limit(&self, name: &str, settings: &TopicSettings) -> Result<(), ProducerError> {
        let limit = limit(settings);
        if limit >= self.max_bytes(name) {
            return Ok(());
        }
        Err(ProducerError::kafka(
            format!("checking topic {name}"),
            format!("its limit of {limit} bytes was set after this session started"),
        ))
    }

    /// Creates a topic if it does not exist, and reads its settings.
    async fn create(&self, name: &str) -> Result<TopicSettings, ProducerError> {
        let has_appeared = !self.existing.contains_key(name);
        let mut creation = Creation::Existed;
        if has_appeared {
            let partitions =
                i32::try_from(self.partitions).expect("--partitions is at most 10,000");
            let (admin, replicas) = (&self.admin, self.replication_factor);
            let settings = &self.new_settings.settings;
            creation = create(admin, name, partitions, replicas, settings).await?;
        }
        if creation == Creation::Existed {
            self.check_found(name, has_appeared).await?;
        }
        let settings = self.admin.topic_settings(name).await?;
        settings.ok_or_else(|| deleted(name).into())
    }
}

impl Cluster {
    /// Reads the claims again for a topic that this source did not create. A topic that appeared
    /// after the start of the session may belong to another source, which commits its claim a
    /// little later.
    async fn check_found(&self, name: &str, has_appeared: bool) -> Result<(), ProducerError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let others = self.claims.read().await?;
            others.check_owner(name)?;
            let may_be_claimed = has_appeared && !others.names.is_empty();
            if !may_be_claimed || begun.elapsed() >= CLAIM_PATIENCE {
                return Ok(());
            }
            if backoff.attempts() == 0 {
                tracing::info!(
                    topic = name,
                    "the topic was not created by this source; waiting for a claim of another \
                    source"
                );
            }
            if !backoff.sleep(&self.shutdown).await {
                return Err(ProducerError::Interrupted);
            }
        }
    }
}

fn deleted(name: &str) -> TopicError {
    TopicError::Deleted {
        topic: name.to_owned(),
    }
}

/// Creates a topic and waits until every partition has a leader.
///
/// # Errors
/// [`ProducerError::KafkaFailure`].
pub async fn create(
    admin: &Admin,
    name: &str,
    partitions: i32,
    replication_factor: i32,
    settings: &[TopicSetting],
) -> Result<Creation, ProducerError> {
    let creation = admin
        .create_topic(name, partitions, replication_factor, settings)
        .await?;
    admin.wait_for_topic(name, PATIENCE).await?;
    tracing::info!(topic = name, partitions, "topic is ready");
    Ok(creation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_even_without_a_cluster() {
        let topics = Topics::Nowhere {
            state_topic: "s".to_owned(),
            partitions: 4,
        };
        let saved = record(Format::Raw, 4);
        let refused = topics.ensure("t", Some(&saved), Format::Bson);
        let message = refused.err().map(|error| error.to_string());
        assert!(message.is_some_and(|message| message.contains("--change-routing")));
        let state = State {
            topics: BTreeMap::from([("t".to_owned(), saved)]),
            ..State::default()
        };
        assert!(topics.check_saved(&state, Some(Format::Bson)).is_err());
        assert!(topics.check_saved(&state, None).is_ok());
        assert_eq!(
            topics.ensure("t", None, Format::Bson).unwrap().partitions,
            4
        );
    }
}
