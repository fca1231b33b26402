//! The place and the time at which a record is written.

use crate::format::avro::SchemaIds;

/// The place and the time at which a record is written.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'o> {
    /// The topic. The names of the schemas in Debezium's envelope are derived from it.
    pub topic: &'o str,
    /// The name of the source, which Debezium calls the logical name.
    pub source: &'o str,
    /// The time at which the entry is processed, in milliseconds since 1970.
    pub processed_at: i64,
    /// The ids of the topic's schemas in a registry; zeros if the format has none.
    pub schemas: SchemaIds,
}
