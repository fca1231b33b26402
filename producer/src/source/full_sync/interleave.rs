//! The interleaving of the tail and the reads of a full sync into one order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mongodb::raw_batch_cursor::RawBatch;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::Document;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{CopyKind, CopyStage};
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use super::FullSync;
use super::copies::Copy;
use super::range::{Id, split};
use super::reader::SourceReader;
use super::requests::ReadRequests;
use crate::error::ProducerError;
use crate::source::oplog::position_of;
use crate::source::{Batch, Copied, Save, SourceEvent, Work};

/// Maximum duration of a turn of the tail while it has further entries.
const TAIL_TURN: Duration = Duration::from_secs(3);
/// Maximum duration of a turn of reads while the tail waits.
const READ_TURN: Duration = Duration::from_secs(1);
/// Interval at which a task that reads requests is checked while no entries arrive.
const READING_CHECK: Duration = Duration::from_millis(50);
/// Approximate number of bytes of a range.
const RANGE_BYTES: u64 = 64 << 20;
/// Maximum number of ranges of a collection.
const MOST_RANGES: u64 = 256;
/// Minimum number of documents per range if a collection is split only to occupy all readers.
const RANGE_DOCUMENTS: u64 = 1_000;
/// Number of samples per range.
const SAMPLES: u32 = 20;

/// The interleaving of the tail and the reads of a full sync.
#[derive(Debug)]
pub struct Interleaving {
    pub(crate) sync: FullSync,
    tail: Receiver<SourceEvent>,
    /// The tail's event that arrived during a read.
    next: Option<SourceEvent>,
    events: Sender<SourceEvent>,
    pub(crate) shutdown: Shutdown,
    /// True if the tail has no further entries.
    is_idle: bool,
    /// The earliest time of the next read that the rate limit allows.
    next_read: Instant,
    pub(crate) last_check: Instant,
    /// The task that reads the requests, while it runs.
    pub(crate) reading: JoinSet<ReadRequests>,
    /// Requests whose copies are planned.
    pub(crate) planned: BTreeSet<String>,
}

/// A read to be made.
struct Read {
    key: String,
    number: u32,
    ns: String,
    ui: Option<CollectionUuid>,
    query: Vec<u8>,
    filter: Option<Vec<u8>>,
    limit: u32,
}

/// The result of a read.
struct Found {
    read: Read,
    batch: Option<RawBatch>,
    captured_at: i64,
    /// The collection's name after the read.
    name: Option<String>,
}

