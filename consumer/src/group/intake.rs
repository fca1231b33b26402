//! The intake: records go from librdkafka's queue into chunks, and from chunks to workers, within a
//! byte budget.

use std::time::{Duration, Instant};

use oplog_relay_core::format::fragment::{FRAGMENT_HEADER, Fragment, Part, Run};
use oplog_relay_core::format::{FormatError, ID_HEADER, first_entry};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::assigned::Partition;
use super::context::GroupContext;
use crate::input::Input;
use crate::telemetry::metrics::Metrics;
use crate::worker::chunk::Chunk;

/// Number of empty chunks that are kept for reuse.
const KEPT_CHUNKS: usize = 64;

/// Maximum size at which a chunk is closed. A worker applies and acknowledges a whole chunk at a
/// time. With many partitions, chunks are closed at a smaller size: the chunks of workers at
/// barriers do not count against the budget, and should together not exceed it.
const CHUNK_BYTES: usize = 2 << 20;
/// Minimum size at which a chunk is closed, however many partitions there are.
const MIN_CHUNK_BYTES: usize = 64 << 10;
/// Time after the release of a chunk during which workers are expected to have room soon.
const RECENT_RELEASE: Duration = Duration::from_millis(50);
/// Number of chunks that a worker at a barrier may hold: the current one and the queued one.
const CHUNKS_PER_WORKER: usize = 2;

/// The part of a record, besides the value, that identifies its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// The header `oplog-id` of oplog-producer.
    Header,
    /// The key, in the topics of other programs. Their records are never fragments.
    Key,
}

impl Identity {
    pub(super) const fn of(input: &Input) -> Self {
        match input {
            Input::Relay { .. } => Self::Header,
            Input::Foreign(_) => Self::Key,
        }
    }
}

/// The bytes in flight and the empty chunks.
#[derive(Debug)]
pub(super) struct Intake {
    identity: Identity,
    budget: usize,
    used: usize,
    /// Bytes held by workers that are blocked at barriers or stalled. Not counted against the
    /// budget, or the other partitions could not advance.
    held: usize,
    /// Size of the largest incomplete record in bytes. Not counted against the budget, or the record
    /// could never be completed.
    open: usize,
    /// True if chunks are left for workers that had no room and do not wait at barriers.
    behind: bool,
    /// Time at which a chunk was last released.
    released: Option<Instant>,
    empty: Vec<Chunk>,
}

impl Intake {
    pub(super) fn new(budget: usize, identity: Identity) -> Self {
        Self {
            identity,
            budget,
            used: 0,
            held: 0,
            open: 0,
            behind: false,
            released: None,
            empty: Vec::new(),
        }
    }

