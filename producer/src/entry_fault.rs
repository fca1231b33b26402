//! The reasons why an entry, or a reply of the source, cannot be read or sent.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::position::{EntryId, Position, Timestamp};

/// The reason why an entry, or a reply of the source, cannot be read or sent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EntryFault {
    /// The BSON of a reply or of an entry is damaged.
    #[error("the source returned data that cannot be decoded: {source}")]
    Malformed {
        /// The damage.
        source: Malformed,
    },
    /// The contents of an entry are damaged.
    #[error("entry {entry} of {ns:?} is damaged: {source}")]
    Damaged {
        /// Time of the entry.
        entry: Timestamp,
        /// Namespace of the entry.
        ns: String,
        /// The damage.
        source: Malformed,
    },
    /// A document is not an entry.
    #[error("entry {} of {} cannot be read: {source}", time(*entry), namespace(ns.as_deref()))]
    Unreadable {
        /// Its time, if it has one.
        entry: Option<Timestamp>,
        /// Its namespace, if it has one.
        ns: Option<String>,
        /// The damage.
        source: Malformed,
    },
    /// An entry has an unexpected form. The reason names the entry.
    #[error("an entry cannot be read: {source}")]
    Entry {
        /// The reason.
        source: EntryError,
    },
    /// A transaction has a damaged or an inconsistent entry.
    #[error("the transaction committed at {commit} is damaged: {reason}")]
    Transaction {
        /// Time of the commit.
        commit: Timestamp,
        /// The reason.
        reason: String,
    },
    /// A collection is renamed from a namespace that is not streamed to one that is.
    #[error(
        "entry {entry}: collection {from}, which is not streamed, was renamed to {to}, which is \
         streamed: its documents were never sent. Include {from} and start under another \
         --topic-prefix, or exclude {to}"
    )]
    RenamedIntoStream {
        /// Time of the entry.
        entry: Timestamp,
        /// Namespace before the rename.
        from: String,
        /// Namespace after the rename.
        to: String,
    },
    /// The saved position is inside a transaction, but its entry does not commit one.
    #[error(
        "the saved position is inside a transaction at {entry}, but that entry does not commit a \
         transaction (its operation is {operation:?})"
    )]
    NotATransaction {
        /// Time of the entry.
        entry: Timestamp,
        /// Its operation.
        operation: Operation,
    },
    /// An entry is not later than the one before it.
    #[error(
        "ts goes backwards in the source: entry {entry} of {ns:?} after {after}. The oplog of MongoDB \
         never does this; concurrent writers of FerretDB can cause it"
    )]
    GoesBackwards {
        /// Time of the entry.
        entry: Timestamp,
        /// Namespace of the entry.
        ns: String,
        /// Position of the entry before it.
        after: Position,
    },
    /// A full sync has more entries to send at one position than it can number.
    #[error(
        "a full sync has sent {most} entries at {at} and the source has no later entry to continue \
         from: write any document to the source and start again"
    )]
    TooManyReads {
        /// Maximum number of entries.
        most: u32,
        /// The position.
        at: Position,
    },
    /// The definition of a collection is invalid.
    #[error("the {part} of {ns} is invalid: {reason}")]
    Definition {
        /// The part of the definition.
        part: &'static str,
        /// Namespace of the collection.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// A query to the source cannot be encoded.
    #[error("a query to the source cannot be encoded: {reason}")]
    Query {
        /// The reason.
        reason: String,
    },
    /// A record is larger than its topic accepts.
    #[error(
        "a record of {bytes} bytes for {place} is larger than its topic accepts ({limit} bytes): raise \
         max.message.bytes of the topic, or give --oversize split with --format bson or raw (only \
         oplog-consumer can reassemble the fragments)"
    )]
    TooLarge {
        /// Topic and partition of the record.
        place: String,
        /// Size of the record in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A record is larger than its topic accepts, and must stay whole.
    #[error(
        "a record of {bytes} bytes for {place} is larger than its topic accepts ({limit} bytes), and it cannot \
         be split, because it is a record of the saved state: raise max.message.bytes of the topic"
    )]
    CannotBeSplit {
        /// Topic and partition of the record.
        place: String,
        /// Size of the record in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A topic does not even accept fragments of a record.
    #[error(
        "topic {topic} accepts batches of {limit} bytes, which is too small for a record with the key \
         {key} even in fragments; raise its max.message.bytes"
    )]
    NoRoom {
        /// The topic.
        topic: String,
        /// The limit in bytes.
        limit: usize,
        /// The key of the record, possibly truncated.
        key: String,
    },
    /// An event of a change stream is damaged.
    #[error("an event of the change stream{} cannot be read: {source}", at(*time))]
    Event {
        /// Its cluster time, if it has one.
        time: Option<Timestamp>,
        /// The damage.
        source: Malformed,
    },
    /// An event of a change stream has no exact meaning as an entry.
    #[error(
        "the {operation:?} event of {ns:?} at {time} cannot be converted to an oplog entry: \
         {reason}"
    )]
    EventRefused {
        /// Its `operationType`.
        operation: String,
        /// Its namespace.
        ns: String,
        /// Its cluster time.
        time: Timestamp,
        /// The reason.
        reason: String,
    },
    /// An event of a change stream is not later than the one before it.
    #[error(
        "the cluster time goes backwards in the change stream: event {event} of {ns:?} after {after}"
    )]
    EventGoesBackwards {
        /// Cluster time and ordinal of the event.
        event: EntryId,
        /// Namespace of the event.
        ns: String,
        /// Position of the event before it.
        after: Position,
    },
    /// A fragment of a large event is missing.
    #[error(
        "fragment {number} of {of} of a change event follows fragment {last}: the source has left out a \
         part of a large event"
    )]
    FragmentMissing {
        /// The number of the fragment, from 1 on.
        number: i64,
        /// The number of fragments of the event.
        of: i64,
        /// The number of the fragment before it; 0 if there is none.
        last: i64,
    },
    /// The server cannot send an event.
    #[error(
        "the change stream cannot continue after {position}: {meaning} (error {code}: {reason})"
    )]
    EventUnsent {
        /// The position that was reached.
        position: Position,
        /// The meaning of the server's code.
        meaning: &'static str,
        /// The server's code.
        code: i32,
        /// The server's error.
        reason: String,
    },
    /// A document of a dump is damaged.
    #[error("document {document} of {file}: {fault}")]
    InDump {
        /// The segment.
        file: String,
        /// The number of the document, starting at 1.
        document: u64,
        /// The damage.
        fault: Box<EntryFault>,
    },
    /// A dump ends inside a document.
    #[error("{file} ends inside a document")]
    DumpTruncated {
        /// The segment.
        file: String,
    },
    /// A dump has a document with an impossible length.
    #[error("{file} has a document of {bytes} bytes; the valid range is 5 to {most}")]
    DumpLength {
        /// The segment.
        file: String,
        /// The length in bytes.
        bytes: i32,
        /// Maximum length in bytes.
        most: usize,
    },
}

