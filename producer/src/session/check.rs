//! Checks that must pass before a session takes over a source, and again after it has taken over.
//!
//! Opening the transactional producer fences the instance that is running, and the contents of the
//! internal topics are final only after that. So everything is checked twice: before fencing, so that a
//! start that must be refused does not stop the running instance; and after fencing, against the last
//! commit of the former instance.

use std::collections::BTreeMap;
use std::time::Duration;

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{NamespacesRecord, SourceRecord, State, TopicRecord};
use oplog_relay_core::topic::{collection_topic, state_topic};
use oplog_relay_runtime::kafka::{Admin, NewTopicShape, Reader, TopicSettings};
use oplog_relay_runtime::retry::Backoff;
use tokio::runtime::Handle;

use super::Supervisor;
use crate::error::ProducerError;
use crate::prepare::claims::{Claims, OtherSources};
use crate::prepare::internal_topics::{InternalLimits, ensure_internal_topic};
use crate::prepare::route::check_rule;
use crate::prepare::topics::{self, Cluster, DataTopicSettings, Topics};
use crate::publish::log_end_offsets::{Ends, PartitionedTopic};
use crate::saved::checkpoint::Checkpoint;
use crate::session::error::SessionError;

/// Number of times that the checks are repeated before a missing position counts as lost, while
/// another instance may be running.
const SETTLING: u32 = 6;
/// Maximum number of topics whose end offsets are read in one request.
const ENDS_AT_ONCE: usize = 200;

/// The state of the cluster at the start of a session.
pub(super) struct FoundCluster {
    pub(super) admin: Admin,
    pub(super) reader: Reader,
    /// All topics, with their number of partitions.
    pub(super) names: BTreeMap<String, i32>,
    /// The data topics of the prefix.
    pub(super) existing: BTreeMap<String, TopicSettings>,
    /// Settings of data topics that do not exist yet.
    pub(super) new_settings: DataTopicSettings,
    /// The limits of the source's internal topics.
    pub(super) internal: InternalLimits,
}

/// The saved state, which agrees with the configuration.
pub(super) struct Checked {
    pub(super) checkpoint: Checkpoint,
    pub(super) others: OtherSources,
    /// Topic records that must be saved again.
    pub(super) noted: BTreeMap<String, TopicRecord>,
}

impl Supervisor {
    /// Connects to Kafka, and creates or checks the internal topics.
    pub(super) async fn find_cluster(&self) -> Result<FoundCluster, ProducerError> {
        let (prefix, source) = (&self.config.stream.topic_prefix, self.origin.name());
        let admin = Admin::connect(&self.config.kafka).await?;
        let replication_factor = self.config.replication_factor;
        let internal = ensure_internal_topic(&admin, prefix, source, replication_factor).await?;
        let names = admin.topics().await?;
        let existing = topics::existing(&admin, names.keys().map(String::as_str), prefix).await?;
        let new_settings = self.new_topic_settings(&admin, internal.position).await?;
        Ok(FoundCluster {
            new_settings,
            admin,
            reader: Reader::new(&self.config.kafka),
            names,
            existing,
            internal,
        })
    }

    /// Returns the settings that the cluster accepts for data topics that do not exist yet. The
    /// position topic sets no size limit, so its limit is the broker's default.
    async fn new_topic_settings(
        &self,
        admin: &Admin,
        default_limit: usize,
    ) -> Result<DataTopicSettings, ProducerError> {
        let prefix = &self.config.stream.topic_prefix;
        let shape = NewTopicShape {
            name: &collection_topic(prefix, "oplog_relay", "settings"),
            partitions: i32::try_from(self.config.stream.partitions)
                .expect("--partitions is at most 10,000"),
            replication_factor: self.config.replication_factor,
        };
        let given = &self.config.topic_config;
        let format = self.config.stream.format;
        Ok(DataTopicSettings::accepted(admin, shape, given, format, default_limit).await?)
    }