impl Interleaving {
    /// Interleaves the tail's events and those of a full sync into `events`.
    #[must_use]
    pub fn new(
        sync: FullSync,
        tail: Receiver<SourceEvent>,
        events: Sender<SourceEvent>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            sync,
            tail,
            events,
            shutdown,
            next: None,
            is_idle: false,
            next_read: Instant::now(),
            last_check: Instant::now(),
            reading: JoinSet::new(),
            planned: BTreeSet::new(),
        }
    }

    /// Runs until the tail ends, the queue is closed or a shutdown is requested.
    ///
    /// # Errors
    /// The errors of the source.
    pub async fn run(mut self) -> Result<(), ProducerError> {
        match self.work().await {
            Err(ProducerError::Interrupted) => Ok(()),
            outcome => outcome,
        }
    }

    async fn work(&mut self) -> Result<(), ProducerError> {
        self.begin().await?;
        let mut is_end_sent = false;
        loop {
            if self.sync.copies.is_empty() {
                self.sync.metrics.full_sync.done();
                if self.sync.options.ends && !std::mem::replace(&mut is_end_sent, true) {
                    self.send(SourceEvent::End).await?;
                }
                self.follow().await?;
            }
            self.check_requests().await?;
            self.tail_turn(None).await?;
            self.determine_names().await?;
            self.create().await?;
            self.read_capped().await?;
            self.read_turn().await?;
            self.finish().await?;
            // While the source is idle, a whole turn may pass without a wait that notices a shutdown.
            if self.shutdown.triggered() {
                return Err(ProducerError::Interrupted);
            }
        }
    }

    /// Saves the plan, and creates the collections before the tail starts: their names are those at the
    /// start position.
    async fn begin(&mut self) -> Result<(), ProducerError> {
        if self.sync.is_new {
            let saves = self.sync.copies.iter().map(Copy::save).collect();
            self.send_saves(saves).await?;
            self.send(SourceEvent::Idle).await?;
            // Topics are created only after this is committed: with data topics but no saved
            // position, the next start would be refused.
            while self.sync.metrics.position().is_none() {
                if self.events.is_closed() || self.shutdown.triggered() {
                    return Err(ProducerError::Interrupted);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let planned = |copy: &Copy| copy.record.stage == CopyStage::Planned;
        let first = self
            .sync
            .copies
            .keys_of(|copy| planned(copy) && !copy.record.requested);
        for key in first {
            self.create_one(&key).await?;
        }
        for copy in self.sync.copies.iter() {
            self.sync.metrics.full_sync.update(&copy.record);
        }
        // The remaining operations of the entry at the position come first.
        while self.sync.position.ord > 0 {
            let event = next_event(&mut self.next, &mut self.tail).await;
            self.pass_on(event.ok_or(ProducerError::Interrupted)?)
                .await?;
        }
        Ok(())
    }

    fn has_tail_events(&self) -> bool {
        self.next.is_some() || !self.tail.is_empty()
    }

    /// Passes on the events of the tail until a copy is requested.
    async fn follow(&mut self) -> Result<(), ProducerError> {
        while self.sync.copies.is_empty() {
            // Requests that a task has read are planned soon, even if no entry follows.
            let wait = match self.reading.is_empty() {
                true => self.sync.options.check_every,
                false => READING_CHECK,
            };
            tokio::select! {
                event = next_event(&mut self.next, &mut self.tail) => {
                    self.pass_on(event.ok_or(ProducerError::Interrupted)?).await?;
                }
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.wait() => return Err(ProducerError::Interrupted),
            }
            self.check_requests().await?;
        }
        Ok(())
    }

    /// Passes on the events of the tail until it has no further entries, for a limited time; with a
    /// goal, until the goal is reached.
    pub(crate) async fn tail_turn(&mut self, goal: Option<Timestamp>) -> Result<(), ProducerError> {
        let end = tokio::time::Instant::now() + TAIL_TURN;
        loop {
            let over = match goal {
                Some(goal) => self.sync.position.ts >= goal,
                None => self.is_idle && !self.has_tail_events(),
            };
            if over {
                return Ok(());
            }
            let event = tokio::select! {
                biased;
                () = self.shutdown.wait() => None,
                () = tokio::time::sleep_until(end), if goal.is_none() => return Ok(()),
                event = next_event(&mut self.next, &mut self.tail) => event,
            };
            self.pass_on(event.ok_or(ProducerError::Interrupted)?)
                .await?;
        }
    }

    /// Passes on the events of the tail up to the newest entry that the source has now.
    pub(crate) async fn tail_past_now(&mut self) -> Result<(), ProducerError> {
        let newest = self.sync.source.newest().await?;
        match newest {
            Some(newest) => self.tail_turn(Some(newest.ts)).await,
            None => Ok(()),
        }
    }

    async fn pass_on(&mut self, event: SourceEvent) -> Result<(), ProducerError> {
        match &event {
            SourceEvent::Batch(batch) => {
                self.is_idle = false;
                if let Some(last) = last_of(batch)? {
                    self.sync.position = last;
                }
            }
            SourceEvent::Idle | SourceEvent::CaughtUp => self.is_idle = true,
            // No full sync runs beside a change stream.
            SourceEvent::Events(_)
            | SourceEvent::Earlier(_)
            | SourceEvent::Copied(_)
            | SourceEvent::End => {}
        }
        self.send(event).await
    }

    pub(crate) async fn send(&self, event: SourceEvent) -> Result<(), ProducerError> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| ProducerError::Interrupted)
    }

    pub(crate) async fn send_saves(&self, saves: Vec<Save>) -> Result<(), ProducerError> {
        let copied = Copied {
            ns: String::new(),
            ui: None,
            captured_at: now_ms(),
            work: Work::Nothing,
            saves,
            holds_indexes: None,
        };
        self.send(SourceEvent::Copied(Box::new(copied))).await
    }

    /// Ends the copy of a collection that no longer exists: the tail contains its drop.
    pub(crate) async fn close(&mut self, key: &str) -> Result<(), ProducerError> {
        let Some(copy) = self.sync.copies.remove(key) else {
            return Ok(());
        };
        tracing::info!(
            ns = copy.record.ns,
            "the collection no longer exists, so nothing is left to copy"
        );
        self.sync.metrics.full_sync.finished(&copy.record);
        let copied = Copied {
            ns: copy.record.ns.clone(),
            ui: copy.ui,
            captured_at: now_ms(),
            work: Work::Nothing,
            saves: copy.close(),
            holds_indexes: Some(false),
        };
        self.send(SourceEvent::Copied(Box::new(copied))).await
    }

    /// Reads documents while the tail waits.
    async fn read_turn(&mut self) -> Result<(), ProducerError> {
        let begun = Instant::now();
        let from = self.sync.position.ts;
        let mut open: JoinSet<Result<Found, ProducerError>> = JoinSet::new();
        loop {
            let over = begun.elapsed() >= READ_TURN && self.has_tail_events();
            let mut waits = false;
            while !over && !self.shutdown.triggered() && open.len() < self.sync.options.readers {
                waits = self.next_read > Instant::now();
                if waits {
                    break;
                }
                let Some(read) = self.next_range(from).await? else {
                    break;
                };
                let source = self.sync.source.clone();
                open.spawn(read.make(source, from).in_current_span());
            }
            let Some(found) = self.next_found(&mut open).await? else {
                return if waits {
                    self.wait_for_rate().await
                } else {
                    Ok(())
                };
            };
            let found =
                found.map_err(|_| ProducerError::Ended("a task of the full sync ended"))??;
            self.take(found).await?;
        }
    }

    /// Returns the next read that completes; `None` if no read is in progress. The tail may deliver one
    /// batch in the meantime. Its idle events are consumed, so that they do not block that batch.
    async fn next_found(
        &mut self,
        open: &mut JoinSet<Result<Found, ProducerError>>,
    ) -> Result<Option<Result<Result<Found, ProducerError>, JoinError>>, ProducerError> {
        loop {
            let event = tokio::select! {
                biased;
                found = open.join_next() => return Ok(found),
                event = self.tail.recv(), if self.next.is_none() => event,
            };
            match event.ok_or(ProducerError::Interrupted)? {
                SourceEvent::Idle | SourceEvent::CaughtUp => self.is_idle = true,
                event => self.next = Some(event),
            }
        }
    }

    /// Waits until the rate limit allows the next read, or the tail has an event.
    async fn wait_for_rate(&mut self) -> Result<(), ProducerError> {
        tokio::select! {
            () = tokio::time::sleep_until(self.next_read.into()) => Ok(()),
            () = self.shutdown.wait() => Err(ProducerError::Interrupted),
            event = next_event(&mut self.next, &mut self.tail) => {
                self.pass_on(event.ok_or(ProducerError::Interrupted)?).await
            }
        }
    }

    /// Returns the next range that is not being read, of the largest collection first.
    async fn next_range(&mut self, from: Timestamp) -> Result<Option<Read>, ProducerError> {
        loop {
            let ready = |copy: &&Copy| copy.is_named && copy.record.kind == CopyKind::Collection;
            let unsplit = |copy: &Copy| copy.record.stage == CopyStage::Created;
            let free = |copy: &Copy| copy.ranges.len() > copy.busy.len();
            let mut copies = self.sync.copies.iter().filter(ready);
            let Some(copy) = copies.find(|copy| unsplit(copy) || free(copy)) else {
                return Ok(None);
            };
            let key = copy.key.clone();
            if unsplit(copy) {
                self.split(&key, from).await?;
                continue;
            }
            let Some(copy) = self.sync.copies.get_mut(&key) else {
                return Ok(None);
            };
            let mut ranges = copy.ranges.iter();
            let Some((number, range)) = ranges.find(|(number, _)| !copy.busy.contains(*number))
            else {
                return Ok(None);
            };
            let read = Read {
                key,
                number: *number,
                ns: copy.record.ns.clone(),
                ui: copy.ui,
                query: range.query(),
                filter: copy.filter.clone(),
                limit: copy.limit,
            };
            copy.busy.insert(read.number);
            return Ok(Some(read));
        }
    }

    /// Splits a collection into ranges and saves them.
    async fn split(&mut self, key: &str, from: Timestamp) -> Result<(), ProducerError> {
        let Some(copy) = self.sync.copies.get_mut(key) else {
            return Ok(());
        };
        let (ns, record) = (copy.record.ns.clone(), &copy.record);
        let readers =
            u64::try_from(self.sync.options.readers).expect("a count has at most 64 bits");
        let parts = (record.expected_bytes / RANGE_BYTES)
            .max((record.expected_documents / RANGE_DOCUMENTS).min(readers))
            .clamp(1, MOST_RANGES);
        let smallest = self.sync.source.smallest(&ns, from).await?;
        let samples = match u32::try_from(parts).expect("the number of ranges is limited") {
            1 => Vec::new(),
            parts => self.sync.source.sample(&ns, from, parts * SAMPLES).await?,
        };
        let ranges = split(
            &smallest,
            samples,
            usize::try_from(parts).expect("the number of ranges is limited"),
        );
        tracing::debug!(
            ns,
            ranges = ranges.len(),
            "the collection was split into ranges"
        );
        let Some(copy) = self.sync.copies.get_mut(key) else {
            return Ok(());
        };
        copy.record.stage = CopyStage::Reading;
        copy.ranges = (0..).zip(ranges).collect();
        let mut saves = vec![copy.save()];
        saves.extend(copy.ranges.keys().map(|number| copy.save_range(*number)));
        self.send_saves(saves).await
    }

    /// Sends the documents of a read, unless the collection was renamed since.
    async fn take(&mut self, found: Found) -> Result<(), ProducerError> {
        let Found { read, batch, .. } = found;
        let Some(copy) = self.sync.copies.get_mut(&read.key) else {
            return Ok(());
        };
        copy.busy.remove(&read.number);
        match found.name {
            None => return self.close(&read.key).await,
            Some(name) if name != read.ns => {
                copy.is_named = false;
                return Ok(());
            }
            Some(_) => {}
        }
        let batch = batch.map(Batch::Reply);
        let contents = batch
            .as_ref()
            .map(contents_of)
            .transpose()?
            .unwrap_or_default();
        copy.count(contents.documents, contents.bytes);
        let cut = contents.documents >= u64::from(read.limit) || contents.is_cut;
        let range = copy.ranges.get_mut(&read.number);
        let continues = match (range, contents.last) {
            (Some(range), Some(last)) => range.advance(last) && cut,
            _ => false,
        };
        if !continues {
            copy.ranges.remove(&read.number);
        }
        let saves = vec![copy.save_range(read.number), copy.save()];
        self.sync.metrics.full_sync.update(&copy.record);
        self.pace(contents.bytes);
        let copied = Copied {
            ns: read.ns,
            ui: read.ui,
            captured_at: found.captured_at,
            work: batch.map_or(Work::Nothing, Work::Documents),
            saves,
            holds_indexes: None,
        };
        self.send(SourceEvent::Copied(Box::new(copied))).await
    }

    fn pace(&mut self, bytes: u64) {
        if let Some(rate) = self.sync.options.rate {
            let took = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
            self.next_read = self.next_read.max(Instant::now()) + took;
        }
    }
}

