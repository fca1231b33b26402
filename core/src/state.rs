//! What a source keeps in its two internal topics, as JSON.
//!
//! The position topic gets one [`PositionRecord`] per Kafka transaction, written last. The state
//! topic is compacted and has one key per thing: `source` ([`SourceRecord`]), `topic/<name>`
//! ([`TopicRecord`]) and `route/<ui or ns>` ([`RouteRecord`]); of a full sync `copy/<ui or ns>`
//! ([`CopyRecord`]), `range/<ui or ns>/<number>` ([`RangeRecord`]) and `request/<number>`
//! ([`RequestRecord`]). A record is written in the same Kafka transaction as the first record that
//! depends on it; a range with the last document that it says is sent.

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
    /// Entries that a full sync has sent at this position: their ordinals are used up.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub reads: u32,
    /// Whether the state topic holds the source's record. From then on a state topic without it
    /// has lost what it held.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub state: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
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
            reads: 0,
            state: false,
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

    /// The last time of the source of which everything is in Kafka: the position's own, but of a
    /// transaction that was sent in part.
    ///
    /// # Errors
    /// [`PositionError`] if `ts` is no timestamp.
    pub fn done(&self) -> Result<Timestamp, PositionError> {
        let Position { ts, ord, .. } = self.position()?;
        Ok(if ord == 0 { ts } else { ts.before() })
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
    /// The namespaces that are carried; absent in records of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespaces: Option<NamespacesRecord>,
}

/// The namespaces of a source that are carried: the patterns of `--include-namespaces` and
/// `--exclude-namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacesRecord {
    /// Patterns of which one must match; empty: every namespace.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub include: Vec<String>,
    /// Patterns of which none may match.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub exclude: Vec<String>,
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
    /// The end of each partition when a session last began. An end never goes back: one that does
    /// shows that the topic was deleted and created again, or that records were lost.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ends: Vec<i64>,
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

/// A collection or view that a full sync has still to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// Its namespace when the record was written.
    pub ns: String,
    /// Its UUID, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ui: Option<String>,
    /// What it is.
    pub kind: CopyKind,
    /// How far it is.
    pub stage: CopyStage,
    /// Whether it was asked for while the stream ran.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub requested: bool,
    /// Whether its documents alone are sent: the stream carries the collection already.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub only_documents: bool,
    /// Only documents that fit this query, as Extended JSON.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// Documents that are sent.
    pub documents: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Documents that the source said it has, when the copy was planned.
    pub expected_documents: u64,
    /// Bytes of them.
    pub expected_bytes: u64,
}

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// A collection that is read by ranges of `_id`.
    Collection,
    /// A capped collection: in its own order, by one cursor.
    Capped,
    /// A view: its definition.
    View,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyStage {
    /// Nothing is sent.
    Planned,
    /// The command that creates the collection is sent.
    Created,
    /// The ranges are saved; those that are still there are open.
    Reading,
}

/// A range of `_id` that is not wholly sent. Each bound is BSON, `{"_id": …}`, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// The first `_id`, or the only one where `until` is the same.
    pub from: String,
    /// The first `_id` that is not in it; none: all of the type of `from` that follow.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// The last `_id` that was sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
}

/// What somebody asked the running producer to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// [`STATE_VERSION`].
    pub v: u32,
    /// Patterns of namespaces.
    pub namespaces: Vec<String>,
    /// Only documents that fit this query, as Extended JSON.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
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
    /// What a full sync has still to copy, by UUID or namespace.
    pub copies: BTreeMap<String, CopyRecord>,
    /// Its open ranges, by the copy's key and the range's number.
    pub ranges: BTreeMap<(String, u32), RangeRecord>,
    /// What is asked for and not begun, by its number.
    pub requests: BTreeMap<String, RequestRecord>,
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

    /// Whether a producer has committed something of the source: whatever it writes here is in one
    /// Kafka transaction with a position. Requests come from elsewhere.
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
