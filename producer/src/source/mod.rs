//! Sources of entries: the oplog of a live replica set, a dump of an oplog, or a change stream.
//!
//! A source runs as a separate task and fills a short queue, so that the next batch is fetched while
//! the current one is encoded.
//!
//! # Modules
//!
//! - `origin` is the source of a session: a live deployment or a dump
//! - `oplog` reads `local.oplog.rs`
//! - `change_stream` reads a change stream
//! - `next_reply` waits for the next reply of either
//! - `dump` reads the files of a dump
//! - `full_sync` copies the existing documents while the tail runs
//! - `live_documents` reads documents by `_id` for lookups
//! - `collections` asks whether the documents of a collection depend on each other
//! - `error` has the reasons why a source cannot be used

pub mod change_stream;
pub mod collections;
pub mod dump;
pub mod error;
pub mod full_sync;
pub mod live_documents;
mod next_reply;
pub mod oplog;
pub mod origin;

use mongodb::raw_batch_cursor::RawBatch;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::position::{Position, Timestamp};

use crate::error::ProducerError;
use crate::source::change_stream::EventBatch;

/// Maximum number of batches that wait between a source and the encoder. A batch is at most one
/// server reply (16 MB and one document), so the queue is bounded in bytes too.
pub const QUEUE_BATCHES: usize = 1;

/// The starting point of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// After a position, whose entry must still exist with the same term. If the position has an
    /// ordinal, at that entry itself, because some of its operations are still to be sent.
    After(Position),
    /// At the oldest entry.
    Oldest,
    /// After the newest entry that a majority has.
    Now,
    /// At the first entry at or after a time.
    At(Timestamp),
}

/// An event of a source.
#[derive(Debug)]
pub enum SourceEvent {
    /// Entries in oplog order.
    Batch(Batch),
    /// Entries made from the events of a change stream, in their order.
    Events(EventBatch),
    /// Entries before the start, of which only open transactions matter (dumps).
    Earlier(Batch),
    /// Documents that a full sync read, or state that it saves.
    Copied(Box<Copied>),
    /// The source has no further entries at the moment: a good time to commit.
    Idle,
    /// The source reports that no further entries exist.
    CaughtUp,
    /// The dump has ended, or a full sync that ends the stream is complete.
    End,
}

impl SourceEvent {
    /// Returns true if the event brings entries to be encoded.
    #[must_use]
    pub const fn has_entries(&self) -> bool {
        matches!(self, Self::Batch(_) | Self::Events(_))
    }
}

/// A step of a full sync, to be sent after the entries that were delivered before it and ahead of those
/// that follow.
#[derive(Debug)]
pub struct Copied {
    /// Name of the collection at the position of the tail.
    pub ns: String,
    /// UUID of the collection.
    pub ui: Option<CollectionUuid>,
    /// Wall clock of the read, in milliseconds since 1970.
    pub captured_at: i64,
    /// The records to send.
    pub work: Work,
    /// Records of the state topic that are saved with the last record.
    pub saves: Vec<Save>,
    /// True if index builds of the collection in the tail are skipped from here on, because the
    /// full sync sends all indexes at the end of the copy; false if they are no longer skipped;
    /// `None` for no change.
    pub holds_indexes: Option<bool>,
}

/// The records of a step of a full sync.
#[derive(Debug)]
pub enum Work {
    /// No records: the step only saves.
    Nothing,
    /// Documents of the collection.
    Documents(Batch),
    /// A command on the collection, as `o` of its entry.
    Command(Vec<u8>),
    /// A view's definition.
    View(Vec<u8>),
}

/// A record of the state topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// Key of the record.
    pub key: String,
    /// Value of the record; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// A batch of entries as bytes that are not parsed yet.
#[derive(Debug)]
pub enum Batch {
    /// An unchanged reply of a server.
    Reply(RawBatch),
    /// Concatenated documents.
    Bytes(Vec<u8>),
}

impl Batch {
    /// Returns the number of bytes of the batch as received.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.as_raw_document().as_bytes().len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Returns true if the server has more results, for which this reply had no room.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if a reply has no cursor.
    pub fn is_cut(&self) -> Result<bool, ProducerError> {
        if let Self::Bytes(_) = self {
            return Ok(false);
        }
        let id = || -> Result<i64, Malformed> {
            let id = self.cursor_field("id")?;
            id.ok_or(Malformed::Missing("id"))?.integer()
        };
        Ok(id().map_err(ProducerError::undecodable)? != 0)
    }

    /// Returns the logical time of the server at its reply, if it reports that.
    ///
    /// # Errors
    /// [`Malformed`] if the reply is damaged.
    pub fn operation_time(&self) -> Result<Option<Timestamp>, Malformed> {
        let Some(reply) = self.reply()? else {
            return Ok(None);
        };
        let at = reply.get("operationTime")?;
        at.map(Element::timestamp).transpose()
    }

    /// Returns the token after which a change stream continues (`postBatchResumeToken`), if the reply
    /// has one.
    ///
    /// # Errors
    /// [`Malformed`] if the reply is damaged.
    pub fn resume_token(&self) -> Result<Option<Document<'_>>, Malformed> {
        let token = self.cursor_field("postBatchResumeToken")?;
        token.map(Element::document).transpose()
    }

    fn reply(&self) -> Result<Option<Document<'_>>, Malformed> {
        match self {
            Self::Reply(reply) => Document::new(reply.as_raw_document().as_bytes()).map(Some),
            Self::Bytes(_) => Ok(None),
        }
    }

    /// Returns a field of the cursor of a reply.
    fn cursor_field(&self, name: &str) -> Result<Option<Element<'_>>, Malformed> {
        let Some(reply) = self.reply()? else {
            return Ok(None);
        };
        let cursor = reply.get("cursor")?.ok_or(Malformed::Missing("cursor"))?;
        cursor.document()?.get(name)
    }

    /// Returns the documents in order.
    ///
    /// # Errors
    /// [`ProducerError::Source`] or [`ProducerError::Undecodable`] if a reply has no valid batch.
    pub fn documents(&self) -> Result<Documents<'_>, ProducerError> {
        match self {
            Self::Reply(reply) => {
                let array = reply.doc_slices().map_err(ProducerError::Source)?;
                let array = Document::new(array.as_bytes()).map_err(ProducerError::undecodable)?;
                Ok(Documents::Array(array.elements()))
            }
            Self::Bytes(bytes) => Ok(Documents::Bytes(bytes)),
        }
    }
}

/// The documents of a [`Batch`]. The iterator ends after an error.
#[derive(Debug, Clone)]
pub enum Documents<'b> {
    /// Elements of a reply's array.
    Array(oplog_relay_core::document::Elements<'b>),
    /// The rest of the bytes.
    Bytes(&'b [u8]),
}

impl<'b> Iterator for Documents<'b> {
    type Item = Result<Document<'b>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Array(elements) => Some(elements.next()?.and_then(Element::document)),
            Self::Bytes([]) => None,
            Self::Bytes(bytes) => match Document::split(bytes) {
                Ok((document, rest)) => {
                    *bytes = rest;
                    Some(Ok(document))
                }
                Err(error) => {
                    *bytes = &[];
                    Some(Err(error))
                }
            },
        }
    }
}
