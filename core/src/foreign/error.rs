//! The reasons why a record of another program cannot be decoded.

use crate::document::Malformed;
use crate::foreign::{Program, Writer, recognize};
use crate::json::JsonError;

/// The reason why a record of another program cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// The value is not JSON.
    #[error("the value is not JSON")]
    Json(#[from] JsonError),
    /// The value is not BSON, or a field of it has another type than the writer's.
    #[error("the value is not of the expected form")]
    Malformed(#[from] Malformed),
    /// The value is of another program, or in another of its formats.
    #[error("the value is not {expected}; it looks like a record of {found}")]
    Other {
        /// The `--input` of the run.
        expected: Writer,
        /// The writer that the value looks like.
        found: Program,
    },
    /// The value is not an event or entry of the writer.
    #[error("the value is not {expected}: {reason}")]
    NotOf {
        /// The `--input` of the run.
        expected: Writer,
        /// What is missing or unexpected.
        reason: &'static str,
    },
    /// The value lacks something, or has something that cannot be applied.
    #[error("{0}")]
    Event(&'static str),
    /// The frame is damaged.
    #[error("the frame of MongoShake is damaged: {0}")]
    Frame(&'static str),
    /// An update whose path has two meanings, of which the target cannot find the right one.
    #[error(
        "the update of {0:?} is ambiguous: a part of the path may be the index of an array or the name \
         of a field, and the event truncates an array or has an unusual name, so that the paths cannot \
         be left to the target. Let the connector write whole documents (change.stream.full.document=\
         updateLookup, or capture.mode=change_streams_update_full) or disambiguatedPaths \
         (change.stream.show.expanded.events=true), and copy this document again"
    )]
    Ambiguous(String),
    /// A record that lost types, without the operator's consent.
    #[error("{0}; --allow-lossy replays it nevertheless")]
    Lossy(&'static str),
    /// A record that may be out of order, without the operator's consent.
    #[error(
        "the topic has several partitions, and {0}: the changes of one document may be in several \
         partitions, in an unknown order, so that an older change could overwrite a newer one. Produce \
         the topic with one partition or with the _id as the key and replay that, or accept wrong \
         documents with --allow-unordered and compare both ends afterwards (oplog-consumer verify)"
    )]
    Unordered(&'static str),
}

impl ForeignError {
    /// Returns true if the record could be applied, but the operator has not accepted the consequences.
    /// It is no dead letter then: all records of the topic would be.
    #[must_use]
    pub const fn needs_consent(&self) -> bool {
        matches!(self, Self::Lossy(_) | Self::Unordered(_))
    }

    /// Returns the error that names the writer that the value is probably of.
    pub(super) fn naming_the_writer(self, expected: Writer, value: &[u8]) -> Self {
        let unexpected = match &self {
            Self::Json(_) | Self::Malformed(_) | Self::NotOf { .. } | Self::Frame(_) => true,
            Self::Other { .. }
            | Self::Event(_)
            | Self::Ambiguous(_)
            | Self::Lossy(_)
            | Self::Unordered(_) => false,
        };
        match recognize(value).filter(|_| unexpected) {
            Some(found) if found != Program::Other(expected) => Self::Other { expected, found },
            _ => self,
        }
    }
}
