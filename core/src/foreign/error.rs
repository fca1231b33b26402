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
    /// The value is not BSON, or a field does not have the type that the writer gives it.
    #[error("the value does not have the expected form")]
    Malformed(#[from] Malformed),
    /// The value was written by another program, or in another format.
    #[error("the value does not match --input {expected}; it looks like a record of {found}")]
    Other {
        /// The `--input` of the run.
        expected: Writer,
        /// The program that probably wrote the value.
        found: Program,
    },
    /// The value is not an event or entry of the writer.
    #[error("the value does not match --input {expected}: {reason}")]
    NotOf {
        /// The `--input` of the run.
        expected: Writer,
        /// What is missing or unexpected.
        reason: &'static str,
    },
    /// Something in the value is missing or cannot be applied.
    #[error("{0}")]
    Event(&'static str),
    /// The frame is damaged.
    #[error("the frame of MongoShake is damaged: {0}")]
    Frame(&'static str),
    /// An update with an ambiguous path, which cannot be left to the target's own update operators.
    #[error(
        "the update of {0:?} is ambiguous: a part of the path may be the index of an array or the name \
         of a field, and the target cannot resolve it, because the event truncates an array or has a field \
         name that is empty or begins with $. Let the connector write whole documents (change.stream.full.document=\
         updateLookup, or capture.mode=change_streams_update_full) or disambiguatedPaths \
         (change.stream.show.expanded.events=true), and copy this document again"
    )]
    Ambiguous(String),
    /// A record that has lost types, which the operator has not permitted.
    #[error("{0}; --allow-lossy replays the record nevertheless")]
    Lossy(&'static str),
    /// A record that may be out of order, which the operator has not permitted.
    #[error(
        "the topic has several partitions, and {0}: the changes of one document may be in several \
         partitions, in an unknown order, so an older change could overwrite a newer one. Let the other \
         program write to a topic with one partition, or use the _id as the key, and replay that topic; or \
         use --allow-unordered, which may leave wrong documents, and compare source and target \
         afterwards (oplog-consumer verify)"
    )]
    Unordered(&'static str),
}

impl ForeignError {
    /// Returns true if the record could be applied, but the operator has not permitted it. Such a
    /// record does not become a dead letter, because all records of the topic would.
    #[must_use]
    pub const fn needs_consent(&self) -> bool {
        matches!(self, Self::Lossy(_) | Self::Unordered(_))
    }

    /// Returns [`Self::Other`] if another program probably wrote the value, otherwise the error
    /// itself.
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