    /// Runs the checks while another instance may be running. A commit of that instance becomes
    /// visible in one internal topic after the other, so a position may be missing for a moment.
    /// Commits of this process may not be readable yet, so they are compared only after the producer
    /// is open.
    pub(super) async fn check_before_fencing(
        &self,
        cluster: &FoundCluster,
    ) -> Result<(), ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            match self.check(cluster, None).await {
                Err(ProducerError::PositionLost(_))
                    if backoff.attempts() < SETTLING && backoff.sleep(&self.shutdown).await => {}
                checked => return checked.map(drop),
            }
        }
    }

    /// Reads the saved state and checks it against the source, the configuration and the topics.
    pub(super) async fn check(
        &self,
        cluster: &FoundCluster,
        committed: Option<Position>,
    ) -> Result<Checked, ProducerError> {
        let stream = &self.config.stream;
        let (prefix, source) = (&stream.topic_prefix, self.origin.name());
        let checkpoint = Checkpoint::read(&cluster.reader, prefix, source).await?;
        let committed = checkpoint.expected(committed, self.metrics.moves());
        checkpoint
            .check_kept(prefix, source, committed)
            .map_err(Box::new)?;
        checkpoint.check_source(&self.origin.record())?;
        if !self.config.change_namespaces {
            checkpoint.check_namespaces(&stream.filter)?;
        }
        self.check_start(&checkpoint, cluster)?;
        if !self.config.change_routing {
            check_rule(stream.order, &checkpoint.state)?;
        }
        let others = self.claims(cluster).read().await?;
        // Topics are saved only together with a position, so without one there is nothing to compare.
        let oldest = checkpoint.position.map(|position| position.ts);
        check_registry(&checkpoint, self.registry.is_some())?;
        topics::check_audience(&checkpoint.state, stream.format)?;
        let rules = self.other_rules(&checkpoint.state);
        let format = rules.is_none().then_some(stream.format);
        let topics = self.topics(cluster, others.clone(), oldest.unwrap_or_default());
        topics.check_saved(&checkpoint.state, format)?;
        let ends = self.ends(&checkpoint.state).await?;
        let noted = topics::note_ends(&checkpoint.state, &ends)?;
        Ok(Checked {
            checkpoint,
            others,
            noted,
        })
    }

    /// Returns a reader of the claims of other sources.
    pub(super) fn claims(&self, cluster: &FoundCluster) -> Claims {
        Claims::new(
            cluster.admin.clone(),
            cluster.reader.clone(),
            &self.config.stream.topic_prefix,
            self.origin.name(),
        )
    }

    /// Returns the topics of the cluster, for a stream whose oldest entry has the given time.
    pub(super) fn topics(
        &self,
        cluster: &FoundCluster,
        others: OtherSources,
        oldest: Timestamp,
    ) -> Topics {
        Topics::Cluster(Box::new(Cluster {
            admin: cluster.admin.clone(),
            runtime: Handle::current(),
            state_topic: state_topic(&self.config.stream.topic_prefix, self.origin.name()),
            partitions: self.config.stream.partitions,
            new_settings: cluster.new_settings.clone(),
            replication_factor: self.config.replication_factor,
            claims: self.claims(cluster),
            others,
            oldest,
            existing: cluster.existing.clone(),
            state_limit: cluster.internal.state,
            prepared: BTreeMap::new(),
            registry: self.registry.clone(),
            shutdown: self.shutdown.clone(),
        }))
    }

    /// Returns the source's record if it must be saved: the first one, or one that differs from the
    /// saved one. A stream without a saved record begins after `begin`.
    pub(super) fn identity(
        &self,
        saved: Option<&SourceRecord>,
        begin: Timestamp,
    ) -> Option<SourceRecord> {
        let filter = &self.config.stream.filter;
        let now = self.origin.record();
        // A value that cannot be read now may have been read and saved earlier.
        let known = |now: Option<String>, saved: Option<&String>| now.or_else(|| saved.cloned());
        let record = SourceRecord {
            set_name: known(
                now.set_name,
                saved.and_then(|saved| saved.set_name.as_ref()),
            ),
            replica_set_id: known(
                now.replica_set_id,
                saved.and_then(|saved| saved.replica_set_id.as_ref()),
            ),
            namespaces: Some(NamespacesRecord {
                include: filter.include().to_vec(),
                exclude: filter.exclude().to_vec(),
            }),
            began: match saved {
                Some(saved) => saved.began.clone(),
                None => Some(begin.to_string()),
            },
            gaps: saved.map_or_else(Vec::new, |saved| saved.gaps.clone()),
            moves: saved.map_or(0, |saved| saved.moves),
            ..now
        };
        (saved != Some(&record)).then_some(record)
    }

    /// Returns the end offsets of the partitions of all saved topics.
    async fn ends(&self, state: &State) -> Result<BTreeMap<String, Vec<i64>>, ProducerError> {
        let saved = state.topics.iter();
        let topics = saved.map(|(name, saved)| PartitionedTopic {
            name: name.clone(),
            partitions: saved.partitions,
        });
        let topics: Vec<PartitionedTopic> = topics.collect();
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut reader = Ends::new(&self.config.kafka);
        let read = move || {
            let mut ends = BTreeMap::new();
            for topics in topics.chunks(ENDS_AT_ONCE) {
                let names = topics.iter().map(|topic| topic.name.clone());
                ends.extend(names.zip(reader.read(topics)?));
            }
            Ok(ends)
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| ProducerError::Ended("the thread that reads end offsets ended"))?
    }
}

/// Checks that the rest of a transaction that was interrupted can be written. Its format is the
/// saved one, which may need a registry.
fn check_registry(checkpoint: &Checkpoint, has_registry: bool) -> Result<(), ProducerError> {
    let is_inside = checkpoint.position.is_some_and(|position| position.ord > 0);
    let mut topics = checkpoint.state.topics.values();
    if !is_inside || has_registry || !topics.any(|topic| topic.format.has_schemas()) {
        return Ok(());
    }
    Err(SessionError::RegistryNeeded.into())
}
