//! The saved state of a source in its two internal topics, as JSON.
//!
//! The position topic gets one [`PositionRecord`] per Kafka transaction, written last. The state
//! topic is compacted. Its keys are `source` ([`SourceRecord`]), `topic/<name>` ([`TopicRecord`])
//! and `route/<ui or ns>` ([`RouteRecord`]); a full sync adds `copy/<ui or ns>` ([`CopyRecord`]),
//! `range/<ui or ns>/<number>` ([`RangeRecord`]) and `request/<number>` ([`RequestRecord`]).
//! `oplog-producer full-sync` writes the requests. The producer writes every other record in the
//! same Kafka transaction as the first record that depends on it. The record of a range is in the
//! transaction of the last document that it reports as sent.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::position::{Position, PositionError, Timestamp};
use crate::resume::ResumePoint;

mod gap;
mod mode;

pub use gap::{GapReason, GapRecord};
pub use mode::SourceMode;

/// The version of the record formats in this file.
pub const STATE_VERSION: u32 = 1;

/// A saved position: everything up to it is in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// `<seconds>:<increment>`
    pub ts: String,
    /// The election term of the entry at `ts`.
    pub term: i64,
    /// The number of completed operations, see [`Position::ord`].
    pub ord: u32,
    /// The version of the routing table in force.
    pub routing: u32,
    /// [`History::begin`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub begin: Option<String>,
    /// [`History::open`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub open: Option<String>,
    /// The number of entries that a full sync has sent at this position. Their ordinals are in use.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub reads: u32,
    /// True if the state topic holds the source's record. If the record is missing later,
    /// the state topic has lost data.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub state: bool,
    /// The point at which a change stream continues. Only sources that are read through a change
    /// stream have it; readers that need only the time ignore it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resume: Option<ResumePoint>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The part of a source's history that open transactions may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// The timestamp of the first entry, if the stream started with the oldest available entry. A
    /// transaction that began before this timestamp is incomplete.
    pub begin: Option<Timestamp>,
    /// The timestamp of the first entry of the oldest transaction that is open at the position.
    /// Only dumps have it; they are read again from that entry.
    pub open: Option<Timestamp>,
}

impl PositionRecord {
    /// Creates the record of a position.
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
            reads: 0,
            state: false,
            resume: None,
        }
    }

    /// Returns the record with the history that its position needs.
    #[must_use]
    pub fn with_history(self, history: History) -> Self {
        Self {
            begin: history.begin.map(|begin| begin.to_string()),
            open: history.open.map(|open| open.to_string()),
            ..self
        }
    }

    /// Returns the history that the position needs.
    ///
    /// # Errors
    /// [`PositionError`] if one of its texts is not a timestamp.
    pub fn history(&self) -> Result<History, PositionError> {
        let read = |text: &Option<String>| text.as_deref().map(str::parse).transpose();
        Ok(History {
            begin: read(&self.begin)?,
            open: read(&self.open)?,
        })
    }

    /// Returns the last timestamp of the source up to which everything is in Kafka. It is the
    /// position's own timestamp, or the one before it if a transaction was sent in part.
    ///
    /// # Errors
    /// [`PositionError`] if `ts` is not a timestamp.
    pub fn done(&self) -> Result<Timestamp, PositionError> {
        let Position { ts, ord, .. } = self.position()?;
        Ok(if ord == 0 { ts } else { ts.before() })
    }

    /// Returns the saved position.
    ///
    /// # Errors
    /// [`PositionError`] if `ts` is not a timestamp.
    pub fn position(&self) -> Result<Position, PositionError> {
        Ok(Position {
            ts: self.ts.parse()?,
            term: self.term,
            ord: self.ord,
        })
    }
}

/// The identity of the source: its hosts may change, its replica set may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The source's name.
    pub name: String,
    /// The name of the replica set, if the source has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub set_name: Option<String>,
    /// `settings.replicaSetId`, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replica_set_id: Option<String>,
    /// The namespaces that are carried; absent in records of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespaces: Option<NamespacesRecord>,
    /// The way in which the source is read. Its positions have a meaning only for this way.
    #[serde(skip_serializing_if = "SourceMode::is_oplog", default)]
    pub mode: SourceMode,
    /// The timestamp after which the stream began, `<seconds>:<increment>`: no entry up to it was sent.
    /// Absent in records of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub began: Option<String>,
    /// The stretches of the source that were skipped, in the order in which that happened.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub gaps: Vec<GapRecord>,
    /// The number of times that an operator has set the position back. A process that has committed a
    /// later position before that knows by this number that nothing was lost.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub moves: u32,
}

impl SourceRecord {
    /// Creates the record of a source about which nothing else is known.
    #[must_use]
    pub const fn new(name: String, mode: SourceMode) -> Self {
        Self {
            v: STATE_VERSION,
            name,
            set_name: None,
            replica_set_id: None,
            namespaces: None,
            mode,
            began: None,
            gaps: Vec::new(),
            moves: 0,
        }
    }
}

/// The namespaces of a source that are carried: the patterns of `--include-namespaces` and
/// `--exclude-namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacesRecord {
    /// The include patterns. One of them must match; an empty list includes every namespace.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub include: Vec<String>,
    /// The exclude patterns. None of them may match.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub exclude: Vec<String>,
}

/// A topic that this source owns: no other source may write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The format of the values.
    #[serde(flatten)]
    pub format: Format,
    /// The version of the format.
    pub format_version: u32,
    /// The number of partitions. Changing it would break the order per document.
    pub partitions: u32,
    /// The formats of records that were written before changes of the routing table.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub earlier: Vec<Format>,
    /// The end offset of each partition when a session last started. An end offset that decreases
    /// shows that the topic was deleted and created again, or that records were lost.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ends: Vec<i64>,
}

