//! The shapes of JSON values.

use std::str::FromStr;

/// The shape of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// MongoDB's change event ([`super::json`]).
    ChangeEvent,
    /// The fields of the entry ([`super::oplog`]).
    Oplog,
    /// Debezium's envelope ([`super::debezium`]).
    Debezium,
}

impl FromStr for Envelope {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "change-event" => Ok(Self::ChangeEvent),
            "oplog" => Ok(Self::Oplog),
            "debezium" => Ok(Self::Debezium),
            _ => Err("must be change-event, oplog or debezium"),
        }
    }
}
