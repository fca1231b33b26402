//! Turns batches of entries into chunks of encoded records. Its only I/O is the creation of topics,
//! requests to the schema registry, the reading of earlier entries of transactions, queries about
//! collections, and lookups of documents.
//!
//! # Modules
//!
//! - [`chunk`]: records on their way to the publisher; [`record`]: one entry as header and value;
//!   `frames`: the raw frames that are being filled
//! - `ahead`: lookups and the creation of topics for several entries of a batch together
//! - [`barrier`]: a command with its barriers; `database`: the drop of a database
//! - `events`: the entries of a change stream
//! - `state_records`: the saved records of routes, topics and the source, ahead of the records that
//!   depend on them
//! - `for_readers`: topics that are for readers only; `keys`: the keys of records; `lookup`: the
//!   current documents of updates, and the documents before changes; [`router_headers`]: headers
//!   for programs that route records
//! - `transaction`: the operations of a commit; `copy`: the documents of a full sync; `routing`: a
//!   change of the routing rules

mod ahead;
pub mod barrier;
pub mod chunk;
mod copy;
mod database;
mod events;
mod for_readers;
mod frames;
mod keys;
mod lookup;
pub mod record;
pub mod router_headers;
mod routing;
mod state_records;
mod transaction;

pub use routing::{FIRST_ROUTING, Rules};
pub(crate) use state_records::write_state;

use std::collections::BTreeMap;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::command::{
    is_drop_database, is_index_entry, write_create_indexes, write_drop,
};
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::state::{SourceRecord, TopicRecord};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::encode::ahead::Ahead;
use crate::encode::barrier::BarrierRequest;
use crate::encode::chunk::{Chunk, Destination, EncodedRecord, TopicIndex};
use crate::encode::events::ReachedPoint;
use crate::encode::frames::{FramedEntry, Frames};
use crate::encode::keys::KeyedRecord;
use crate::encode::record::{Written, write_entry};
use crate::encode::router_headers::{About, RouterHeaders};
use crate::encode::state_records::write_topic;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::prepare::lookup::{BeforeLookup, CurrentLookup};
use crate::prepare::route::{CommandRoute, Decision, Router, Target};
use crate::prepare::topics::Topics;
use crate::prepare::transaction::{Seen, Transactions};
use crate::publish::{Pace, TRANSACTION_TIMEOUT};
use crate::source::Batch;

/// Number of bytes at which a chunk is handed over.
const CHUNK_BYTES: usize = 2 << 20;
/// Number of records at which a chunk is handed over.
const CHUNK_RECORDS: usize = 8192;
/// Number of bytes in open frames at which a chunk is handed over. A server's reply is not larger, so
/// unless Kafka is slow, only transactions close frames early.
const FRAMES_BYTES: usize = 16 << 20;

/// A function that takes a full chunk and leaves an empty one.
type HandOn<'h> = dyn FnMut(&mut Chunk) -> Result<(), ProducerError> + 'h;

/// An entry that is sent.
#[derive(Debug, Clone, Copy)]
struct Outgoing<'e> {
    entry: &'e Entry<'e>,
    id: EntryId,
    /// True if it was built from an operation of a transaction, or by the producer.
    built: bool,
}

/// The encoder of the entries of one source.
#[derive(Debug)]
pub struct Encoder {
    source: String,
    format: Format,
    router_headers: RouterHeaders,
    router: Router,
    topics: Topics,
    /// Topics by name; the state topic is the first.
    indexes: FxHashMap<String, KnownTopic>,
    /// The names and schemas of the topics, by index.
    described: Vec<DescribedTopic>,
    /// Frames being filled.
    frames: Frames,
    transactions: Transactions,
    place: Place,
    /// New rules that apply from the next entry on.
    rules: Option<Rules>,
    unsaved: Unsaved,
    /// Collections whose indexes a full sync sends at the end of their copies.
    held: FxHashSet<CollectionUuid>,
    /// Limit of the size of chunks if Kafka is slow.
    pace: Pace,
    /// The documents of updates, if they are looked up.
    current: Option<CurrentLookup>,
    /// The documents before changes, if they are looked up.
    before: Option<Box<BeforeLookup>>,
}

/// A topic that the encoder writes to.
#[derive(Debug, Clone, Copy)]
struct KnownTopic {
    index: TopicIndex,
    partitions: u32,
}

/// The name and the schemas of a topic.
#[derive(Debug)]
struct DescribedTopic {
    name: String,
    schemas: SchemaIds,
}

