//! Turns batches of entries into chunks of encoded records. Its only I/O is the creation of topics, the
//! reading of earlier entries of transactions, and queries about collections.
//!
//! # Modules
//!
//! - [`chunk`] records on their way to the publisher; [`record`] one entry as header and value; `frames`
//!   the raw frames that are being filled
//! - [`barrier`] a command with its barriers; `database` the end of a database
//! - `transaction` the operations of a commit; `copy` the documents of a full sync; `routing` a change of
//!   the rules of routing

pub mod barrier;
pub mod chunk;
mod copy;
mod database;
mod frames;
pub mod record;
mod routing;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};

use oplog_relay_core::command::{ends_database, is_index_entry, write_create_indexes, write_drop};
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::format::Format;
use oplog_relay_core::key::{partition_for, write_key};
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::state::{Order, SourceRecord, TopicRecord};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use crate::encode::barrier::BarrierRequest;
use crate::encode::chunk::{Chunk, EncodedRecord, NewTopic, TopicIndex};
use crate::encode::record::write_entry;
use crate::error::ProducerError;
use crate::prepare::route::{CommandRoute, Decision, NewRoute, RouteChange, Router, Target};
use crate::prepare::topics::Topics;
use crate::prepare::transaction::{Seen, Transactions};
use crate::publish::{Pace, TRANSACTION_TIMEOUT};
use crate::source::{Batch, Documents};

/// Number of bytes at which a chunk is handed over.
const CHUNK_BYTES: usize = 2 << 20;
/// Number of records at which a chunk is handed over.
const CHUNK_RECORDS: usize = 8192;
/// Number of bytes in open frames at which a chunk is handed over. A server's reply is not larger, so
/// only transactions close frames early.
const FRAMES_BYTES: usize = 16 << 20;

/// A function that takes a full chunk and leaves an empty one.
type HandOn<'h> = dyn FnMut(&mut Chunk) -> Result<(), ProducerError> + 'h;

/// The encoder of the entries of one source.
#[derive(Debug)]
pub struct Encoder {
    source: String,
    format: Format,
    router: Router,
    topics: Topics,
    /// Topics by name; the state topic is the first.
    indexes: FxHashMap<String, (TopicIndex, u32)>,
    /// Frames being filled.
    frames: Frames,
    transactions: Transactions,
    place: Place,
    /// New rules that apply from the next entry on.
    rules: Option<Rules>,
    unsaved: Unsaved,
    /// Collections whose index builds a full sync sends at its end.
    held: FxHashSet<[u8; 16]>,
    /// Limit of the size of chunks if Kafka is slow.
    pace: Pace,
}

/// The place that the encoder has reached in the source.
#[derive(Debug)]
struct Place {
    position: Option<Position>,
    /// The greatest record timestamp so far, because timestamps never decrease.
    stamp: i64,
    /// Version of the routing table.
    routing: u32,
    /// Number of entries that a full sync has sent at the position.
    reads: u32,
}

/// State that is saved with the first records of a session.
#[derive(Debug)]
struct Unsaved {
    /// The source's identity, until it is saved.
    identity: Option<SourceRecord>,
    /// Records of topics.
    noted: BTreeMap<String, TopicRecord>,
}

