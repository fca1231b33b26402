//! The names of subjects.

use std::str::FromStr;

use oplog_relay_core::format::avro::{KEY_RECORD, KEY_SCHEMA, VALUE_RECORD, VALUE_SCHEMA};

/// The part of a record that a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl Part {
    pub(super) const fn schema(self) -> &'static str {
        match self {
            Self::Key => KEY_SCHEMA,
            Self::Value => VALUE_SCHEMA,
        }
    }

    /// Returns the file of the schema in `schemas/`.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Key => "document-key.avsc",
            Self::Value => "change-event.avsc",
        }
    }
}

/// The naming of subjects, by the strategies of Confluent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subjects {
    /// `<topic>-key` and `<topic>-value` (`TopicNameStrategy`).
    #[default]
    Topic,
    /// The full name of the record's schema, the same for all topics (`RecordNameStrategy`).
    Record,
    /// `<topic>-<full name of the schema>` (`TopicRecordNameStrategy`).
    TopicRecord,
}

impl Subjects {
    pub(super) fn name(self, topic: &str, part: Part) -> String {
        let (suffix, record) = match part {
            Part::Key => ("key", KEY_RECORD),
            Part::Value => ("value", VALUE_RECORD),
        };
        match self {
            Self::Topic => format!("{topic}-{suffix}"),
            Self::Record => record.to_owned(),
            Self::TopicRecord => format!("{topic}-{record}"),
        }
    }
}

impl FromStr for Subjects {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "topic" => Ok(Self::Topic),
            "record" => Ok(Self::Record),
            "topic-record" => Ok(Self::TopicRecord),
            _ => Err("must be topic, record or topic-record"),
        }
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;

    use super::*;

    #[test]
    fn subjects_are_named_as_the_strategies_of_confluent_name_them() {
        let names = |subjects: &str| {
            let subjects: Subjects = subjects.parse().unwrap();
            [Part::Key, Part::Value].map(|part| subjects.name("cdc.shop.items", part))
        };
        assert_eq!(
            names("topic"),
            ["cdc.shop.items-key", "cdc.shop.items-value"]
        );
        assert_eq!(
            names("record"),
            ["io.oplogrelay.DocumentKey", "io.oplogrelay.ChangeEvent"]
        );
        assert_eq!(
            names("topic-record"),
            [
                "cdc.shop.items-io.oplogrelay.DocumentKey",
                "cdc.shop.items-io.oplogrelay.ChangeEvent"
            ]
        );
        assert!("topics".parse::<Subjects>().is_err());
        for (schema, name) in [(KEY_SCHEMA, KEY_RECORD), (VALUE_SCHEMA, VALUE_RECORD)] {
            let schema = Schema::parse_str(schema).unwrap();
            assert_eq!(schema.name().unwrap().to_string(), name);
        }
    }
}
