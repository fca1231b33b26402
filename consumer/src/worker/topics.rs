//! The topics, with their sources and formats. The topics of oplog-producer are listed in the
//! producers' state topics; those of other programs are named by the operator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oplog_relay_core::foreign::Rules;
use oplog_relay_core::format::{FORMAT_VERSION, Format};
use oplog_relay_core::state::{GapRecord, State, TopicRecord};
use oplog_relay_core::topic::{source_of_state_topic, state_topic};
use oplog_relay_runtime::kafka::{Admin, Follower, KafkaFailure, KafkaOptions, Reader, Stored};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rustc_hash::FxHashMap;

use crate::error::ConsumerError;
use crate::input::{ForeignInput, Input};
use crate::saved_state_error::SavedStateError;
use crate::worker::source_gaps::{gaps_in, warn_of};
use crate::worker::topic_error::TopicError;

/// A topic that a producer has claimed, or a topic of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The source whose entries are in the topic. A topic of another program is a separate source.
    pub source: String,
    /// The format of its values. It is BSON for a topic of another program, whose values are
    /// converted to BSON.
    pub format: Format,
    /// The formats of older values, from before changes of the routing.
    pub earlier: Vec<Format>,
    /// The conversion of another program's records; `None` in a topic of oplog-producer.
    pub foreign: Option<ForeignTopic>,
}

/// A topic of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignTopic {
    /// The rules for decoding its records.
    pub rules: Rules,
    /// Its number of partitions when this was last read.
    pub partitions: i32,
}

impl Topic {
    /// Returns the formats that fit a record, judged by the record alone. The current format is first.
    pub fn formats_of(&self, value: &[u8], has_id: bool) -> impl Iterator<Item = Format> {
        let all = std::iter::once(self.format).chain(self.earlier.iter().copied());
        all.filter(move |format| format.fits(value, has_id))
    }
}

/// Number of times that the state topics are read again for a topic that they do not have. A
/// topic's claim is written in the Kafka transaction of its first record, so a record that can be
/// read has a claim, which may become readable a little later.
const ATTEMPTS: u32 = 5;
/// Number of times that the state topics are read again for a change of a topic. There may be no
/// such change, for example if the record is damaged.
const CHANGE_ATTEMPTS: u32 = 2;

/// The claimed topics by source and name.
type Known = BTreeMap<String, FxHashMap<String, Arc<Topic>>>;

/// A topic with its name.
#[derive(Debug, Clone)]
pub struct NamedTopic {
    /// The name of the topic.
    pub name: String,
    /// The description of the topic.
    pub topic: Arc<Topic>,
}

/// The topics of an input. They are read at start, and again when an unknown topic appears.
#[derive(Debug)]
pub struct Topics {
    admin: Admin,
    reader: Reader,
    input: Input,
    known: Mutex<Known>,
    /// The gaps in the streams of the sources.
    gaps: Mutex<BTreeMap<String, Vec<GapRecord>>>,
    /// The readers of the state topics, by source. The lock is held while they are read, so that they
    /// are read once for all waiting workers.
    reading: tokio::sync::Mutex<BTreeMap<String, Follower>>,
    shutdown: Shutdown,
}

impl Topics {
    /// Connects and reads the state topics.
    ///
    /// # Errors
    /// Returns an error if Kafka cannot be reached, or a state topic cannot be read.
    pub async fn open(
        kafka: &KafkaOptions,
        input: &Input,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let topics = Self {
            admin: Admin::connect(kafka).await?,
            reader: Reader::new(kafka),
            input: input.clone(),
            known: Mutex::default(),
            gaps: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            shutdown,
        };
        topics.read(&mut *topics.reading.lock().await).await?;
        Ok(topics)
    }

    /// Returns the topics known so far, in the order of their names.
    #[must_use]
    pub fn known(&self) -> Vec<NamedTopic> {
        let known = self.lock();
        let all = known.values().flatten();
        let all: BTreeMap<_, _> = all.collect();
        let named = all.into_iter().map(|(name, topic)| NamedTopic {
            name: name.clone(),
            topic: Arc::clone(topic),
        });
        named.collect()
    }

    /// Returns the sources whose topics have the prefix. There are none for other programs, which
    /// save nothing about their sources in Kafka.
    ///
    /// # Errors
    /// Returns an error if the request to Kafka fails.
    pub async fn sources(&self) -> Result<Vec<String>, KafkaFailure> {
        let Some(prefix) = self.input.prefix() else {
            return Ok(Vec::new());
        };
        let names = self.admin.topics().await?.into_keys();
        let sources =
            names.filter_map(|name| source_of_state_topic(prefix, &name).map(str::to_owned));
        Ok(sources.collect())
    }

    /// Returns the gaps that producers have recorded in the streams of their sources, by source.
    #[must_use]
    pub fn gaps(&self) -> BTreeMap<String, Vec<GapRecord>> {
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.clone()
    }

    /// Returns the input whose topics these are.
    #[must_use]
    pub const fn input(&self) -> &Input {
        &self.input
    }