impl Encoder {
    /// Creates an encoder that continues after `end` with the saved state in `router`; `identity` has
    /// to be saved.
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
            router,
            topics,
            indexes: FxHashMap::default(),
            frames: Frames::new(source),
            transactions,
            place: Place {
                position: end,
                stamp: 0,
                routing: FIRST_ROUTING,
                reads: 0,
            },
            rules: None,
            unsaved: Unsaved {
                identity,
                noted: BTreeMap::new(),
            },
            held: FxHashSet::default(),
            pace: Pace::new(TRANSACTION_TIMEOUT),
        }
    }

    /// Limits the size of chunks to the bytes that may be in flight at a time.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Encodes a batch; `hand_on` takes full chunks and returns an empty one. The records of the last,
    /// incomplete chunk stay in `chunk`.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] names the entry; other errors come from reading the earlier
    /// entries of a transaction, from creating topics or from `hand_on`.
    pub fn encode(
        &mut self,
        batch: &Batch,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let mut documents = batch.documents()?;
        let known = self.indexes.len();
        let mut looked = false;
        loop {
            let rest = documents.clone();
            let Some(document) = documents.next() else {
                break;
            };
            let entry = self.read_entry(document.map_err(ProducerError::undecodable)?)?;
            // Several collections are often new at once, as all of them are at the start.
            if !looked && (self.indexes.len() > known || self.needs_topic(&entry)) {
                looked = true;
                self.look_ahead(rest)?;
            }
            self.encode_entry(&entry, chunk, hand_on)?;
            if self.is_full(chunk) {
                self.complete(chunk);
                hand_on(chunk)?;
            }
        }
        // The source's record is saved with the first position, even if there is no record to send.
        if self.unsaved.identity.is_some() && self.place.position.is_some() {
            self.open_state(chunk)?;
        }
        self.complete(chunk);
        Ok(())
    }

    /// Returns true if an entry is a command on a collection whose topic was not used yet, such as the
    /// `create` that a server logs ahead of the first insert.
    #[inline]
    fn needs_topic(&self, entry: &Entry<'_>) -> bool {
        let is_new = |topic: &String| !self.indexes.contains_key(topic);
        entry.operation == Operation::Command && self.router.topics_ahead(entry).iter().any(is_new)
    }

    /// Creates the topics of the following entries together.
    #[cold]
    fn look_ahead(&mut self, documents: Documents<'_>) -> Result<(), ProducerError> {
        // A damaged entry is reported when it is encoded.
        let entries = documents.map_while(|document| Entry::parse(document.ok()?).ok());
        let topics = entries.flat_map(|entry| self.router.topics_ahead(&entry));
        let topics: BTreeSet<_> = topics
            .filter(|topic| !self.indexes.contains_key(topic))
            .collect();
        if topics.len() > 1 {
            self.topics.prepare(&topics)?;
        }
        Ok(())
    }

    /// Processes entries from before the start: they produce no records, but transactions may be open.
    ///
    /// # Errors
    /// The errors of [`Encoder::encode`].
    pub fn recall(&mut self, batch: &Batch) -> Result<(), ProducerError> {
        for document in batch.documents()? {
            let document = document.map_err(ProducerError::undecodable)?;
            let entry = Entry::parse_whatever_it_does(document);
            let entry = entry.map_err(|error| ProducerError::unreadable(document, &error))?;
            self.transactions.recall(&entry)?;
        }
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
            Seen::Plain if ends_database(entry) => {
                self.encode_drop_database(entry, done, chunk, hand_on)?;
            }
            _ if done > 0 => {
                return Err(ProducerError::Undecodable(format!(
                    "the saved position is inside a transaction at {}, but that entry is {:?}",
                    entry.ts, entry.operation
                )));
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
    /// read.
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
                Entry::parse_whatever_it_does(document)
                    .map_err(|error| ProducerError::unreadable(document, &error))
            }
            _ => Err(ProducerError::unreadable(document, error)),
        }
    }

    /// Notes that everything up to this operation of an entry is in the chunk or before it.
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
    /// entry of a session may be at the saved position, and only if that has an ordinal.
    #[inline]
    fn operations_done(&self, entry: &Entry<'_>) -> Result<u32, ProducerError> {
        match self.place.position {
            Some(end) if entry.ts == end.ts && end.ord > 0 => Ok(end.ord),
            Some(end) if entry.ts <= end.ts => Err(ProducerError::Undecodable(format!(
                "ts goes backwards in the source: entry {} of {:?} after {end}. An oplog never \
                 does this; several writers of a FerretDB can cause it",
                entry.ts, entry.ns
            ))),
            _ => Ok(0),
        }
    }

    /// Encodes one operation: an unchanged entry of the source, or one that was `built` from an
    /// operation of a transaction.
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
            Target::First(topic) => self.write_record(entry, (id, built), (topic, 0), None, chunk),
            Target::Keyed { topic, partitions } => {
                let start = chunk.arena.len();
                let document_id = entry.document_id();
                let document_id =
                    document_id.map_err(|error| ProducerError::damaged(entry, &error))?;
                write_key(document_id, &mut chunk.arena).map_err(|error| damaged(entry, &error))?;
                let end = chunk.arena.len();
                let key = chunk.arena.get(start..end).unwrap_or_default();
                let partition = i32::try_from(partition_for(key, partitions)).unwrap_or(0);
                self.write_record(
                    entry,
                    (id, built),
                    (topic, partition),
                    Some(start..end),
                    chunk,
                )
            }
        }
    }

    #[inline]
    fn write_record(
        &mut self,
        entry: &Entry<'_>,
        (id, built): (EntryId, bool),
        (topic, partition): (TopicIndex, i32),
        key: Option<std::ops::Range<usize>>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
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
            self.frames
                .add(framed, (topic, partition), self.place.stamp, chunk);
            return Ok(());
        }
        let written = write_entry(self.format, entry, id, &self.source, &mut chunk.arena);
        let (header, value) = written.map_err(|error| ProducerError::damaged(entry, &error))?;
        chunk.records.push(EncodedRecord {
            topic,
            partition,
            timestamp: self.place.stamp,
            key,
            header,
            value,
        });
        Ok(())
    }

    /// Encodes an index that was logged as a document as a `createIndexes` command.
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

    /// Adds a command for the publisher, and saves its changes of the routing table.
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
            topics.push(self.topic(name, chunk)?);
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
            Some((name, record)) => {
                let state = (TopicIndex(0), self.place.stamp);
                write_state_record(&format!("topic/{name}"), record, state, chunk)
            }
            None => Ok(()),
        }
    }

    fn save_routes(&self, changes: &[RouteChange], chunk: &mut Chunk) -> Result<(), ProducerError> {
        for change in changes {
            let key = format!("route/{}", change.name);
            let state = (TopicIndex(0), self.place.stamp);
            match &change.record {
                Some(record) => write_state_record(&key, record, state, chunk)?,
                None => write_state(&key, &[], state, chunk),
            }
        }
        Ok(())
    }

    /// Makes sure that the topic of a new route exists, and saves both in the state topic, ahead of the
    /// first record that depends on them.
    fn learn(
        &mut self,
        entry: &Entry<'_>,
        new: &NewRoute,
        chunk: &mut Chunk,
    ) -> Result<Target, ProducerError> {
        let (topic, partitions) = self.topic(&new.record.topic, chunk)?;
        let target = match (entry.operation, new.record.order) {
            (Operation::Command, _) => Target::First(topic),
            (_, Order::Id) => Target::Keyed { topic, partitions },
            // All documents go to partition 0, as if the topic had one partition.
            (_, Order::Collection) => Target::Keyed {
                topic,
                partitions: 1,
            },
        };
        if self.router.add(entry, new, target) {
            let key = format!("route/{}", new.name);
            write_state_record(&key, &new.record, (TopicIndex(0), self.place.stamp), chunk)?;
        }
        Ok(target)
    }

    fn topic(&mut self, name: &str, chunk: &mut Chunk) -> Result<(TopicIndex, u32), ProducerError> {
        if let Some(known) = self.indexes.get(name) {
            return Ok(*known);
        }
        self.open_state(chunk)?;
        let saved = self.router.state().topics.get(name).cloned();
        let record = self.topics.ensure(name, saved.as_ref(), self.format)?;
        let known = self.index(name, record.partitions, saved.is_none(), chunk);
        if saved.as_ref() != Some(&record) {
            self.router
                .state_mut()
                .topics
                .insert(name.to_owned(), record.clone());
            let key = format!("topic/{name}");
            let state = (TopicIndex(0), self.place.stamp);
            write_state_record(&key, &record, state, chunk)?;
        }
        Ok(known)
    }

    /// Adds the state topic as the first topic, and the source's record as its first record.
    fn open_state(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        if self.indexes.is_empty() {
            let state_topic = self.topics.state_topic().to_owned();
            self.index(&state_topic, 1, false, chunk);
        }
        match self.unsaved.identity.take() {
            Some(identity) => write_state_record(
                "source",
                &identity,
                (TopicIndex(0), self.place.stamp),
                chunk,
            ),
            None => Ok(()),
        }
    }

    fn index(
        &mut self,
        name: &str,
        partitions: u32,
        is_claimed_here: bool,
        chunk: &mut Chunk,
    ) -> (TopicIndex, u32) {
        let known = (TopicIndex(self.indexes.len()), partitions);
        self.indexes.insert(name.to_owned(), known);
        let max_bytes = self.topics.max_bytes(name);
        self.frames.add_topic(partitions, max_bytes);
        chunk.new_topics.push(NewTopic {
            name: name.to_owned(),
            max_bytes,
            is_claimed_here,
            existed: self.topics.existed(name),
        });
        known
    }
}