/// The place that the encoder has reached in the source.
#[derive(Debug)]
struct Place {
    position: Option<Position>,
    /// The greatest record timestamp so far. No later record gets a smaller one.
    stamp: i64,
    /// Version of the routing table.
    routing: u32,
    /// Number of entries that a full sync has sent at the position.
    reads: u32,
    /// Time at which the current batch is encoded, in milliseconds since 1970; 0 for formats without
    /// it.
    processed_at: i64,
    /// The point at which a change stream continues after the position.
    resume: ReachedPoint,
}

/// State that is saved with the first records of a session.
#[derive(Debug)]
struct Unsaved {
    /// The source's identity, until it is saved.
    identity: Option<SourceRecord>,
    /// Records of topics whose end offsets have changed.
    noted: BTreeMap<String, TopicRecord>,
}

impl Encoder {
    /// Creates an encoder that continues after `end` with the saved state in `router`. `identity`
    /// is the source's record if it has to be saved.
    #[must_use]
    pub fn new(
        source: &str,
        format: Format,
        router: Router,
        topics: Topics,
        end: Option<Position>,
        identity: Option<SourceRecord>,
        transactions: Transactions,
    ) -> Self {
        Self {
            source: source.to_owned(),
            format,
            router_headers: RouterHeaders::None,
            router,
            topics,
            indexes: FxHashMap::default(),
            described: Vec::new(),
            frames: Frames::new(source),
            transactions,
            place: Place {
                position: end,
                stamp: 0,
                routing: FIRST_ROUTING,
                reads: 0,
                processed_at: 0,
                resume: ReachedPoint::default(),
            },
            rules: None,
            unsaved: Unsaved {
                identity,
                noted: BTreeMap::new(),
            },
            held: FxHashSet::default(),
            pace: Pace::new(TRANSACTION_TIMEOUT),
            current: None,
            before: None,
        }
    }

    /// Adds headers for routers to the records.
    #[must_use]
    pub const fn with_router_headers(mut self, headers: RouterHeaders) -> Self {
        self.router_headers = headers;
        self
    }

    /// Limits the size of chunks to the bytes that may be in flight at a time.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Encodes a batch; `hand_on` takes full chunks and leaves empty ones. The records of the last
    /// chunk, which is not full, stay in `chunk`.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] names the entry; other errors come from reading the earlier
    /// entries of a transaction, from lookups of documents, from queries about collections, from
    /// creating topics, from the schema registry or from `hand_on`.
    pub fn encode(
        &mut self,
        batch: &Batch,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        self.note_time();
        let mut documents = batch.documents()?;
        let mut ahead = Ahead::of(self);
        loop {
            let rest = documents.clone();
            let Some(document) = documents.next() else {
                break;
            };
            let entry = self.read_entry(document.map_err(ProducerError::undecodable)?)?;
            self.prepare(&entry, rest, &mut ahead)?;
            self.encode_entry(&entry, chunk, hand_on)?;
            self.hand_on_full(chunk, hand_on)?;
        }
        self.finish_batch(chunk)
    }

    /// Processes entries from before the start: they produce no records, but may belong to
    /// transactions that are still open.
    ///
    /// # Errors
    /// The errors of [`Encoder::encode`].
    pub fn recall(&mut self, batch: &Batch) -> Result<(), ProducerError> {
        for document in batch.documents()? {
            let document = document.map_err(ProducerError::undecodable)?;
            let entry = Entry::parse_any_operation(document);
            let entry = entry.map_err(|error| ProducerError::unreadable(document, &error))?;
            self.transactions.recall(&entry)?;
        }
        Ok(())
    }

    /// Hands a full chunk on.
    #[inline]
    fn hand_on_full(
        &mut self,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        if !self.is_full(chunk) {
            return Ok(());
        }
        self.complete(chunk);
        hand_on(chunk)
    }

    /// Completes the last chunk of a batch.
    fn finish_batch(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        // The source's record is saved with the first position, even if there is no record to send.
        if self.unsaved.identity.is_some() && self.place.position.is_some() {
            self.open_state(chunk)?;
        }
        self.complete(chunk);
        Ok(())
    }

    fn is_full(&self, chunk: &Chunk) -> bool {
        let under_way = self.pace.buffer_bytes();
        // Records after a command must follow its barriers.
        chunk.barrier.is_some()
            || chunk.arena.len() >= CHUNK_BYTES.min(under_way)
            || chunk.records.len() >= CHUNK_RECORDS
            || self.frames.bytes() >= FRAMES_BYTES.min(under_way)
    }

    /// Closes open frames and notes the position that the chunk reaches.
    pub fn complete(&mut self, chunk: &mut Chunk) {
        self.frames.close(self.place.stamp, chunk);
        chunk.reached.position = self.place.position;
        chunk.reached.reads = self.place.reads;
        chunk.reached.history = self.transactions.history();
        chunk.reached.routing = self.place.routing;
        chunk.reached.resume = self.place.resume.saved();
    }