    /// Returns the bytes taken and not yet released.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    pub(super) const fn is_over(&self) -> bool {
        self.used.saturating_sub(self.held + self.open) >= self.budget
    }

    pub(super) const fn is_under_half(&self) -> bool {
        self.used.saturating_sub(self.held + self.open) <= self.budget / 2
    }

    /// Returns true if chunks are left for which their workers will soon have room.
    pub(super) fn is_behind(&self) -> bool {
        let is_recent = |released: Instant| released.elapsed() < RECENT_RELEASE;
        self.behind && self.released.is_some_and(is_recent)
    }

    /// Sets the bytes held by workers that are blocked at barriers or stalled.
    pub(super) const fn set_held(&mut self, bytes: usize) {
        self.held = bytes;
    }

    /// Sets the size in bytes of the largest incomplete record.
    pub(super) const fn set_open(&mut self, bytes: usize) {
        self.open = bytes;
    }

    /// Returns the bytes of a chunk to the budget after it was applied or discarded.
    pub(super) fn release(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        if bytes > 0 {
            self.released = Some(Instant::now());
        }
    }

    /// Keeps an empty chunk for reuse.
    pub(super) fn recycle(&mut self, chunk: Chunk) {
        if self.empty.len() < KEPT_CHUNKS {
            self.empty.push(chunk);
        }
    }

    /// Copies a record into its partition's chunk.
    pub(super) fn take(
        &mut self,
        consumer: &BaseConsumer<GroupContext>,
        record: &BorrowedMessage<'_>,
        metrics: &Metrics,
    ) {
        let incoming = Incoming::of(record, self.identity);
        let bytes = incoming.value.map_or(0, <[u8]>::len);
        metrics
            .bytes
            .inc_by(u64::try_from(bytes).expect("a length has at most 64 bits"));
        let mut partitions = consumer.context().partitions();
        let share = self.budget / (CHUNKS_PER_WORKER * partitions.len().max(1));
        let full = share.clamp(MIN_CHUNK_BYTES, CHUNK_BYTES);
        let Some(partition) = partitions.find(record.topic(), record.partition()) else {
            // The partition was just revoked. Its next owner reads the record again.
            return;
        };
        if !partition.takes(incoming.offset) {
            return;
        }
        let was_open = partition.run.is_some();
        self.put(partition, &incoming, full, metrics);
        partition.tracker.hand(incoming.offset);
        if was_open || partition.run.is_some() {
            self.open = partitions.open_bytes();
        }
    }

    /// Appends a record to the chunk of its partition, or a fragment to its record.
    fn put(
        &mut self,
        partition: &mut Partition,
        incoming: &Incoming<'_>,
        full: usize,
        metrics: &Metrics,
    ) {
        let mut part = incoming.part(partition.run);
        if part == Ok(Part::Again) {
            metrics.count_error("fragment");
            tracing::warn!(
                topic = partition.name.topic,
                partition = partition.name.partition,
                offset = incoming.offset,
                "discarded an incomplete record before this one: its transaction was aborted, and \
                 the producer has written its entries again"
            );
            self.used -= partition.filling(full, false, Chunk::default).take_back();
            partition.run = None;
            part = incoming.part(None);
        }
        let begins = matches!(part, Ok(Part::Begins(_)));
        let continues = matches!(part, Ok(Part::Continues(_) | Part::Ends));
        let was_open = partition.run.is_some();
        let chunk = partition.filling(full, begins, || self.empty.pop().unwrap_or_default());
        if was_open && let Err(fault) = &part {
            // The record before this one is incomplete.
            chunk.mark_faulty(fault.clone());
        }
        self.used += if continues {
            chunk.extend(incoming.offset, incoming.value.unwrap_or_default())
        } else {
            let Incoming {
                offset,
                timestamp,
                value,
                ..
            } = *incoming;
            chunk.push(offset, timestamp, value, incoming.oplog_id)
        };
        partition.run = match part {
            Ok(Part::Begins(run) | Part::Continues(run)) => Some(run),
            Ok(Part::Whole | Part::Ends | Part::Again) => None,
            Err(fault) => {
                chunk.mark_faulty(fault);
                None
            }
        };
    }

    /// Hands chunks to the workers that have room.
    pub(super) fn hand_on(&mut self, consumer: &BaseConsumer<GroupContext>) {
        self.behind = false;
        for partition in consumer.context().partitions().iter_mut() {
            self.behind |= partition.hand_on();
        }
    }
}

/// An incoming record.
#[derive(Debug, Clone, Copy)]
struct Incoming<'m> {
    offset: i64,
    timestamp: i64,
    value: Option<&'m [u8]>,
    oplog_id: Option<&'m [u8]>,
    fragment: Option<&'m [u8]>,
}

impl<'m> Incoming<'m> {
    fn of(record: &'m BorrowedMessage<'_>, identity: Identity) -> Self {
        let mut incoming = Self {
            offset: record.offset(),
            timestamp: record.timestamp().to_millis().unwrap_or_default(),
            value: record.payload(),
            oplog_id: None,
            fragment: None,
        };
        if identity == Identity::Key {
            incoming.oplog_id = record.key();
            return incoming;
        }
        if let Some(headers) = record.headers() {
            for header in headers.iter() {
                match header.key {
                    ID_HEADER => incoming.oplog_id = incoming.oplog_id.or(header.value),
                    FRAGMENT_HEADER => incoming.fragment = incoming.fragment.or(header.value),
                    _ => {}
                }
            }
        }
        incoming
    }