fn write_state_record(
    key: &str,
    record: &impl Serialize,
    (topic, timestamp): (TopicIndex, i64),
    chunk: &mut Chunk,
) -> Result<(), ProducerError> {
    let value = serde_json::to_vec(record)
        .map_err(|error| ProducerError::Usage(format!("state {key}: {error}")))?;
    write_state(key, &value, (topic, timestamp), chunk);
    Ok(())
}

/// Writes a key of the state topic; an empty value deletes it.
pub(crate) fn write_state(
    key: &str,
    value: &[u8],
    (topic, timestamp): (TopicIndex, i64),
    chunk: &mut Chunk,
) {
    let start = chunk.arena.len();
    chunk.arena.extend_from_slice(key.as_bytes());
    let middle = chunk.arena.len();
    chunk.arena.extend_from_slice(value);
    let end = chunk.arena.len();
    chunk.records.push(EncodedRecord {
        topic,
        partition: 0,
        timestamp,
        key: Some(start..middle),
        header: None,
        value: middle..end,
    });
}

fn damaged(entry: &Entry<'_>, error: &Malformed) -> ProducerError {
    ProducerError::damaged(entry, &EntryError::Malformed(error.clone()))
}

use frames::{FramedEntry, Frames};

pub use routing::{FIRST_ROUTING, Rules};

#[cfg(test)]
mod tests;
