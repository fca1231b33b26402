//! Kafka: client configuration, administration, and reading of internal topics.
//!
//! Producing records and reading as a group belong to the programs. They start from
//! [`client_config`] and log through [`Context`].
//!
//! # Modules
//!
//! - `options` has the options of clients; `context` receives their log lines and errors
//! - `admin` creates and describes topics; `topic` is the description of a topic, and `new_topic`
//!   has the settings of new topics
//! - `reader` reads internal topics; `follower` reads only what is new in them
//! - `heartbeat` keeps the heartbeats of a member of a group at a short interval
//! - `error` classifies the errors

mod admin;
mod context;
mod error;
mod follower;
mod heartbeat;
mod new_topic;
mod options;
mod reader;
mod topic;

pub use admin::{Admin, Creation};
pub use context::Context;
pub use error::{
    KafkaFailure, error_code, is_fatal, is_fenced, is_group_refused, is_transient, is_unauthorized,
    with_right,
};
pub use follower::Follower;
pub use heartbeat::{HEARTBEAT_MS, Heartbeat};
pub use new_topic::{MAX_MESSAGE_BYTES, NewTopicShape, TopicSetting, WantedSetting};
pub use options::{
    CONSUMER_OWNED, KafkaOption, KafkaOptions, OwnedOption, PRODUCER_OWNED, SMALL_FETCH,
    client_config, limit_fetch, parse_options,
};
pub use reader::{Newer, Reader, Stored};
pub use topic::TopicSettings;

#[cfg(test)]
mod tests;