    /// Returns the relation of this record to the incomplete record before it.
    fn part(&self, run: Option<Run>) -> Result<Part, FormatError> {
        let fragment = self.fragment.map(Fragment::parse).transpose()?;
        let first = || first_entry(self.value.unwrap_or_default(), self.oplog_id);
        Run::next(run, self.offset, fragment, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::offsets::{NextOffset, OffsetTracker};
    use crate::topic_partition::TopicPartition;
    use crate::worker::assignment::Token;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    const BUDGET: usize = 1 << 20;

    fn partition() -> (Partition, mpsc::Receiver<Chunk>) {
        partition_with_room(1000)
    }

    fn partition_with_room(chunks: usize) -> (Partition, mpsc::Receiver<Chunk>) {
        let (sender, chunks) = mpsc::channel(chunks);
        let topic = "cdc.a.b".to_owned();
        let name = TopicPartition {
            topic,
            partition: 0,
        };
        let tracker = OffsetTracker::new(NextOffset::at(0), None);
        (
            Partition::new(name, 1, Token::default(), tracker, sender),
            chunks,
        )
    }

    /// A record that was sent, or a fragment of it.
    #[derive(Clone, Copy)]
    struct Sent<'s> {
        offset: i64,
        value: &'s [u8],
        /// The seconds of the timestamp of its entry.
        seconds: u32,
        /// The header of a fragment; empty for a whole record.
        fragment: &'s str,
    }

    fn sent<'s>(offset: i64, value: &'s [u8], seconds: u32, fragment: &'s str) -> Sent<'s> {
        Sent {
            offset,
            value,
            seconds,
            fragment,
        }
    }

    fn put(
        intake: &mut Intake,
        partition: &mut Partition,
        metrics: &Metrics,
        full: usize,
        record: Sent<'_>,
    ) {
        let Sent {
            offset,
            value,
            seconds,
            fragment,
        } = record;
        let id = format!("rs0/{seconds}:1/0");
        let incoming = Incoming {
            offset,
            timestamp: 0,
            value: Some(value),
            oplog_id: Some(id.as_bytes()),
            fragment: (!fragment.is_empty()).then_some(fragment.as_bytes()),
        };
        intake.put(partition, &incoming, full, metrics);
    }

    /// Returns the offsets and the value of each record that the worker has received.
    fn handed(chunks: &mut mpsc::Receiver<Chunk>) -> Vec<(i64, i64, Vec<u8>)> {
        let mut all = Vec::new();
        while let Ok(chunk) = chunks.try_recv() {
            assert!(chunk.records.iter().all(|slot| slot.fault.is_none()));
            let records = chunk.records.iter();
            all.extend(records.map(|slot| {
                let value = chunk.arena[slot.value.clone()].to_vec();
                (slot.offset, slot.last, value)
            }));
        }
        all
    }

    #[test]
    fn a_worker_receives_only_complete_records() {
        let metrics = Metrics::new().unwrap();
        let mut intake = Intake::new(BUDGET, Identity::Header);
        let (mut partition, mut chunks) = partition();
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(0, b"whole", 1, ""),
        );
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(1, b"be", 2, "0/3"),
        );
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(2, b"gu", 2, "1/3"),
        );
        partition.hand_on();
        // The records before an incomplete record are not held back.
        assert_eq!(handed(&mut chunks), [(0, 0, b"whole".to_vec())]);
        assert!(partition.open_bytes() > 0);
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(3, b"n", 2, "2/3"),
        );
        partition.hand_on();
        assert_eq!(handed(&mut chunks), [(1, 3, b"begun".to_vec())]);
        assert_eq!(partition.open_bytes(), 0);

        // An evicted record is read again from its first fragment.
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(4, b"be", 3, "0/2"),
        );
        let discarded = partition.evict().map(|discarded| discarded.resume_offset);
        assert_eq!(discarded, Some(4));
        assert!(partition.run.is_none() && !partition.takes(5) && partition.takes(4));
    }

    #[test]
    fn chunks_wait_for_a_worker_without_room_and_are_not_urgent_at_a_barrier() {
        let metrics = Metrics::new().unwrap();
        let mut intake = Intake::new(BUDGET, Identity::Header);
        let (mut partition, mut chunks) = partition_with_room(1);
        for offset in [0, 1, 2] {
            let record = sent(offset, &b"full"[..], 2, "");
            put(&mut intake, &mut partition, &metrics, 1, record);
        }
        assert!(partition.hand_on());
        assert_eq!(handed(&mut chunks), [(0, 0, b"full".to_vec())]);
        partition.holding = true;
        assert!(!partition.hand_on());
        assert_eq!(handed(&mut chunks), [(1, 1, b"full".to_vec())]);
        partition.holding = false;
        assert!(!partition.hand_on());
        assert_eq!(handed(&mut chunks), [(2, 2, b"full".to_vec())]);
    }

    #[test]
    fn a_record_larger_than_the_budget_is_completed() {
        let metrics = Metrics::new().unwrap();
        let mut intake = Intake::new(1000, Identity::Header);
        let (mut partition, mut chunks) = partition();
        let part = [7; 900];
        for (offset, fragment) in (0..).zip(["0/3", "1/3"]) {
            let record = sent(offset, &part[..], 1, fragment);
            put(&mut intake, &mut partition, &metrics, 100, record);
        }
        intake.set_open(partition.open_bytes());
        assert!(intake.used() > 1000 && !intake.is_over());
        let record = sent(2, &part[..], 1, "2/3");
        put(&mut intake, &mut partition, &metrics, 100, record);
        intake.set_open(partition.open_bytes());
        assert!(intake.is_over(), "a complete record counts");
        partition.hand_on();
        assert_eq!(handed(&mut chunks).len(), 1);
    }

    #[test]
    fn fragments_of_an_aborted_transaction_are_discarded() {
        let metrics = Metrics::new().unwrap();
        let mut intake = Intake::new(BUDGET, Identity::Header);
        let (mut partition, mut chunks) = partition();
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(0, b"be", 2, "0/2"),
        );
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(3, b"be", 2, "0/2"),
        );
        put(
            &mut intake,
            &mut partition,
            &metrics,
            100,
            sent(4, b"gun", 2, "1/2"),
        );
        partition.hand_on();
        assert_eq!(handed(&mut chunks), [(3, 4, b"begun".to_vec())]);
        assert_eq!(intake.used(), partition.handed_bytes);
    }

    #[test]
    fn a_record_with_a_missing_fragment_is_reported() {
        let faults = |records: &[Sent<'_>]| -> Vec<Option<FormatError>> {
            let metrics = Metrics::new().unwrap();
            let mut intake = Intake::new(BUDGET, Identity::Header);
            let (mut partition, mut chunks) = partition();
            for record in records {
                put(&mut intake, &mut partition, &metrics, 100, *record);
            }
            partition.hand_on();
            let mut all = Vec::new();
            while let Ok(chunk) = chunks.try_recv() {
                all.extend(
                    chunk
                        .records
                        .into_iter()
                        .map(|slot| slot.fault.map(|it| *it)),
                );
            }
            all
        };
        let missing = faults(&[sent(0, b"be", 2, "0/3"), sent(1, b"gun", 2, "2/3")]);
        assert!(
            matches!(missing[0], Some(FormatError::Fragment(_))),
            "{missing:?}"
        );
        let cut = faults(&[sent(0, b"be", 2, "0/3"), sent(1, b"next", 3, "")]);
        assert!(matches!(cut[0], Some(FormatError::Fragment(_))), "{cut:?}");
        let inside = faults(&[sent(7, b"gun", 2, "1/2"), sent(8, b"next", 3, "")]);
        assert!(
            matches!(inside[0], Some(FormatError::Headless(_))),
            "{inside:?}"
        );
        assert_eq!(inside.len(), 2);
        let unreadable = faults(&[sent(0, b"a", 2, "x")]);
        assert!(matches!(unreadable[0], Some(FormatError::Fragment(_))));
    }

    proptest! {
        /// The worker receives every entry complete, once and in order, for entries and fragments of any
        /// size, and for chunks that end anywhere and are handed on at any time.
        #[test]
        fn entries_are_complete_wherever_chunks_end(
            entries in prop::collection::vec((1_usize..3000, 1_usize..700), 1..40),
            full in 1_usize..4000,
            hand_on in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let metrics = Metrics::new().unwrap();
            let mut intake = Intake::new(BUDGET, Identity::Header);
            let (mut partition, mut chunks) = partition();
            let (mut offset, mut expected, mut got) = (0, Vec::new(), Vec::new());
            let mut hand_on = hand_on.iter().cycle();
            for (seconds, (length, room)) in (1..).zip(&entries) {
                let value: Vec<u8> = (0..=250).cycle().take(*length).collect();
                let first = offset;
                for part in oplog_relay_core::format::fragment::cut(0..*length, *room) {
                    let text = part.fragment.to_string();
                    let text = if part.fragment.count == 1 { "" } else { text.as_str() };
                    let record = sent(offset, &value[part.value], seconds, text);
                    put(&mut intake, &mut partition, &metrics, full, record);
                    offset += 1;
                    if *hand_on.next().unwrap() {
                        partition.hand_on();
                        got.extend(handed(&mut chunks));
                    }
                }
                expected.push((first, offset - 1, value));
            }
            partition.hand_on();
            got.extend(handed(&mut chunks));
            prop_assert_eq!(got, expected);
            prop_assert_eq!(partition.handed_bytes, intake.used());
        }
    }
}
