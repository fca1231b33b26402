//! What is saved of a source in Kafka: the position, and the state with routes and claims.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use oplog_relay_core::position::{Position, PositionError};
use oplog_relay_core::runtime::kafka::{Admin, Reader, Stored};
use oplog_relay_core::state::{History, PositionRecord, SourceRecord, State};
use oplog_relay_core::topic::{position_topic, source_of_state_topic, state_topic};

use crate::config::RequestConfig;
use crate::error::ProducerError;
use crate::publisher::send_alone;
use crate::topics;

/// What was saved, as read after older producers were fenced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last committed position.
    pub position: Option<Position>,
    /// The version of the routing table there.
    pub routing: Option<u32>,
    /// The history that transactions after it may need.
    pub history: History,
    /// Entries that a full sync has sent at the position.
    pub reads: u32,
    /// The routing table and who the source is.
    pub state: State,
}

/// Creates the two internal topics of a source where they are missing.
///
/// # Errors
/// [`ProducerError::Kafka`] and [`ProducerError::Refused`].
pub async fn create_topics(
    admin: &Admin,
    prefix: &str,
    source: &str,
    replication_factor: i32,
) -> Result<(), ProducerError> {
    for name in [position_topic(prefix, source), state_topic(prefix, source)] {
        if admin.partitions(&name).await?.is_none() {
            let settings = topics::internal_settings();
            topics::create(admin, &name, 1, replication_factor, &settings).await?;
        }
    }
    Ok(())
}

impl Checkpoint {
    /// Reads both topics. Safe only after the transactional producer was opened: until then an
    /// older instance may still be committing.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`], or [`ProducerError::Refused`] for records that cannot be read.
    pub async fn read(reader: &Reader, prefix: &str, source: &str) -> Result<Self, ProducerError> {
        let last = reader
            .read_last_committed(&position_topic(prefix, source))
            .await?;
        let last = last.map(|stored| read_position(&stored)).transpose()?;
        let state = read_state(reader, &state_topic(prefix, source)).await?;
        let Some((position, history, (routing, reads))) = last else {
            return Ok(Self {
                state,
                ..Self::default()
            });
        };
        Ok(Self {
            position: Some(position),
            routing: Some(routing),
            history,
            reads,
            state,
        })
    }

    /// Checks that the source is the one that was saved.
    ///
    /// # Errors
    /// [`ProducerError::Usage`] that names both.
    pub fn check_source(&self, source: &SourceRecord) -> Result<(), ProducerError> {
        let Some(saved) = &self.state.source else {
            return Ok(());
        };
        let differ =
            |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        if differ(&saved.set_name, &source.set_name)
            || differ(&saved.replica_set_id, &source.replica_set_id)
        {
            return Err(ProducerError::Usage(format!(
                "source {:?} was replica set {:?} (id {:?}) and is {:?} (id {:?}) now: another set \
                 has another history. Give it another --source-name, or begin anew under another \
                 --topic-prefix",
                source.name,
                saved.set_name.as_deref().unwrap_or("unknown"),
                saved.replica_set_id.as_deref().unwrap_or("unknown"),
                source.set_name.as_deref().unwrap_or("unknown"),
                source.replica_set_id.as_deref().unwrap_or("unknown"),
            )));
        }
        Ok(())
    }
}

/// Where somebody may ask for a full sync: the state topic of a source.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Reads it.
    pub reader: Reader,
    /// Its name.
    pub topic: String,
}

impl Requests {
    /// The state as it is now, requests among it.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub async fn read(&self) -> Result<State, ProducerError> {
        read_state(&self.reader, &self.topic).await
    }
}

