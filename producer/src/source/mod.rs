//! Where entries come from: the oplog of a live replica set, or a dump of one.
//!
//! A source runs as a task of its own and fills a short queue, so that the next batch is fetched
//! while this one is encoded.

pub mod collections;
pub mod dump;
pub mod full_sync;
pub mod oplog;
pub mod origin;

use mongodb::raw_batch_cursor::RawBatch;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::position::{Position, Timestamp};

use crate::error::ProducerError;

/// Batches that wait between a source and the encoder. A batch is at most one server reply (16 MB
/// and one document), so the queue is bounded in bytes too.
pub const QUEUE_BATCHES: usize = 1;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// After the saved position, whose entry must still be there with the same term; with that
    /// entry itself where the position has an ordinal, which counts operations of it.
    After(Position),
    /// With the oldest entry.
    Oldest,
    /// After the newest entry that a majority has.
    Now,
    /// With the first entry at or after that time.
    At(Timestamp),
}

/// What a source gives.
#[derive(Debug)]
pub enum SourceEvent {
    /// Entries in oplog order.
    Batch(Batch),
    /// Entries before the start, of which only open transactions count (dumps).
    Earlier(Batch),
    /// What a full sync read, or has to save.
    Copied(Box<Copied>),
    /// Nothing more at this moment: a good time to commit.
    Idle,
    /// The source says that there is nothing more.
    CaughtUp,
    /// Nothing more ever: the dump has ended.
    End,
}

/// A step of a full sync, to be sent after the entries that were given before it and ahead of those
/// that come after.
#[derive(Debug)]
pub struct Copied {
    /// The collection as it is called at the position of the tail.
    pub ns: String,
    /// Its UUID.
    pub ui: Option<[u8; 16]>,
    /// Wall clock of the reading, in milliseconds since 1970.
    pub captured_at: i64,
    /// What is to be sent.
    pub work: Work,
    /// What is saved with the last record of it.
    pub saves: Vec<Save>,
    /// From here on the collection's index builds are (or are no longer) left out of the tail:
    /// the full sync sends all indexes at its end.
    pub holds_indexes: Option<bool>,
}

/// What a step of a full sync sends.
#[derive(Debug)]
pub enum Work {
    /// Nothing: it only saves.
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
    /// Its key.
    pub key: String,
    /// Its value; none deletes.
    pub value: Option<Vec<u8>>,
}

/// A stretch of entries as bytes, not looked at.
#[derive(Debug)]
pub enum Batch {
    /// A server's reply as it came.
    Reply(RawBatch),
    /// Documents one after the other.
    Bytes(Vec<u8>),
}

impl Batch {
    /// Bytes of it, as it came.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.as_raw_document().as_bytes().len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether the server has more of what was asked for, for which this reply had no room.
    ///
    /// # Errors
    /// A reply without its cursor: the server broke the protocol.
    pub fn is_cut(&self) -> Result<bool, ProducerError> {
        let Self::Reply(reply) = self else {
            return Ok(false);
        };
        let id = || -> Result<i64, Malformed> {
            let reply = Document::new(reply.as_raw_document().as_bytes())?;
            let cursor = reply.get("cursor")?.ok_or(Malformed::Missing("cursor"))?;
            let id = cursor.document()?.get("id")?;
            id.ok_or(Malformed::Missing("id"))?.integer()
        };
        Ok(id().map_err(ProducerError::undecodable)? != 0)
    }

    /// The documents in order.
    ///
    /// # Errors
    /// A reply without its batch: the server broke the protocol.
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

/// The documents of a [`Batch`]. After an error it ends.
#[derive(Debug, Clone)]
pub enum Documents<'b> {
    /// Elements of a reply's array.
    Array(oplog_relay_core::document::Elements<'b>),
    /// What is left of the bytes.
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
