//! The change event as an Avro record in Confluent's wire format: a zero byte, the id of the schema
//! in the registry as four bytes (big-endian), and the record in Avro's binary encoding (Avro
//! specification 1.11, "Binary encoding").
//!
//! The fields are those of the JSON change event ([`super::json`]), except for those of a lookup.
//! Documents are strings of Extended JSON. The schemas are in `schemas/`. The id of a schema may
//! differ between registries, so the partition of a record does not depend on it.
//!
//! # Modules
//!
//! - `write` encodes change events and keys
//! - `read` decodes change events

mod read;
mod write;

pub(super) use read::decode;
pub use read::{id_in_key, schema_id};
pub use write::{write_avro_event, write_avro_key, write_avro_reader_event};

/// The schema of the values.
pub const VALUE_SCHEMA: &str = include_str!("../../../../schemas/change-event.avsc");
/// The schema of the keys.
pub const KEY_SCHEMA: &str = include_str!("../../../../schemas/document-key.avsc");

/// The full name of the values' schema.
pub const VALUE_RECORD: &str = "io.oplogrelay.ChangeEvent";
/// The full name of the keys' schema.
pub const KEY_RECORD: &str = "io.oplogrelay.DocumentKey";

/// The first byte of a record in the wire format.
const WIRE_MAGIC: u8 = 0;
/// The number of bytes before the Avro record.
const WIRE_HEADER: usize = 5;

/// The ids of a topic's schemas in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchemaIds {
    /// The id of [`KEY_SCHEMA`].
    pub key: u32,
    /// The id of [`VALUE_SCHEMA`].
    pub value: u32,
}
