//! Headers from which programs route records without reading the values (`--headers`).
//!
//! They are off by default, because the Kafka client copies each header of each record.

use std::ops::Range;
use std::str::FromStr;

use oplog_relay_core::command::scope;
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::id_in_key;
use oplog_relay_core::format::json::operation_type;
use oplog_relay_core::json::write_time;
use oplog_relay_core::position::EntryId;

use crate::encode::chunk::{Chunk, RecordHeader};

/// The headers for routers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouterHeaders {
    /// No headers.
    #[default]
    None,
    /// `op`, `ns`, `ts`, `ui`, `txn` and `content-type`.
    Full,
    /// The attributes of CloudEvents 1.0, in the binary mode of its Kafka binding.
    CloudEvents,
}

impl FromStr for RouterHeaders {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "none" => Ok(Self::None),
            "full" => Ok(Self::Full),
            "cloudevents" => Ok(Self::CloudEvents),
            _ => Err("must be none, full or cloudevents"),
        }
    }
}

/// The record that the headers describe.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) entry: &'a Entry<'a>,
    pub(crate) id: EntryId,
    /// The key of the record in the arena, if it has one.
    pub(crate) key: Option<Range<usize>>,
    pub(crate) format: Format,
    pub(crate) source: &'a str,
}

impl RouterHeaders {
    /// Appends the headers of a record to the chunk. Returns their range of [`Chunk::router_headers`].
    #[inline]
    pub(crate) fn write(
        self,
        about: &About<'_>,
        chunk: &mut Chunk,
    ) -> Result<Range<usize>, EntryError> {
        let start = chunk.router_headers.len();
        let mut writer = Writer { chunk };
        match self {
            Self::None => return Ok(0..0),
            Self::Full => writer.full(about)?,
            Self::CloudEvents => writer.cloud_events(about)?,
        }
        Ok(start..chunk.router_headers.len())
    }
}

struct Writer<'c> {
    chunk: &'c mut Chunk,
}

impl Writer<'_> {
    fn full(&mut self, about: &About<'_>) -> Result<(), EntryError> {
        let entry = about.entry;
        self.add("op", operation_type(entry)?);
        self.add("ns", namespace(entry)?.as_bytes());
        self.add("ts", entry.ts.to_string().as_bytes());
        if let Some(ui) = entry.ui {
            self.add("ui", ui.to_string().as_bytes());
        }
        if let Some(place) = entry.txn {
            let number = entry.txn_number.unwrap_or_default();
            let text = format!("{number}/{}/{}", place.index, place.count);
            self.add("txn", text.as_bytes());
        }
        self.add("content-type", content_type(about.format).as_bytes());
        Ok(())
    }

    fn cloud_events(&mut self, about: &About<'_>) -> Result<(), EntryError> {
        let entry = about.entry;
        self.add("ce_specversion", b"1.0");
        let mut id = Vec::new();
        about.id.write_header(about.source, &mut id);
        self.add("ce_id", &id);
        self.add(
            "ce_source",
            format!("/oplog-relay/{}", about.source).as_bytes(),
        );
        self.add("ce_type", &[b"mongodb.", operation_type(entry)?].concat());
        self.add("ce_subject", namespace(entry)?.as_bytes());
        let millis = i64::from(entry.ts.seconds) * 1000;
        let mut time = Vec::new();
        if write_time(entry.wall.unwrap_or(millis), &mut time) {
            self.add("ce_time", &time);
        }
        if let Some(key) = &about.key {
            // The Kafka binding makes the key of the record from this attribute.
            let name = "ce_partitionkey";
            if about.format.has_schemas() {
                let id = id_in_key(self.chunk.bytes(key)).unwrap_or_default();
                let value = format!("{{\"_id\":{id}}}");
                self.add(name, value.as_bytes());
            } else {
                let value = key.clone();
                self.chunk.router_headers.push(RecordHeader { name, value });
            }
        }
        self.add("content-type", content_type(about.format).as_bytes());
        Ok(())
    }

    fn add(&mut self, name: &'static str, value: &[u8]) {
        let start = self.chunk.arena.len();
        self.chunk.arena.extend_from_slice(value);
        let value = start..self.chunk.arena.len();
        self.chunk.router_headers.push(RecordHeader { name, value });
    }
}

/// Returns `db.collection` of an entry, also for a command on a collection.
fn namespace(entry: &Entry<'_>) -> Result<String, EntryError> {
    let scope = match entry.operation {
        Operation::Command => scope(entry)?,
        _ => None,
    };
    Ok(scope.map_or_else(|| entry.ns.to_owned(), |scope| scope.ns()))
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Raw | Format::Bson => "application/bson",
        Format::Avro(_) | Format::ReaderAvro(_) => "application/vnd.apache.avro+binary",
        Format::Json(_)
        | Format::ReaderJson(_)
        | Format::Oplog(_)
        | Format::Debezium(_)
        | Format::Snapshot(_) => "application/json",
    }
}
