//! What a source keeps in its two internal topics, as JSON.
//!
//! The position topic gets one [`PositionRecord`] per Kafka transaction, written last. The state
//! topic is compacted and has one key per thing: `source` ([`SourceRecord`]), `topic/<name>`
//! ([`TopicRecord`]) and `route/<ui or ns>` ([`RouteRecord`]). A record is written in the same Kafka
//! transaction as the first record that depends on it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::position::{Position, PositionError, Timestamp};

/// Version of the shapes in this file.
pub const STATE_VERSION: u32 = 1;

/// A position as saved: everything up to it is in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// `<seconds>:<increment>`
    pub ts: String,
    /// Election term of the entry at `ts`.
    pub term: i64,
    /// See [`Position::ord`].
    pub ord: u32,
    /// Version of the routing table that was in force.
    pub routing: u32,
    /// [`History::begin`]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub begin: Option<String>,
    /// [`History::open`]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub open: Option<String>,
}

/// How far back a source's history goes that transactions may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Time of the first entry, where the stream began with the oldest one there was: a
    /// transaction that has entries before it cannot be whole.
    pub begin: Option<Timestamp>,
    /// Time of the first entry of the oldest transaction that is open at the position. Dumps
    /// only, which are read again from there.
    pub open: Option<Timestamp>,
}

impl PositionRecord {
    /// The record for a position.
    #[must_use]
    pub fn new(position: Position, routing: u32) -> Self {
        let Position { ts, term, ord } = position;
        Self {
            v: STATE_VERSION,
            ts: ts.to_string(),
            term,
            ord,
            routing,
            begin: None,
            open: None,
        }
    }

    /// The record with the history that it needs.
    #[must_use]
    pub fn with_history(self, history: History) -> Self {
        Self {
            begin: history.begin.map(|begin| begin.to_string()),
            open: history.open.map(|open| open.to_string()),
            ..self
        }
    }

    /// The history that the position needs.
    ///
    /// # Errors
    /// [`PositionError`] if a time of it is none.
    pub fn history(&self) -> Result<History, PositionError> {
        let read = |text: &Option<String>| text.as_deref().map(str::parse).transpose();
        Ok(History {
            begin: read(&self.begin)?,
            open: read(&self.open)?,
        })
    }

    /// The position that was saved.
    ///
    /// # Errors
    /// [`PositionError`] if `ts` is no timestamp.
    pub fn position(&self) -> Result<Position, PositionError> {
        Ok(Position {
            ts: self.ts.parse()?,
            term: self.term,
            ord: self.ord,
        })
    }
}

/// Who the source is: hosts may change, the set may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The source's name.
    pub name: String,
    /// Replica-set name, where the source has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub set_name: Option<String>,
    /// `settings.replicaSetId`, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replica_set_id: Option<String>,
}

/// A topic that this source owns: no other source may write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// Format of the values.
    #[serde(flatten)]
    pub format: Format,
    /// Version of the format.
    pub format_version: u32,
    /// Number of partitions; a change under it would break order per document.
    pub partitions: u32,
    /// Formats of older records, from before changes of the routing table.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub earlier: Vec<Format>,
}

impl TopicRecord {
    /// The formats that its records may have, today's first.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        std::iter::once(self.format).chain(self.earlier.iter().copied())
    }

    /// The record after a change of the format.
    #[must_use]
    pub fn in_format(&self, format: Format) -> Self {
        let mut earlier: Vec<Format> = self.formats().filter(|other| *other != format).collect();
        earlier.sort_by_key(ToString::to_string);
        Self {
            format,
            earlier,
            ..self.clone()
        }
    }
}

/// Where one collection goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// Namespace at the time the route was made.
    pub ns: String,
    /// Collection UUID, where the source gives one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ui: Option<String>,
    /// The topic.
    pub topic: String,
    /// How its documents spread over the partitions.
    pub order: Order,
    /// Version of the routing rules that made the route.
    pub rules: u32,
    /// The rule for its order; absent: [`OrderRule::Auto`].
    #[serde(skip_serializing_if = "OrderRule::is_auto", default)]
    pub rule: OrderRule,
}

/// How documents of a collection spread over partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By `_id`: order per document.
    Id,
    /// All in one partition: order per collection, for collections whose documents depend on each
    /// other (unique indexes, capped collections, collations).
    Collection,
}

/// How the operator wants documents to spread over partitions: `--order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderRule {
    /// By `_id`, but for collections whose documents depend on each other: those with a unique
    /// index besides `_id`, capped ones, and those with a collation of their own.
    #[default]
    Auto,
    /// By `_id`.
    Id,
    /// Each collection in one partition.
    Collection,
}

impl OrderRule {
    /// The order of a collection of which nothing else is known.
    #[must_use]
    pub const fn order(self) -> Order {
        match self {
            Self::Auto | Self::Id => Order::Id,
            Self::Collection => Order::Collection,
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    const fn is_auto(&self) -> bool {
        matches!(self, Self::Auto)
    }
}

impl fmt::Display for OrderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Id => "id",
            Self::Collection => "collection",
        })
    }
}

