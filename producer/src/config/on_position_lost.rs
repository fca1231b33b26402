//! The argument `--on-position-lost`.

use std::str::FromStr;

/// The reaction to a position that the oplog no longer reaches back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPositionLost {
    /// The program stops.
    #[default]
    Stop,
    /// The stream continues after the oldest entry, and the gap is recorded.
    SkipWithMarker,
}

impl FromStr for OnPositionLost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stop" => Ok(Self::Stop),
            "skip-with-marker" => Ok(Self::SkipWithMarker),
            "full-sync" => Err(
                "full-sync is not supported: a copy does not delete the documents that were deleted in \
                 the gap, nor the collections that were dropped, from a target that has them. Give stop, \
                 and start again under another --topic-prefix",
            ),
            _ => Err("must be stop or skip-with-marker"),
        }
    }
}
