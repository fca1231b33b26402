//! Records of other programs that read MongoDB into Kafka: MongoShake, MongoDB's Kafka source
//! connector (mongo-kafka) and Debezium.
//!
//! As in the formats of oplog-producer ([`crate::format`]), each record is decoded to entries in
//! the form of the oplog. These topics have neither barriers nor a state topic, and most of their
//! records contain less than an entry of the oplog does:
//!
//! | writer | a record contains | what is missing |
//! | --- | --- | --- |
//! | MongoShake, `tunnel.message = bson` or `raw` | the entry | the place in a transaction |
//! | MongoShake, `json` in canonical Extended JSON | the entry's main fields | other fields, the place in a transaction |
//! | MongoShake, `json` in its default format | the values as Go prints them | most types |
//! | mongo-kafka | a change event | the entry of an update, commands without an event |
//! | Debezium | `before`, `after`, the changed fields | commands, types of the changed fields |
//!
//! # Identity
//!
//! The timestamp of an entry is the one in the record. For Debezium it consists of the seconds of
//! `source.ts_ms` and of `source.ord`. A record without a time, such as a document that mongo-kafka
//! copied, has the timestamp 0:0. The ordinal of a change of a document is the offset of its record
//! modulo 2^30. The entries of a frame of MongoShake with several entries have other ordinals, made
//! of its offset and their indexes. An ordinal is therefore the same whenever the record is read
//! again, and differs from those of the other changes with the same timestamp. The ordinal of a
//! command is a checksum of its `ns` and its `o`, so a command that the writer repeats after a
//! failover keeps its identity, and the commands of a transaction differ.
//!
//! # Updates
//!
//! An update in a change event names the changed fields by paths, which are ambiguous: `a.0` may be
//! an element of an array or a field named `0`, and `a.b` may be a single field. [`Updates`]
//! selects the part of an event that is used if it has both the paths and the whole document. Paths
//! become `$set` and `$unset`. The target applies them to its own document, where the type of `a`
//! is known. A change that these operators cannot express becomes a diff, in which an ambiguous
//! path is an error.
//!
//! # Modules
//!
//! - `recognize` recognizes the program that wrote a value
//! - `entry` makes entries from the records of other programs; `update` converts the update of a
//!   change event
//! - `mongoshake` reads the BSON and JSON of MongoShake, `go_json` its default JSON, and
//!   `raw_frame` its frames
//! - `change_event` reads the change events of mongo-kafka
//! - `debezium` reads Debezium's envelope; `connect` reads the JSON of Kafka Connect's converters
//! - `error` has the reasons why a record cannot be decoded

mod change_event;
mod connect;
mod debezium;
mod entry;
mod error;
mod go_json;
mod mongoshake;
mod raw_frame;
mod recognize;
mod update;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::format::Decoded;

pub use error::ForeignError;
pub use recognize::{Program, recognize};
pub use update::Description;

use entry::Output;

/// A program that writes records, and their format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// MongoShake with `tunnel.message = bson`: one entry.
    MongoshakeBson,
    /// MongoShake with `tunnel.message = json`: the fields of one entry, in Extended JSON or as Go
    /// prints them.
    MongoshakeJson,
    /// MongoShake with `tunnel.message = raw`: a frame of entries.
    MongoshakeRaw,
    /// mongo-kafka with `output.format.value=json`: a change event as Extended JSON.
    MongoKafkaJson,
    /// mongo-kafka with `output.format.value=bson`: a change event as BSON.
    MongoKafkaBson,
    /// Debezium's MongoDB connector, with JSON converters.
    Debezium,
}

impl Writer {
    /// All writers.
    pub const ALL: [Self; 6] = [
        Self::MongoshakeBson,
        Self::MongoshakeJson,
        Self::MongoshakeRaw,
        Self::MongoKafkaJson,
        Self::MongoKafkaBson,
        Self::Debezium,
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MongoshakeBson => "mongoshake-bson",
            Self::MongoshakeJson => "mongoshake-json",
            Self::MongoshakeRaw => "mongoshake-raw",
            Self::MongoKafkaJson => "mongo-kafka-json",
            Self::MongoKafkaBson => "mongo-kafka-bson",
            Self::Debezium => "debezium",
        }
    }

    /// Returns true if the program is MongoShake.
    #[must_use]
    pub const fn is_mongoshake(self) -> bool {
        matches!(
            self,
            Self::MongoshakeBson | Self::MongoshakeJson | Self::MongoshakeRaw
        )
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Writer {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let found = Self::ALL.into_iter().find(|writer| writer.name() == name);
        found.ok_or(())
    }
}

/// The part of an update that is used if an event has both the changed fields and the whole
/// document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updates {
    /// The whole document, as a replacement. It may be newer than the event, in which case the
    /// events of the later changes follow. No path can be ambiguous, and it does not matter if
    /// Kafka has removed earlier records.
    Documents,
    /// The changed fields.
    Changes,
}

/// The rules by which the records of a topic are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The writer of the records.
    pub writer: Writer,
    /// The part of an update that is used.
    pub updates: Updates,
    /// True if records that have lost types are accepted.
    pub accepts_lossy: bool,
    /// True if the key of each record is checked, because the topic has several partitions and the
    /// reader depends on the order of the changes of a document. MongoShake's keys are never
    /// checked.
    pub checks_keys: bool,
}

/// A record to decode.
#[derive(Debug, Clone)]
pub struct Record<'r> {
    /// The place of the value in the arena, the buffer that holds records and entries.
    pub value: Range<usize>,
    /// The key.
    pub key: Option<&'r [u8]>,
    /// The offset.
    pub offset: i64,
}

/// Decodes a record, and appends its entries to `found`. An entry that is BSON in the record stays
/// in place; others are appended to the arena. Some records, such as heartbeats, have no entry.
///
/// # Errors
/// [`ForeignError`] if the record cannot be decoded. `found` may then hold some of its entries.
pub fn decode(
    rules: Rules,
    record: &Record<'_>,
    arena: &mut Vec<u8>,
    found: &mut Vec<Decoded>,
) -> Result<(), ForeignError> {
    let mut output = Output::new(arena, found, record.offset);
    let value = record.value.clone();
    let decoded = match rules.writer {
        Writer::MongoshakeBson => mongoshake::decode_bson(value, &mut output),
        Writer::MongoshakeJson => mongoshake::decode_json(value, rules.accepts_lossy, &mut output),
        Writer::MongoshakeRaw => raw_frame::decode(value, &mut output),
        Writer::MongoKafkaJson => change_event::decode_json(rules, record, &mut output),
        Writer::MongoKafkaBson => change_event::decode_bson(rules, record, &mut output),
        Writer::Debezium => debezium::decode(rules, record, &mut output),
    };
    decoded.map_err(|error| {
        let value = arena.get(record.value.clone()).unwrap_or_default();
        error.naming_the_writer(rules.writer, value)
    })
}

#[cfg(test)]
mod tests;