/// Returns the event that arrived during a read, otherwise the next one of the tail.
async fn next_event(
    next: &mut Option<SourceEvent>,
    tail: &mut Receiver<SourceEvent>,
) -> Option<SourceEvent> {
    match next.take() {
        Some(event) => Some(event),
        None => tail.recv().await,
    }
}

impl Read {
    async fn make(self, source: SourceReader, from: Timestamp) -> Result<Found, ProducerError> {
        let filter = self.filter.as_deref();
        let batch = source
            .documents(&self.ns, &self.query, filter, self.limit, from)
            .await?;
        let captured_at = now_ms();
        let listed = source.find(&self.ns, self.ui).await?;
        Ok(Found {
            read: self,
            batch,
            captured_at,
            name: listed.map(|listed| listed.ns),
        })
    }
}

/// The contents of a reply.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    /// True if the reply had no room for more documents.
    is_cut: bool,
    last: Option<Id>,
}

pub(crate) fn contents_of(batch: &Batch) -> Result<Contents, ProducerError> {
    let mut contents = Contents {
        is_cut: batch.is_cut()?,
        ..Contents::default()
    };
    let mut last: Option<Document<'_>> = None;
    for document in batch.documents()? {
        let document = document.map_err(ProducerError::undecodable)?;
        contents.documents += 1;
        contents.bytes += document.as_bytes().len() as u64;
        last = Some(document);
    }
    contents.last = last
        .map(Id::of)
        .transpose()
        .map_err(ProducerError::undecodable)?;
    Ok(contents)
}

fn last_of(batch: &Batch) -> Result<Option<Position>, ProducerError> {
    let mut last = None;
    for document in batch.documents()? {
        last = Some(document.map_err(ProducerError::undecodable)?);
    }
    last.map(|last| position_of(last.as_bytes())).transpose()
}
