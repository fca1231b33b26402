//! The place and the time at which a record is written.

use crate::format::avro::SchemaIds;

/// The place and the time at which a record is written.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'o> {
    /// The topic, from which the names of the schemas of Debezium's envelope are made.
    pub topic: &'o str,
    /// The name of the source, which Debezium calls the logical name.
    pub source: &'o str,
    /// Time at which the entry is processed, in milliseconds since 1970.
    pub processed_at: i64,
    /// The ids of the topic's schemas in a registry; zeros if the format has none.
    pub schemas: SchemaIds,
}
