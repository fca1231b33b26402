//! The values of the flags of `oplog-producer position`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::config::{Secret, Start, parse_start};

/// The form in which positions are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Lines for people.
    Text,
    /// JSON objects.
    Json,
}

impl FromStr for Output {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json"),
        }
    }
}

/// A new position, as the operator gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewPosition {
    /// After the newest entry.
    Now,
    /// Before the first entry at or after this second.
    Second(u32),
    /// After the entry with this timestamp.
    Entry(Timestamp),
    /// A resume token: the JSON of the token, or the hexadecimal digits of its `_data`.
    Token(String),
}

impl FromStr for NewPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let is_hex = text.len() >= 18 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.starts_with('{') || is_hex {
            return Ok(Self::Token(text.to_owned()));
        }
        match parse_start(text)? {
            Start::Now => Ok(Self::Now),
            Start::Oldest => Err(
                "must be now, a time, <seconds>:<increment> or a resume token; \
                 oldest is not a position, because a position names an entry that was sent"
                    .to_owned(),
            ),
            Start::At(millis) => u32::try_from(millis.div_euclid(1000))
                .map(Self::Second)
                .map_err(|_| "must be a time from 1970 to 2106".to_owned()),
            Start::Position { seconds, increment } => {
                Ok(Self::Entry(Timestamp::new(seconds, increment)))
            }
        }
    }
}

/// A program whose checkpoint can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherProgram {
    /// MongoShake.
    MongoShake,
    /// mongo-connector.
    MongoConnector,
    /// Debezium's MongoDB connector.
    Debezium,
    /// MongoDB's Kafka source connector.
    MongoKafka,
    /// mongodump, with `--oplog`.
    Mongodump,
}

impl OtherProgram {
    /// Returns true if the program reads change streams, so that its checkpoint is a resume token.
    #[must_use]
    pub const fn reads_change_streams(self) -> bool {
        matches!(self, Self::Debezium | Self::MongoKafka)
    }
}

impl FromStr for OtherProgram {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mongoshake" => Ok(Self::MongoShake),
            "mongo-connector" => Ok(Self::MongoConnector),
            "debezium" => Ok(Self::Debezium),
            "mongo-kafka" => Ok(Self::MongoKafka),
            "mongodump" => Ok(Self::Mongodump),
            _ => Err("must be mongoshake, mongo-connector, debezium, mongo-kafka or mongodump"),
        }
    }
}

/// The place of another program's checkpoint.
#[derive(Debug, Clone)]
pub enum CheckpointPlace {
    /// A file.
    File(PathBuf),
    /// A collection on a MongoDB server.
    Collection {
        /// The connection string.
        uri: Secret,
        /// The database.
        db: String,
        /// The collection.
        collection: String,
    },
}

impl fmt::Display for CheckpointPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Collection { db, collection, .. } => write!(f, "{db}.{collection}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_position_is_an_entry_a_time_now_or_a_token() {
        let parse = |text: &str| text.parse::<NewPosition>();
        assert_eq!(parse("now"), Ok(NewPosition::Now));
        let entry = NewPosition::Entry(Timestamp::new(1_700_000_000, 3));
        assert_eq!(parse("1700000000:3"), Ok(entry));
        let time = NewPosition::Second(1_700_000_000);
        assert_eq!(parse("2023-11-14T22:13:20.9Z"), Ok(time));
        for token in ["8263AB0411000000012B0229296E04", r#"{"_data": "82"}"#] {
            assert_eq!(parse(token), Ok(NewPosition::Token(token.to_owned())));
        }
        for bad in ["oldest", "yesterday", "1969-12-31T23:59:59Z", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
