//! The worker of one assigned partition: decodes, filters, applies, acknowledges. In order.

use std::sync::Arc;
use std::time::Instant;

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::{Decoded, Format, FormatError, decode};
use tokio::sync::mpsc;

use crate::assignment::{AssignmentNumber, EndReport, ReportEvent, Reports, Token};
use crate::batch::{Batch, Located};
use crate::chunk::Chunk;
use crate::error::{ConsumerError, RecordPlace};
use crate::metrics::Metrics;
use crate::offsets::NextOffset;
use crate::sink::{Applied, Sink, SinkError};
use crate::topics::{Topic, Topics};

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// What the topics hold.
    pub topics: Topics,
    /// Where entries go.
    pub sink: Sink,
    /// Which namespaces pass.
    pub filter: NamespaceFilter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where to report.
    pub reports: Arc<Reports>,
}

/// A worker to be started: made when its partition is assigned.
#[derive(Debug)]
pub struct Start {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Number of the assignment.
    pub assignment: AssignmentNumber,
    /// The right to write.
    pub token: Token,
    /// What to apply. Closed when the partition is given up.
    pub chunks: mpsc::Receiver<Chunk>,
}

/// The worker of one partition.
#[derive(Debug)]
pub struct PartitionWorker {
    start: Start,
    shared: Arc<Shared>,
    /// Entries of the chunk at hand; kept for reuse.
    found: Vec<Decoded>,
    /// For each entry the index of its record.
    records: Vec<usize>,
}

/// A chunk, decoded: up to the first record that cannot be.
struct Decoding {
    /// Records that were decoded.
    records: usize,
    /// The record after them, if it is damaged.
    fault: Option<FormatError>,
}