impl TopicRecord {
    /// Returns the formats that the topic's records may have, the current one first.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        std::iter::once(self.format).chain(self.earlier.iter().copied())
    }

    /// Returns the record after a change of the format.
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

/// The route of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The namespace when the route was created.
    pub ns: String,
    /// The collection's UUID, if the source provides one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ui: Option<String>,
    /// The topic.
    pub topic: String,
    /// The distribution of its documents over the partitions.
    pub order: Order,
    /// The version of the routing rules that created the route.
    pub rules: u32,
    /// The rule for its order; absent means [`OrderRule::Auto`].
    #[serde(skip_serializing_if = "OrderRule::is_auto", default)]
    pub rule: OrderRule,
}

/// The distribution of a collection's documents over partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By `_id`: keeps the order per document.
    Id,
    /// All in one partition: keeps the order per collection, for collections whose documents depend
    /// on each other (unique indexes, capped collections, collations).
    Collection,
}

/// The distribution over partitions that the operator requests with `--order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderRule {
    /// By `_id`, except for collections whose documents depend on each other: those with a unique
    /// index besides `_id`, capped ones, and those with their own collation.
    #[default]
    Auto,
    /// By `_id`.
    Id,
    /// Each collection in one partition.
    Collection,
}

impl OrderRule {
    /// Returns the order of a collection about which nothing else is known.
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

/// A collection or view that a full sync still has to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The namespace when the record was written.
    pub ns: String,
    /// The UUID, if the source provides one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ui: Option<String>,
    /// The kind of the copy.
    pub kind: CopyKind,
    /// The progress of the copy.
    pub stage: CopyStage,
    /// True if the copy was requested while the stream ran.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub requested: bool,
    /// True if only documents are sent, because the stream carries the collection already.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub only_documents: bool,
    /// A query as Extended JSON that limits the copy to matching documents.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// The number of documents sent.
    pub documents: u64,
    /// The number of bytes sent.
    pub bytes: u64,
    /// The number of documents that the source reported when the copy was planned.
    pub expected_documents: u64,
    /// The number of bytes that the source reported when the copy was planned.
    pub expected_bytes: u64,
}

/// The kind of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// A collection that is read by ranges of `_id`.
    Collection,
    /// A capped collection, read by one cursor in its own order.
    Capped,
    /// A view. Only its definition is copied.
    View,
}

/// The progress of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyStage {
    /// Nothing has been sent.
    Planned,
    /// The command that creates the collection has been sent.
    Created,
    /// The ranges have been saved. Those that still exist have not been sent completely.
    Reading,
}

/// A range of `_id` that has not been sent completely. Each bound is BSON, `{"_id": …}`, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The first `_id` of the range. It is the only one if `until` is the same.
    pub from: String,
    /// The first `_id` after the range. If it is absent, the range has all following `_id`s in the
    /// type bracket of `from`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// The last `_id` that was sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
}

/// A copy that an operator requested from the running producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The namespace patterns.
    pub namespaces: Vec<String>,
    /// A query as Extended JSON that limits the copy to matching documents.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
}

/// The complete content of the state topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The identity of the source.
    pub source: Option<SourceRecord>,
    /// The topics by name.
    pub topics: BTreeMap<String, TopicRecord>,
    /// The routes by UUID, or by namespace if the source provides no UUID.
    pub routes: BTreeMap<String, RouteRecord>,
    /// The copies that a full sync still has to make, by UUID or namespace.
    pub copies: BTreeMap<String, CopyRecord>,
    /// The unfinished ranges of the copies, by the copy's key and the range's number.
    pub ranges: BTreeMap<(String, u32), RangeRecord>,
    /// The requests that have not been started, by number.
    pub requests: BTreeMap<String, RequestRecord>,
}

/// A state record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The value is not the JSON that its key requires.
    #[error("state record {key:?} cannot be read")]
    Unreadable {
        /// The record's key.
        key: String,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// A key that this version does not know: a newer version wrote it.
    #[error("state record {key:?} is unknown to this version; a newer version wrote it")]
    UnknownKey {
        /// The record's key.
        key: String,
    },
}

impl State {
    /// Applies a record of the topic. A tombstone (`None`) deletes the key.
    ///
    /// # Errors
    /// [`StateError`] if the key or the value cannot be read.
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
            (Some(("copy", name)), Some(value)) => {
                self.copies.insert(name.to_owned(), read(key, value)?);
            }
            (Some(("request", name)), Some(value)) => {
                self.requests.insert(name.to_owned(), read(key, value)?);
            }
            (Some(("range", name)), value) => self.apply_range(key, name, value)?,
            (Some(("copy", name)), None) => drop(self.copies.remove(name)),
            (Some(("request", name)), None) => drop(self.requests.remove(name)),
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

    /// Returns true if a producer has committed data of the source. Each record that a producer
    /// writes to this topic is in one Kafka transaction with a position. Requests do not count,
    /// because `oplog-producer full-sync` writes them.
    #[must_use]
    pub fn has_been_used(&self) -> bool {
        let Self {
            source,
            topics,
            routes,
            copies,
            ranges,
            requests: _,
        } = self;
        source.is_some()
            || !(topics.is_empty() && routes.is_empty() && copies.is_empty() && ranges.is_empty())
    }

    fn apply_range(
        &mut self,
        key: &str,
        name: &str,
        value: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let number = name.rsplit_once('/');
        let number =
            number.and_then(|(copy, number)| Some((copy.to_owned(), number.parse().ok()?)));
        let number = number.ok_or_else(|| StateError::UnknownKey {
            key: key.to_owned(),
        })?;
        match value {
            Some(value) => drop(self.ranges.insert(number, read(key, value)?)),
            None => drop(self.ranges.remove(&number)),
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
mod tests;
