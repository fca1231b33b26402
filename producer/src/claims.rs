//! Which topics other sources of the prefix own. Two sources never write to one topic.
//!
//! A claim is committed with the first record of its topic. So a topic that another source has just
//! created has no claim yet, and two sources can meet one collection name at the same time. Whoever
//! finds a topic that it did not create reads the claims again and gives its creator the time to
//! commit one; and whoever has committed a claim looks whether another source has done so too.

use std::collections::{BTreeMap, BTreeSet};

use oplog_relay_core::runtime::kafka::{Admin, Reader};
use oplog_relay_core::topic::source_of_state_topic;

use crate::checkpoint::read_state;
use crate::error::ProducerError;

/// The other sources of a prefix, and their topics.
#[derive(Debug, Clone, Default)]
pub struct OtherSources {
    /// Topics, and whose they are.
    pub topics: BTreeMap<String, String>,
    /// Names of the sources, those without a topic too.
    pub names: BTreeSet<String>,
}

impl OtherSources {
    /// Refuses a topic that another source owns.
    ///
    /// # Errors
    /// [`ProducerError::Usage`].
    pub fn check_owner(&self, topic: &str) -> Result<(), ProducerError> {
        match self.topics.get(topic) {
            None => Ok(()),
            Some(owner) => Err(ProducerError::Usage(format!(
                "topic {topic} belongs to source {owner:?}: two sources never share a topic. Give \
                 this one its own --topic-prefix, or exclude the namespace"
            ))),
        }
    }
}

/// Reads the claims of other sources.
#[derive(Debug, Clone)]
pub struct Claims {
    /// Lists topics.
    pub admin: Admin,
    /// Reads state topics.
    pub reader: Reader,
    /// First part of the topics' names.
    pub prefix: String,
    /// The source that is not another one.
    pub source: String,
}

impl Claims {
    /// The claims as they are now.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`], or [`ProducerError::Refused`] for a state that cannot be read.
    pub async fn read(&self) -> Result<OtherSources, ProducerError> {
        let names = self.admin.topics().await?;
        let mut others = OtherSources::default();
        for topic in names.keys() {
            let Some(other) = source_of_state_topic(&self.prefix, topic) else {
                continue;
            };
            if other == self.source {
                continue;
            }
            others.names.insert(other.to_owned());
            for name in read_state(&self.reader, topic).await?.topics.into_keys() {
                others.topics.insert(name, other.to_owned());
            }
        }
        Ok(others)
    }

    /// Those of the topics that this source has claimed which another one has claimed too, and who.
    ///
    /// # Errors
    /// As [`Claims::read`].
    pub async fn contested(
        &self,
        claimed: &[String],
    ) -> Result<BTreeMap<String, String>, ProducerError> {
        let mut others = self.read().await?;
        others.topics.retain(|topic, _| claimed.contains(topic));
        Ok(others.topics)
    }
}
