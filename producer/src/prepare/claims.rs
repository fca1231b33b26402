//! Claims of topics by other sources of the prefix. Two sources never write to one topic.
//!
//! A claim is committed in the same Kafka transaction as the first record of its topic. A topic
//! that another source has just created therefore has no claim yet, and two sources may start to
//! write to it at the same time. A source that finds a topic that it did not create reads the
//! claims again. If the topic appeared after the start of the session, the source also gives the
//! creator time to commit its claim. A source that has committed a claim then checks whether
//! another source has claimed the same topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oplog_relay_core::state::{State, TopicRecord};
use oplog_relay_core::topic::source_of_state_topic;
use oplog_relay_runtime::kafka::{Admin, Follower, Reader};
use tokio::sync::Mutex;

use crate::error::ProducerError;
use crate::prepare::topics::error::TopicError;
use crate::saved::checkpoint::apply;

/// The other sources of a prefix, and their topics.
#[derive(Debug, Clone, Default)]
pub struct OtherSources {
    /// Topics, with the names of their owners.
    pub topics: BTreeMap<String, String>,
    /// Names of the sources, including those without a topic.
    pub names: BTreeSet<String>,
}

impl OtherSources {
    /// Returns an error if another source owns a topic.
    ///
    /// # Errors
    /// [`TopicError::OtherOwner`].
    pub fn check_owner(&self, topic: &str) -> Result<(), TopicError> {
        match self.topics.get(topic) {
            None => Ok(()),
            Some(owner) => Err(TopicError::OtherOwner {
                topic: topic.to_owned(),
                owner: owner.clone(),
            }),
        }
    }
}

/// The state topics of other sources that are followed, by source.
type Followed = BTreeMap<String, Followee>;

/// Another source, with the topics that it claims.
#[derive(Debug)]
struct Followee {
    follower: Follower,
    topics: BTreeMap<String, TopicRecord>,
}

/// A reader of the claims of other sources. Clones share the records that were read.
#[derive(Debug, Clone)]
pub struct Claims {
    admin: Admin,
    reader: Reader,
    prefix: String,
    source: String,
    followed: Arc<Mutex<Followed>>,
}

impl Claims {
    /// Creates a reader of the claims of all sources of a prefix except the given one.
    #[must_use]
    pub fn new(admin: Admin, reader: Reader, prefix: &str, source: &str) -> Self {
        Self {
            admin,
            reader,
            prefix: prefix.to_owned(),
            source: source.to_owned(),
            followed: Arc::default(),
        }
    }

    /// Returns the current claims.
    ///
    /// # Errors
    /// [`ProducerError::KafkaFailure`], or a [`SavedError`](crate::saved::error::SavedError) for a
    /// state that cannot be read.
    pub async fn read(&self) -> Result<OtherSources, ProducerError> {
        let names = self.admin.topics().await?;
        let mut followed = self.followed.lock().await;
        let mut others = OtherSources::default();
        for topic in names.keys() {
            let Some(other) = source_of_state_topic(&self.prefix, topic) else {
                continue;
            };
            if other == self.source {
                continue;
            }
            others.names.insert(other.to_owned());
            let followee = followed
                .entry(other.to_owned())
                .or_insert_with(|| Followee {
                    follower: Follower::new(self.reader.clone(), topic.clone()),
                    topics: BTreeMap::new(),
                });
            followee.read().await?;
            for name in followee.topics.keys() {
                others.topics.insert(name.clone(), other.to_owned());
            }
        }
        followed.retain(|other, _| others.names.contains(other));
        Ok(others)
    }

    /// Returns those of the claimed topics that another source has claimed too, with the name of that
    /// source.
    ///
    /// # Errors
    /// The errors of [`Claims::read`].
    pub async fn contested(
        &self,
        claimed: &[String],
    ) -> Result<BTreeMap<String, String>, ProducerError> {
        let mut others = self.read().await?;
        others.topics.retain(|topic, _| claimed.contains(topic));
        Ok(others.topics)
    }
}

impl Followee {
    async fn read(&mut self) -> Result<(), ProducerError> {
        let newer = self.follower.read().await?;
        // Only the records of topics are kept, because they are the claims.
        let mut state = State::default();
        if !newer.is_whole {
            state.topics = std::mem::take(&mut self.topics);
        }
        let applied = apply(&mut state, self.follower.topic(), &newer.records);
        self.topics = state.topics;
        Ok(applied?)
    }
}