impl PartitionWorker {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(start: Start, shared: Arc<Shared>) -> Self {
        Self {
            start,
            shared,
            found: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Applies chunks until they end or the partition is taken away.
    ///
    /// # Errors
    /// When a record cannot be decoded or applied; what lies before it is acknowledged.
    pub async fn run(mut self) -> Result<(), ConsumerError> {
        let assignment = self.start.assignment;
        let reports = Arc::clone(&self.shared.reports);
        let _end = EndReport {
            assignment,
            reports: Arc::clone(&reports),
        };
        while let Some(mut chunk) = self.start.chunks.recv().await {
            let bytes = chunk.cost();
            let outcome = self.apply(&mut chunk).await;
            chunk.clear();
            reports.send(assignment, ReportEvent::Released { bytes, chunk });
            if outcome? == Applied::Abandoned {
                break;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, chunk: &mut Chunk) -> Result<Applied, ConsumerError> {
        if !self.start.token.is_valid() {
            return Ok(Applied::Abandoned);
        }
        let topic = self.shared.topics.get(&self.start.topic).await?;
        self.check_format(topic.format)?;
        let decoding = self.decode(chunk, topic.format);
        let done = self.apply_decoded(chunk, &topic, decoding.records).await?;
        match decoding.fault {
            Some(source) if done == Applied::Done => {
                let offset = chunk
                    .records
                    .get(decoding.records)
                    .map_or(-1, |slot| slot.offset);
                Err(ConsumerError::Undecodable {
                    place: self.place(offset),
                    source: Box::new(source),
                })
            }
            _ => Ok(done),
        }
    }

    fn check_format(&self, format: Format) -> Result<(), ConsumerError> {
        if format.is_exact() || self.shared.sink.takes_lossy() {
            return Ok(());
        }
        Err(ConsumerError::lossy(&self.start.topic, format))
    }

    fn decode(&mut self, chunk: &mut Chunk, format: Format) -> Decoding {
        self.found.clear();
        self.records.clear();
        let Chunk {
            arena,
            headers,
            records,
            ..
        } = chunk;
        for (index, slot) in records.iter().enumerate() {
            if slot.value.is_empty() {
                continue;
            }
            let oplog_id = slot.oplog_id.clone().and_then(|range| headers.get(range));
            let decoded = decode(format, slot.value.clone(), oplog_id, arena, &mut self.found);
            // Every entry of the record must be one, else none of them counts.
            let first = self.records.len();
            let decoded = decoded.and_then(|()| check_entries(&self.found, first, arena));
            if let Err(fault) = decoded {
                self.found.truncate(first);
                return Decoding {
                    records: index,
                    fault: Some(fault),
                };
            }
            self.records.resize(self.found.len(), index);
        }
        Decoding {
            records: records.len(),
            fault: None,
        }
    }

    /// Applies the first `count` records of a chunk and acknowledges them.
    async fn apply_decoded(
        &self,
        chunk: &Chunk,
        topic: &Topic,
        count: usize,
    ) -> Result<Applied, ConsumerError> {
        let metrics = &self.shared.metrics;
        let mut entries = Vec::with_capacity(self.found.len());
        for (decoded, record) in self.found.iter().zip(&self.records) {
            // Both were checked while decoding.
            let Ok(entry) = decoded.document(&chunk.arena).map(Entry::parse) else {
                continue;
            };
            let (Ok(entry), Some(slot)) = (entry, chunk.records.get(*record)) else {
                continue;
            };
            if self.passes(&entry) {
                entries.push(Located {
                    offset: slot.offset,
                    id: decoded.id,
                    entry,
                });
            } else {
                metrics.filtered.inc();
            }
        }
        let batch = Batch {
            topic: &self.start.topic,
            partition: self.start.partition,
            source: &topic.source,
            entries: &entries,
        };
        let begun = Instant::now();
        match self.shared.sink.apply(&batch, &self.start.token).await {
            Ok(Applied::Done) => {}
            Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => return Err(error),
            Err(SinkError::Entry(error)) => {
                return self.stop_before(&batch, error).await;
            }
        }
        metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        self.count(&entries);
        let last = chunk.records.get(..count).and_then(<[_]>::last);
        if let Some(slot) = last {
            let last = self.found.last().map(|decoded| decoded.id);
            self.acknowledge(NextOffset::after(slot.offset), last);
        }
        Ok(Applied::Done)
    }

    /// Applies what lies before the record of an entry that cannot be applied, then fails.
    async fn stop_before(
        &self,
        batch: &Batch<'_>,
        error: crate::plan::PlanError,
    ) -> Result<Applied, ConsumerError> {
        let offset = batch
            .entries
            .get(error.index)
            .map_or(-1, |located| located.offset);
        let before = batch
            .entries
            .iter()
            .take_while(|located| located.offset < offset)
            .count();
        let entries = batch.entries.get(..before).unwrap_or_default();
        let applied = self
            .shared
            .sink
            .apply(&Batch { entries, ..*batch }, &self.start.token)
            .await;
        match applied {
            Ok(Applied::Done) => {
                self.count(entries);
                let last = entries.last().map(|located| located.id);
                self.acknowledge(NextOffset::at(offset), last);
            }
            Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => return Err(error),
            // The entry that failed is not among these.
            Err(SinkError::Entry(_)) => {}
        }
        Err(ConsumerError::Unplayable {
            place: self.place(offset),
            source: Box::new(error),
        })
    }

    fn acknowledge(&self, next: NextOffset, last: Option<oplog_relay_core::position::EntryId>) {
        let event = ReportEvent::Acknowledged { next, last };
        self.shared.reports.send(self.start.assignment, event);
    }

    fn count(&self, entries: &[Located<'_>]) {
        let metrics = &self.shared.metrics;
        let mut counts = [0_u64; Operation::ALL.len()];
        for located in entries {
            if let Some(count) = counts.get_mut(located.entry.operation.index()) {
                *count += 1;
            }
        }
        for (operation, count) in Operation::ALL.into_iter().zip(counts) {
            metrics.count_entries(operation, count);
        }
        if let Some(last) = entries.last() {
            metrics.applied(last.entry.ts.clamp_wall(last.entry.wall));
        }
    }

    /// A command's own namespace is `db.$cmd`: its collection is in the command.
    fn passes(&self, entry: &Entry<'_>) -> bool {
        if entry.operation != Operation::Command {
            return self.shared.filter.passes(entry.ns);
        }
        let collection = entry.command().ok().and_then(|command| command.str().ok());
        let db = entry.namespace().0;
        collection.is_none_or(|collection| self.shared.filter.passes(&format!("{db}.{collection}")))
    }

    fn place(&self, offset: i64) -> RecordPlace {
        RecordPlace {
            topic: self.start.topic.clone(),
            partition: self.start.partition,
            offset,
        }
    }
}

fn check_entries(found: &[Decoded], first: usize, arena: &[u8]) -> Result<(), FormatError> {
    for decoded in found.get(first..).unwrap_or_default() {
        let document: Document<'_> = decoded.document(arena)?;
        // Damage inside would otherwise surface as a refusal by the target.
        document.validate()?;
        Entry::parse(document)?;
    }
    Ok(())
}