/// Asks the producer that tails a source for a full sync.
///
/// # Errors
/// [`ProducerError::Usage`] for a source that no producer has begun; [`ProducerError::Kafka`].
pub async fn request_full_sync(config: &RequestConfig) -> Result<(), ProducerError> {
    let topic = state_topic(&config.topic_prefix, &config.source_name);
    let admin = Admin::connect(&config.kafka).await?;
    if admin.partitions(&topic).await?.is_none() {
        return Err(ProducerError::Usage(format!(
            "there is no topic {topic}: no producer has begun source {:?} under prefix {:?}",
            config.source_name, config.topic_prefix
        )));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let key = format!("request/{}", now.unwrap_or_default().as_millis());
    let value = serde_json::to_vec(&config.request)
        .map_err(|error| ProducerError::Usage(format!("{key}: {error}")))?;
    let options = config.kafka.clone();
    let sent = tokio::task::spawn_blocking(move || send_alone(&options, &topic, &key, &value));
    sent.await
        .map_err(|_| ProducerError::Ended("writing the request"))?
}

/// Position, history, and the version of the routing table with what a full sync sent.
type Found = (Position, History, (u32, u32));

fn read_position(stored: &Stored) -> Result<Found, ProducerError> {
    let unreadable = |reason: String| {
        ProducerError::Refused(format!("the saved position cannot be read: {reason}"))
    };
    let value = stored.value.as_deref().unwrap_or_default();
    let record: PositionRecord =
        serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
    let read = || {
        let numbers = (record.routing, record.reads);
        Ok((record.position()?, record.history()?, numbers))
    };
    read().map_err(|error: PositionError| unreadable(error.to_string()))
}

async fn read_state(reader: &Reader, topic: &str) -> Result<State, ProducerError> {
    let mut state = State::default();
    for stored in reader.read_all(topic).await? {
        let key = String::from_utf8_lossy(stored.key.as_deref().unwrap_or_default()).into_owned();
        state
            .apply(&key, stored.value.as_deref())
            .map_err(|error| ProducerError::Refused(format!("{topic}: {error}")))?;
    }
    Ok(state)
}

/// The topics that other sources of the prefix own.
///
/// # Errors
/// As [`Checkpoint::read`].
pub async fn claims_of_others<'t>(
    reader: &Reader,
    topics: impl Iterator<Item = &'t str>,
    prefix: &str,
    source: &str,
) -> Result<BTreeMap<String, String>, ProducerError> {
    let mut claimed = BTreeMap::new();
    for topic in topics {
        let Some(other) = source_of_state_topic(prefix, topic) else {
            continue;
        };
        if other == source {
            continue;
        }
        for name in read_state(reader, topic).await?.topics.into_keys() {
            claimed.insert(name, other.to_owned());
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::position::Timestamp;

    use super::*;

    fn source(set: &str, id: Option<&str>) -> SourceRecord {
        SourceRecord {
            v: 1,
            name: "rs0".to_owned(),
            set_name: Some(set.to_owned()),
            replica_set_id: id.map(str::to_owned),
        }
    }

    #[test]
    fn another_replica_set_under_the_same_name_is_refused() {
        let mut checkpoint = Checkpoint::default();
        assert!(checkpoint.check_source(&source("rs0", None)).is_ok());
        checkpoint.state.source = Some(source("rs0", Some("aa")));
        assert!(checkpoint.check_source(&source("rs0", Some("aa"))).is_ok());
        assert!(checkpoint.check_source(&source("rs0", None)).is_ok());
        assert!(checkpoint.check_source(&source("rs1", None)).is_err());
        assert!(checkpoint.check_source(&source("rs0", Some("bb"))).is_err());
    }

    #[test]
    fn positions_are_read_back_and_damage_is_told() {
        let stored = |value: &str| Stored {
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: Some(value.as_bytes().to_vec()),
        };
        let good = stored(r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#);
        let (position, history, numbers) = read_position(&good).unwrap();
        assert_eq!(position.to_string(), "7:3 (term 2)");
        assert_eq!((history, numbers), (History::default(), (1, 0)));
        let open =
            stored(r#"{"v":1,"ts":"7:3","term":2,"ord":9,"routing":1,"open":"5:1","reads":5}"#);
        let (position, history, numbers) = read_position(&open).unwrap();
        assert_eq!(numbers, (1, 5));
        assert_eq!(
            (position.ord, history.open),
            (9, Some(Timestamp::new(5, 1)))
        );
        assert!(read_position(&stored("{}")).is_err());
    }
}