    #[inline]
    fn encode_entry(
        &mut self,
        entry: &Entry<'_>,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let done = self.operations_done(entry)?;
        if done == 0 && self.rules.is_some() {
            self.change_routing(chunk, hand_on)?;
        }
        chunk.counts.source_bytes += entry.raw.as_bytes().len() as u64;
        if let Some(count) = chunk.counts.entries.get_mut(entry.operation.index()) {
            *count += 1;
        }
        match self.transactions.see(entry)? {
            Seen::Commit(commit) => self.encode_commit(entry, &commit, done, chunk, hand_on)?,
            Seen::Plain if is_drop_database(entry) => {
                self.encode_drop_database(entry, done, chunk, hand_on)?;
            }
            _ if done > 0 => {
                return Err(EntryFault::NotATransaction {
                    entry: entry.ts,
                    operation: entry.operation,
                }
                .into());
            }
            Seen::Plain => {
                let id = EntryId {
                    ts: entry.ts,
                    ord: 0,
                };
                self.encode_operation(entry, id, false, chunk)?;
            }
            Seen::Part => {}
            Seen::Abort => chunk.counts.transactions.aborted += 1,
        }
        self.reach(entry, 0, chunk);
        Ok(())
    }

    /// Reads an entry. An entry with an unknown operation counts as a noop if its namespace is not
    /// streamed.
    #[inline]
    fn read_entry<'a>(&self, document: Document<'a>) -> Result<Entry<'a>, ProducerError> {
        Entry::parse(document).or_else(|error| self.pass_over_unknown(document, &error))
    }

    #[cold]
    fn pass_over_unknown<'a>(
        &self,
        document: Document<'a>,
        error: &EntryError,
    ) -> Result<Entry<'a>, ProducerError> {
        match error {
            EntryError::UnknownOperation { ts, ns, op } if self.router.leaves_out(ns) => {
                tracing::warn!(%ts, ns, op, "an entry with an unknown operation is skipped");
                Entry::parse_any_operation(document)
                    .map_err(|error| ProducerError::unreadable(document, &error))
            }
            _ => Err(ProducerError::unreadable(document, error)),
        }
    }

    /// Notes that the first `ord` operations of an entry, or all of them if `ord` is 0, are in the
    /// chunk or before it.
    #[inline]
    fn reach(&mut self, entry: &Entry<'_>, ord: u32, chunk: &mut Chunk) {
        chunk.reached.wall = entry.ts.clamp_wall(entry.wall);
        self.place.reads = 0;
        self.place.position = Some(Position {
            ts: entry.ts,
            term: entry.term,
            ord,
        });
    }

    /// Returns the number of operations of this entry that an earlier session has sent. Only the first
    /// entry of a session may be at the saved position, and only if the position has an ordinal.
    #[inline]
    fn operations_done(&self, entry: &Entry<'_>) -> Result<u32, ProducerError> {
        match self.place.position {
            Some(end) if entry.ts == end.ts && end.ord > 0 => Ok(end.ord),
            Some(end) if entry.ts <= end.ts => Err(EntryFault::GoesBackwards {
                entry: entry.ts,
                ns: entry.ns.to_owned(),
                after: end,
            }
            .into()),
            _ => Ok(0),
        }
    }

    /// Encodes one operation: an unchanged entry of the source, or one that was `built` from an
    /// operation of a transaction or by the producer.
    #[inline]
    fn encode_operation(
        &mut self,
        entry: &Entry<'_>,
        id: EntryId,
        built: bool,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        if is_index_entry(entry) {
            return self.encode_index(entry, id, chunk);
        }
        if self.leaves_out(entry)? {
            chunk.counts.filtered += 1;
            return Ok(());
        }
        self.place.stamp = self.place.stamp.max(entry.ts.clamp_wall(entry.wall));
        if self.is_for_replays_only(entry) {
            return self.leave_to_replays(entry, chunk);
        }
        let target = match self.router.decide(entry)? {
            Decision::Known(target) => target,
            Decision::Unknown(new) => self.learn(entry, &new, chunk)?,
            Decision::Command(route) => return self.encode_command(entry, id, built, route, chunk),
        };
        match target {
            Target::Dropped if entry.operation == Operation::Noop => Ok(()),
            Target::Dropped => {
                chunk.counts.filtered += 1;
                Ok(())
            }
            Target::First(topic) => {
                let to = Destination {
                    topic,
                    partition: 0,
                };
                self.write_record(Outgoing { entry, id, built }, to, None, chunk)
            }
            Target::Keyed { topic, partitions } => {
                let KeyedRecord { key, partition } =
                    self.write_key(entry, topic, partitions, chunk)?;
                let to = Destination { topic, partition };
                self.write_record(Outgoing { entry, id, built }, to, Some(key), chunk)
            }
        }
    }

    #[inline]
    fn write_record(
        &mut self,
        outgoing: Outgoing<'_>,
        to: Destination,
        key: Option<std::ops::Range<usize>>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let Outgoing { entry, id, built } = outgoing;
        if self.format == Format::Raw {
            // The key was only needed to choose the partition.
            if let Some(key) = key {
                chunk.arena.truncate(key.start);
            }
            let framed = FramedEntry {
                id,
                entry: entry.raw,
                built,
            };
            self.frames.add(framed, to, self.place.stamp, chunk);
            return Ok(());
        }
        let damaged = |error| ProducerError::damaged(entry, &error);
        self.look_up(entry, chunk)?;
        self.look_up_before(entry, chunk)?;
        let looked_up = self.looked_up();
        let with_document;
        let entry = match &looked_up {
            None => entry,
            looked_up => {
                let looked_up = looked_up.as_ref();
                with_document = Entry {
                    looked_up,
                    ..*entry
                };
                &with_document
            }
        };
        let origin = self.origin(to.topic);
        let written = write_entry(self.format, entry, id, &origin, &mut chunk.arena);
        let Written { header, value } = written.map_err(damaged)?;
        let about = About {
            entry,
            id,
            key: key.clone(),
            format: self.format,
            source: &self.source,
        };
        let router_headers = self.router_headers.write(&about, chunk).map_err(damaged)?;
        let router_headers = self.with_lookup_header(entry, router_headers, chunk);
        let record = EncodedRecord {
            topic: to.topic,
            partition: to.partition,
            timestamp: self.place.stamp,
            key,
            header,
            router_headers,
            value,
        };
        let has_tombstone =
            entry.operation == Operation::Delete && matches!(self.format, Format::Debezium(_));
        let tombstone = has_tombstone.then(|| record.tombstone());
        chunk.records.push(record);
        chunk.records.extend(tombstone);
        Ok(())
    }

    /// Encodes a `createIndexes` command for an index that was logged as a document.
    #[cold]
    fn encode_index(
        &mut self,
        entry: &Entry<'_>,
        id: EntryId,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let mut command = Vec::new();
        write_create_indexes(entry, &mut command).map_err(|error| damaged(entry, &error))?;
        let command = Document::new(&command).map_err(ProducerError::undecodable)?;
        self.encode_operation(&Entry::parse(command)?, id, true, chunk)
    }

    /// Adds a command for the publisher, and saves its changes to the routing table.
    fn encode_command(
        &mut self,
        entry: &Entry<'_>,
        id: EntryId,
        built: bool,
        route: CommandRoute,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let mut topics = Vec::with_capacity(route.topics.len());
        for name in &route.topics {
            topics.push(self.barrier_topic(name, chunk)?);
        }
        self.save_routes(&route.changes, chunk)?;
        let start = chunk.arena.len();
        match &route.as_drop_of {
            Some(collection) => write_drop(entry, collection, &mut chunk.arena)
                .map_err(|error| damaged(entry, &error))?,
            None => chunk.arena.extend_from_slice(entry.raw.as_bytes()),
        }
        let barrier = BarrierRequest {
            id,
            entry: start..chunk.arena.len(),
            built,
            topics,
            ordered: route.ordered,
            passable: route.passable,
            timestamp: self.place.stamp,
            format: self.format,
            router_headers: self.router_headers,
        };
        self.put_barrier(barrier, route.topics.first(), chunk)?;
        self.router.apply(route.changes);
        Ok(())
    }

    /// Adds a barrier for the publisher, with at least one record ahead of it: its delivery proves to
    /// the publisher that the previous Kafka transaction is complete. If no other record is pending,
    /// the saved record of the leader's topic is sent again.
    fn put_barrier(
        &self,
        barrier: BarrierRequest,
        leader: Option<&String>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        chunk.barrier = Some(barrier);
        let saved = leader.and_then(|name| Some((name, self.router.state().topics.get(name)?)));
        match saved.filter(|_| chunk.records.is_empty()) {
            Some((name, record)) => write_topic(name, record, self.place.stamp, chunk),
            None => Ok(()),
        }
    }
}

fn damaged(entry: &Entry<'_>, error: &Malformed) -> ProducerError {
    ProducerError::damaged(entry, &EntryError::Malformed(error.clone()))
}

#[cfg(test)]
mod tests;