impl EntryFault {
    /// Returns the fault of an entry whose contents are damaged.
    #[must_use]
    pub fn damaged(entry: &Entry<'_>, error: &EntryError) -> Self {
        match error {
            EntryError::Malformed(source) => Self::Damaged {
                entry: entry.ts,
                ns: entry.ns.to_owned(),
                source: source.clone(),
            },
            // The other errors name the entry themselves.
            error => Self::from(error.clone()),
        }
    }

    /// Returns the fault of a document that is not an entry, with its time and namespace if it has
    /// them.
    #[must_use]
    pub fn unreadable(document: Document<'_>, error: &EntryError) -> Self {
        let EntryError::Malformed(source) = error else {
            return Self::from(error.clone());
        };
        let field = |name| document.get(name).ok().flatten();
        let ns = field("ns").and_then(|ns| ns.str().ok());
        Self::Unreadable {
            entry: field("ts").and_then(|ts| ts.timestamp().ok()),
            ns: ns.map(str::to_owned),
            source: source.clone(),
        }
    }
}

impl From<EntryError> for EntryFault {
    fn from(source: EntryError) -> Self {
        Self::Entry { source }
    }
}

fn time(entry: Option<Timestamp>) -> String {
    entry.map_or_else(|| "without a ts".to_owned(), |entry| entry.to_string())
}

fn at(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| format!(" at {time}"))
}

fn namespace(ns: Option<&str>) -> String {
    ns.map_or_else(|| "an unknown namespace".to_owned(), |ns| format!("{ns:?}"))
}