impl FromStr for OrderRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "id" => Ok(Self::Id),
            "collection" => Ok(Self::Collection),
            _ => Err("must be auto, id or collection"),
        }
    }
}

/// The state topic, read whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Who the source is.
    pub source: Option<SourceRecord>,
    /// Topics by name.
    pub topics: BTreeMap<String, TopicRecord>,
    /// Routes by UUID, or by namespace where the source gives none.
    pub routes: BTreeMap<String, RouteRecord>,
}

/// A state record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The value is not the JSON that its key asks for.
    #[error("state record {key:?} cannot be read")]
    Unreadable {
        /// The record's key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A key that this version does not know: written by a newer one.
    #[error("state record {key:?} is unknown here; it was written by a newer version")]
    UnknownKey {
        /// The record's key.
        key: String,
    },
}

impl State {
    /// Takes one record of the topic; an empty value deletes.
    ///
    /// # Errors
    /// [`StateError`] if key or value cannot be read.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), StateError> {
        match (key.split_once('/'), value) {
            (None, value) if key == "source" => {
                self.source = value.map(|value| read(key, value)).transpose()?;
            }
            (Some(("topic", name)), Some(value)) => {
                self.topics.insert(name.to_owned(), read(key, value)?);
            }
            (Some(("route", name)), Some(value)) => {
                self.routes.insert(name.to_owned(), read(key, value)?);
            }
            (Some(("topic", name)), None) => drop(self.topics.remove(name)),
            (Some(("route", name)), None) => drop(self.routes.remove(name)),
            _ => {
                return Err(StateError::UnknownKey {
                    key: key.to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|source| StateError::Unreadable {
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Mode;
    use crate::position::Timestamp;

    #[test]
    fn records_have_their_frozen_form() {
        let position = Position {
            ts: Timestamp::new(7, 3),
            term: 2,
            ord: 0,
        };
        let record = PositionRecord::new(position, 1);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#);
        assert_eq!(record.position(), Ok(position));
        assert_eq!(serde_json::from_str(&text).ok(), Some(record.clone()));

        let history = History {
            begin: Some(Timestamp::new(1, 1)),
            open: Some(Timestamp::new(6, 2)),
        };
        let record = record.with_history(history);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1,"begin":"1:1","open":"6:2"}"#
        );
        assert_eq!(record.history(), Ok(history));
        assert_eq!(serde_json::from_str(&text).ok(), Some(record));

        let topic = TopicRecord {
            v: STATE_VERSION,
            format: Format::Json(Mode::Relaxed),
            format_version: 1,
            partitions: 4,
            earlier: Vec::new(),
        };
        let text = serde_json::to_string(&topic).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"format":"json","json":"relaxed","format_version":1,"partitions":4}"#
        );
        assert_eq!(serde_json::from_str::<TopicRecord>(&text).unwrap(), topic);

        let route = RouteRecord {
            v: STATE_VERSION,
            ns: "shop.orders".to_owned(),
            ui: None,
            topic: "cdc.shop.orders".to_owned(),
            order: Order::Id,
            rules: 1,
            rule: OrderRule::Auto,
        };
        let text = serde_json::to_string(&route).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"ns":"shop.orders","topic":"cdc.shop.orders","order":"id","rules":1}"#
        );
        assert_eq!(serde_json::from_str::<RouteRecord>(&text).unwrap(), route);
        let route = RouteRecord {
            rule: OrderRule::Id,
            ..route
        };
        let text = serde_json::to_string(&route).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"ns":"shop.orders","topic":"cdc.shop.orders","order":"id","rules":1,"rule":"id"}"#
        );
    }

    #[test]
    fn a_topic_keeps_the_formats_that_it_had() {
        let topic = TopicRecord {
            v: STATE_VERSION,
            format: Format::Json(Mode::Relaxed),
            format_version: 1,
            partitions: 4,
            earlier: Vec::new(),
        };
        let topic = topic.in_format(Format::Raw).in_format(Format::Bson);
        let text = serde_json::to_string(&topic).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"format":"bson","format_version":1,"partitions":4,"earlier":[{"format":"json","json":"relaxed"},{"format":"raw"}]}"#
        );
        assert_eq!(serde_json::from_str::<TopicRecord>(&text).unwrap(), topic);
    }

    #[test]
    fn state_follows_its_records_and_refuses_unknown_ones() {
        let mut state = State::default();
        state
            .apply("source", Some(br#"{"v":1,"name":"rs0","set_name":"rs0"}"#))
            .unwrap();
        state
            .apply(
                "topic/cdc.a.b",
                Some(br#"{"v":1,"format":"bson","format_version":1,"partitions":4}"#),
            )
            .unwrap();
        assert_eq!(state.topics["cdc.a.b"].format, Format::Bson);
        state.apply("topic/cdc.a.b", None).unwrap();
        assert!(state.topics.is_empty());
        assert!(state.apply("request/1", Some(b"{}")).is_err());
        assert!(state.apply("source", Some(b"[]")).is_err());
    }
}