    /// Returns the description of a topic of another program. If `partition` was added after the
    /// last read, the description is read again.
    ///
    /// # Errors
    /// Returns the errors of [`Topics::get`].
    pub async fn get_with_partition(
        &self,
        name: &str,
        partition: i32,
    ) -> Result<Arc<Topic>, ConsumerError> {
        let topic = self.get(name).await?;
        match topic.foreign {
            Some(foreign) if foreign.partitions <= partition => {
                self.read(&mut *self.reading.lock().await).await?;
                self.get(name).await
            }
            _ => Ok(topic),
        }
    }

    /// Returns the current number of partitions of each topic of the input.
    ///
    /// # Errors
    /// Returns an error if the request to Kafka fails.
    pub async fn partitions(&self) -> Result<BTreeMap<String, i32>, KafkaFailure> {
        let mut topics = self.admin.topics().await?;
        topics.retain(|name, _| self.input.includes(name));
        Ok(topics)
    }

    /// Returns the description of a topic.
    ///
    /// # Errors
    /// Returns an error if no source claims the topic, its format is newer than this program, or Kafka
    /// fails.
    pub async fn get(&self, name: &str) -> Result<Arc<Topic>, ConsumerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            if let Some(topic) = self.find(name) {
                return Ok(topic);
            }
            let mut followers = self.reading.lock().await;
            if let Some(topic) = self.find(name) {
                return Ok(topic);
            }
            let read = self.read(&mut followers).await;
            drop(followers);
            match read {
                Ok(()) if self.find(name).is_some() => continue,
                Ok(()) if backoff.attempts() >= ATTEMPTS => return Err(self.unknown(name)),
                Err(ConsumerError::KafkaFailure(failure)) if failure.is_transient() => {
                    tracing::warn!(error = %failure, topic = name, "describing the topic failed; retrying");
                }
                Ok(()) => {}
                Err(error) => return Err(error),
            }
            if !backoff.sleep(&self.shutdown).await {
                return Err(ConsumerError::interrupted(&self.shutdown));
            }
        }
    }

    /// Returns the current description of a topic that its producer has changed. The claim and the
    /// first record after the change are in different partitions, and the claim may become readable
    /// a little later, so the claim is read a few times until it `fits`.
    ///
    /// # Errors
    /// Returns the errors of [`Topics::get`].
    pub async fn get_changed(
        &self,
        name: &str,
        fits: impl Fn(&Topic) -> bool,
    ) -> Result<Arc<Topic>, ConsumerError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            match self.read(&mut *self.reading.lock().await).await {
                Err(ConsumerError::KafkaFailure(failure)) if failure.is_transient() => {
                    tracing::warn!(error = %failure, topic = name, "describing the topic failed; retrying");
                }
                read => read?,
            }
            let topic = self.get(name).await?;
            if fits(&topic) || backoff.attempts() >= CHANGE_ATTEMPTS {
                return Ok(topic);
            }
            if !backoff.sleep(&self.shutdown).await {
                return Err(ConsumerError::interrupted(&self.shutdown));
            }
        }
    }

    /// Returns the topics that a source has claimed and that do not exist, or that this user may
    /// not see, in the order of their names.
    ///
    /// # Errors
    /// Returns an error if the request to Kafka fails.
    pub async fn missing(&self) -> Result<Vec<NamedTopic>, KafkaFailure> {
        let there = self.admin.topics().await?;
        let mut missing = self.known();
        missing.retain(|known| !there.contains_key(&known.name));
        Ok(missing)
    }

    /// Warns of missing topics: readers of the remaining topics do not get the whole source.
    ///
    /// # Errors
    /// Returns the errors of [`Topics::missing`].
    pub async fn warn_of_missing(&self) -> Result<(), KafkaFailure> {
        for missing in self.missing().await? {
            tracing::warn!(
                topic = missing.name,
                source = missing.topic.source,
                "the source has written to this topic, but the topic does not exist or this user \
                 may not read it: its entries are missing from what is read here"
            );
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> ConsumerError {
        let topic = name.to_owned();
        let error = match &self.input {
            Input::Foreign(_) => TopicError::Vanished { topic },
            Input::Relay { prefix } => TopicError::Unclaimed {
                topic,
                prefix: prefix.clone(),
                writer: None,
            },
        };
        error.into()
    }

    async fn read(&self, followers: &mut BTreeMap<String, Follower>) -> Result<(), ConsumerError> {
        let prefix = match &self.input {
            Input::Relay { prefix } => prefix,
            Input::Foreign(foreign) => {
                self.take_foreign(foreign, self.partitions().await?);
                return Ok(());
            }
        };
        for source in self.sources().await? {
            let follower = followers.entry(source.clone()).or_insert_with(|| {
                Follower::new(self.reader.clone(), state_topic(prefix, &source))
            });
            let newer = match follower.read().await {
                Ok(newer) => newer,
                // The topic was removed after the topics were listed.
                Err(KafkaFailure::UnknownTopic(_)) => continue,
                Err(failure) => return Err(failure.into()),
            };
            let claims = Claims::read(&source, follower.topic(), &newer.records)?;
            if let Some(gaps) = gaps_in(&newer.records) {
                self.take_gaps(&source, gaps);
            }
            let mut known = self.lock();
            let topics = known.entry(source).or_default();
            if newer.is_whole {
                topics.clear();
            }
            claims.take_into(topics);
        }
        Ok(())
    }

    /// Remembers the gaps of a source, and warns of those that are new.
    fn take_gaps(&self, source: &str, gaps: Vec<GapRecord>) {
        let mut known = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(source.to_owned()).or_default();
        let new: Vec<GapRecord> = gaps
            .iter()
            .filter(|gap| !known.contains(gap))
            .cloned()
            .collect();
        warn_of(source, &new);
        *known = gaps;
    }

    /// Adds the topics of another program that exist now, or updates their numbers of partitions.
    fn take_foreign(&self, foreign: &ForeignInput, partitions: BTreeMap<String, i32>) {
        let mut known = self.lock();
        for (name, partitions) in partitions {
            let topic = Topic {
                source: name.clone(),
                format: Format::Bson,
                earlier: Vec::new(),
                foreign: Some(ForeignTopic {
                    rules: foreign.rules(partitions),
                    partitions,
                }),
            };
            let of_source = known.entry(name.clone()).or_default();
            of_source.insert(name, Arc::new(topic));
        }
    }

    fn find(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.lock();
        let mut claimed = known.values().rev();
        claimed.find_map(|topics| topics.get(name)).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The claims in records of a state topic. A value of `None` is a claim that was withdrawn.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claims(BTreeMap<String, Option<Arc<Topic>>>);

impl Claims {
    fn read(source: &str, topic: &str, records: &[Stored]) -> Result<Self, ConsumerError> {
        let mut claims = Self::default();
        for record in records {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            // Each record is applied to an empty state, because the rest of the state is not needed.
            let mut state = State::default();
            state
                .apply(&key, record.value.as_deref())
                .map_err(|source| SavedStateError::State {
                    topic: topic.to_owned(),
                    offset: record.offset,
                    source,
                })?;
            if let Some(name) = key.strip_prefix("topic/") {
                let claim = state.topics.remove(name);
                if let Some(claim) = &claim {
                    check_version(name, claim)?;
                }
                let claim = claim.map(|claim| {
                    Arc::new(Topic {
                        source: source.to_owned(),
                        format: claim.format,
                        earlier: claim.earlier,
                        foreign: None,
                    })
                });
                claims.0.insert(name.to_owned(), claim);
            }
        }
        Ok(claims)
    }

    fn take_into(self, topics: &mut FxHashMap<String, Arc<Topic>>) {
        for (name, claim) in self.0 {
            match claim {
                Some(topic) => drop(topics.insert(name, topic)),
                None => drop(topics.remove(&name)),
            }
        }
    }
}

fn check_version(topic: &str, record: &TopicRecord) -> Result<(), TopicError> {
    if record.format_version <= FORMAT_VERSION {
        return Ok(());
    }
    Err(TopicError::NewerFormat {
        topic: topic.to_owned(),
        version: record.format_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::Mode;

    #[test]
    fn a_claim_holds_until_it_is_withdrawn() {
        let stored = |key: &str, value: Option<&str>| Stored {
            offset: 7,
            timestamp_ms: None,
            key: Some(key.as_bytes().to_vec()),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        let claim = r#"{"v":1,"format":"bson","format_version":1,"partitions":4}"#;
        let mut topics = FxHashMap::default();
        let mut take = |records: &[Stored]| {
            let claims = Claims::read("rs0", "__cdc.state.rs0", records).unwrap();
            claims.take_into(&mut topics);
            let mut names: Vec<String> = topics.keys().cloned().collect();
            names.sort();
            names
        };
        let gone = stored("route/s.a", None);
        assert_eq!(take(&[stored("topic/s.a", Some(claim)), gone]), ["s.a"]);
        assert_eq!(take(&[]), ["s.a"]);
        assert_eq!(take(&[stored("topic/s.b", Some(claim))]), ["s.a", "s.b"]);
        assert_eq!(take(&[stored("topic/s.a", None)]), ["s.b"]);
        let unknown = [stored("fate/x", Some("{}"))];
        assert!(Claims::read("rs0", "__cdc.state.rs0", &unknown).is_err());
    }

    #[test]
    fn a_record_is_of_a_format_that_its_topic_has_or_had() {
        let topic = Topic {
            source: "rs0".to_owned(),
            format: Format::Bson,
            earlier: vec![Format::Json(Mode::Canonical), Format::Json(Mode::Relaxed)],
            foreign: None,
        };
        let formats =
            |value: &[u8], has_id| -> Vec<Format> { topic.formats_of(value, has_id).collect() };
        assert_eq!(formats(b"\x05\0\0\0\0", true), [Format::Bson]);
        // The mode of an earlier JSON value cannot be determined.
        assert_eq!(formats(b"{}", false), topic.earlier);
        assert_eq!(formats(b"OPLR", false), []);
    }
}
