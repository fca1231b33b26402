//! Checks that a group without committed offsets is new. Kafka removes the offsets of a group some time
//! after its last member left, so missing offsets do not prove that the group is new. If a group that
//! has run before starts as a new one, it skips entries or applies entries again.

use crate::config::GroupConfig;
use crate::group::start::error::{StartError, Traces};

/// What the destination shows about earlier runs of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// The destination cannot show earlier runs, for example standard output.
    Unknown,
    /// The group has not written to the destination.
    Nothing,
    /// The group has written to the destination.
    Traces(Traces),
}

impl Past {
    /// Checks that a group without committed offsets may begin as a new one.
    ///
    /// # Errors
    /// Returns [`StartError::NotNew`] if the group has run before.
    pub(crate) fn check(&self, config: &GroupConfig) -> Result<(), StartError> {
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
            Self::Traces(traces) => Err(StartError::NotNew {
                group: group.clone(),
                topics: input.shown(),
                traces: traces.clone(),
                start: *start,
            }),
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
        let ran = Past::Traces(Traces::Catalog);
        for past in [Past::Nothing, Past::Unknown] {
            assert!(past.check(&config(&[])).is_ok(), "{past:?}");
        }
        assert!(ran.check(&config(&["--start-again"])).is_ok());
        let text = ran.check(&config(&[])).unwrap_err().to_string();
        for part in [
            "group g",
            "prefix cdc",
            "the catalog of the target",
            "--start now",
            "--reset-offsets",
            "--start-again",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
