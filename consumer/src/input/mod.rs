//! The topics that a group reads, and the program that writes them.

mod patterns;

use oplog_relay_core::foreign::{Rules, Updates, Writer};
use oplog_relay_core::topic::is_data_topic;

pub(crate) use patterns::INTERNAL_TOPICS;
pub use patterns::TopicPatterns;

/// The input of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The topics of oplog-producer with this prefix.
    Relay {
        /// The topic prefix.
        prefix: String,
    },
    /// The topics of another program.
    Foreign(ForeignInput),
}

/// The topics of another program, and the way in which they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignInput {
    /// The program and the format of its records.
    pub writer: Writer,
    /// The topics.
    pub topics: TopicPatterns,
    /// The part of an update event that is used.
    pub updates: Updates,
    /// True if records that have lost types are accepted.
    pub accepts_lossy: bool,
    /// True if the order of records in different partitions does not matter, or if the operator has
    /// accepted that it is unknown.
    pub accepts_any_order: bool,
}

impl ForeignInput {
    /// Returns the rules for the records of a topic with this number of partitions.
    #[must_use]
    pub const fn rules(&self, partitions: i32) -> Rules {
        Rules {
            writer: self.writer,
            updates: self.updates,
            accepts_lossy: self.accepts_lossy,
            checks_keys: partitions > 1 && !self.accepts_any_order,
        }
    }
}

impl Input {
    /// Returns true if a topic belongs to the input.
    #[must_use]
    pub fn includes(&self, topic: &str) -> bool {
        match self {
            Self::Relay { prefix } => is_data_topic(prefix, topic),
            Self::Foreign(foreign) => foreign.topics.include(topic),
        }
    }

    /// Returns the regular expressions of the topics, as librdkafka's subscription takes them.
    #[must_use]
    pub fn subscription(&self) -> Vec<String> {
        match self {
            // The prefix needs no escaping, and neither do dots in brackets.
            Self::Relay { prefix } => vec![format!("^{prefix}\\.[^.]+\\.[^.]+$")],
            Self::Foreign(foreign) => foreign.topics.expressions(),
        }
    }

    /// Returns the name under which the target's catalog records that the group has committed
    /// offsets of this input.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Relay { prefix } => prefix,
            Self::Foreign(foreign) => foreign.topics.text(),
        }
    }

    /// Returns a description of the topics for messages, to follow the word "topics".
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Relay { prefix } => format!("of prefix {prefix}"),
            Self::Foreign(foreign) => foreign.topics.text().to_owned(),
        }
    }

    /// Returns the prefix of oplog-producer's topics; `None` for topics of another program.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Relay { prefix } => Some(prefix),
            Self::Foreign(_) => None,
        }
    }

    /// Returns the input if another program writes it; `None` for oplog-producer.
    #[must_use]
    pub const fn foreign(&self) -> Option<&ForeignInput> {
        match self {
            Self::Relay { .. } => None,
            Self::Foreign(foreign) => Some(foreign),
        }
    }
}
