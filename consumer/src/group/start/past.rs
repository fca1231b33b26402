//! Checks that a group without committed offsets is new. Kafka removes the offsets of a group some time
//! after its last member left, so missing offsets do not prove that the group is new. If a group that
//! has run before starts as a new one, it skips entries or applies entries again.

use crate::config::GroupConfig;
use crate::error::ConsumerError;

/// What the destination shows about earlier runs of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// The destination cannot show earlier runs, for example standard output.
    Unknown,
    /// The group has not written to the destination.
    Nothing,
    /// The group has written to the destination. The text describes the evidence, as the subject of a
    /// sentence.
    Traces(String),
}

impl Past {
    /// Checks that a group without committed offsets may begin as a new one.
    ///
    /// # Errors
    /// Returns [`ConsumerError::OffsetsLost`] if the group has run before.
    pub(crate) fn check(&self, config: &GroupConfig) -> Result<(), ConsumerError> {
        let GroupConfig {
            group,
            input,
            start,
            ..
        } = config;
        match self {
            Self::Nothing => Ok(()),
            Self::Unknown => {
                tracing::warn!(
                    group,
                    %start,
                    "this group has no committed offsets and begins at --start. If it has emitted \
                     before, its offsets expired or were deleted, and entries may be missing or \
                     repeated"
                );
                Ok(())
            }
            Self::Traces(_) if config.start_again => {
                tracing::warn!(
                    group,
                    %start,
                    "the committed offsets of this group are missing; it starts again at --start, \
                     because of --start-again"
                );
                Ok(())
            }
            Self::Traces(traces) => Err(ConsumerError::OffsetsLost(format!(
                "group {group} has no committed offsets for the topics {topics}, but it is \
                 not new: {traces}. Kafka removes the offsets of a group some time after its last \
                 member left (offsets.retention.minutes, 7 days by default), or they were deleted \
                 by a user. Starting at --start {start} could skip entries. To continue where the group \
                 stopped, set its offsets to a time shortly before that (`kafka-consumer-groups \
                 --reset-offsets --to-datetime` for all of these topics; applying entries again \
                 is harmless). To start at --start anyway, use --start-again once",
                topics = input.shown()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReplayConfig;
    use crate::config::arguments::{Arguments, Command};
    use clap::Parser;

    fn config(more: &[&str]) -> GroupConfig {
        let flags = [
            "oplog-consumer",
            "replay",
            "--brokers=k:9092",
            "--topic-prefix=cdc",
            "--group=g",
            "--target=mongodb://t/",
            "--start=now",
        ];
        let arguments = Arguments::try_parse_from(flags.iter().chain(more)).unwrap();
        let Command::Replay(arguments) = arguments.command else {
            panic!()
        };
        ReplayConfig::check(&arguments).unwrap().group
    }

    #[test]
    fn a_group_that_ran_before_starts_again_only_with_start_again() {
        let ran = Past::Traces("the catalog has it".to_owned());
        for past in [Past::Nothing, Past::Unknown] {
            assert!(past.check(&config(&[])).is_ok(), "{past:?}");
        }
        assert!(ran.check(&config(&["--start-again"])).is_ok());
        let text = ran.check(&config(&[])).unwrap_err().text();
        for part in [
            "group g",
            "prefix cdc",
            "the catalog has it",
            "--start now",
            "--reset-offsets",
            "--start-again",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
