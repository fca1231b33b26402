//! The tail of a change stream: a cursor that is opened again after network faults and elections.

use std::time::Duration;

use mongodb::raw_batch_cursor::RawBatch;
use oplog_relay_core::document::Document;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::resume::ResumePoint;
use oplog_relay_runtime::mongo;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc::Sender;

use super::batch::EventBatch;
use super::event::Event;
use super::reader::{Reader, Taken};
use super::token::time_of;
use super::{BATCH_EVENTS, ChangeStream, OpenAt, documents, fault};
use crate::error::ProducerError;
use crate::saved::error::SavedError;
use crate::source::error::SourceError;
use crate::source::next_reply::{NextReply, Patience, at_rest, next_reply, pass_on_empty};
use crate::source::{Batch, SourceEvent, StartAt};

/// Time without a reply after which a cursor counts as idle.
const IDLE_AFTER: Duration = Duration::from_millis(5);
/// Size at which a reply counts as full: another reply follows, however slowly.
const FULL_REPLY: usize = 4 << 20;
/// Time without a reply, not even an empty one, after which a server counts as unreachable.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Upper bound of that time after several attempts.
const MOST_SILENT: Duration = Duration::from_secs(3600);

/// The reason why a cursor is no longer followed.
enum Broken {
    /// The driver's error, after which the stream may be opened again.
    Cursor(mongodb::error::Error),
    /// An error that ends the session.
    Session(ProducerError),
}

impl From<ProducerError> for Broken {
    fn from(error: ProducerError) -> Self {
        Self::Session(error)
    }
}

/// A tail that continues after the last event that it has read.
#[derive(Debug)]
pub struct EventTail {
    stream: ChangeStream,
    reader: Reader,
    open_at: OpenAt,
    /// The logical time of the source at the previous reply.
    newest: Option<Timestamp>,
    /// True if the source has not replied since it failed.
    failed: bool,
    /// Time without a reply after which the stream is opened again.
    silent_after: Duration,
}

impl EventTail {
    /// Creates a tail at a starting point; `point` is saved with a position.
    ///
    /// # Errors
    /// [`SourceError::NoOldestEvent`] for a start at the oldest entry, which a change stream does not
    /// know; [`SavedError`] if the saved point cannot be read.
    pub fn begin(
        stream: ChangeStream,
        start: StartAt,
        point: Option<&ResumePoint>,
    ) -> Result<Self, ProducerError> {
        let before = |ts: Timestamp| Position {
            ts: ts.before(),
            term: -1,
            ord: 0,
        };
        let (position, time) = match start {
            StartAt::After(position) => (position, position.ts.after()),
            StartAt::At(ts) => (before(ts), ts),
            StartAt::Oldest | StartAt::Now => {
                return Err(SourceError::NoOldestEvent.into());
            }
        };
        let reader = Reader::new(position, point, stream.is_sharded)?;
        let token = point.map(token_of).transpose()?;
        if token.is_none() && position.ord > 0 {
            return Err(SavedError::NoToken { position }.into());
        }
        let open_at = token.map_or(OpenAt::Time(time), OpenAt::Token);
        Ok(Self {
            stream,
            reader,
            open_at,
            newest: None,
            failed: false,
            silent_after: SILENT_AFTER,
        })
    }

    /// Sends the events of the stream until the queue is closed or a shutdown is requested. `failing`
    /// is called with the reason when the source fails, and with `None` when it replies again.
    ///
    /// # Errors
    /// Errors that opening the stream again cannot fix: a lost position, missing permissions, damaged
    /// events.
    pub async fn run(
        mut self,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
        failing: impl Fn(Option<&str>),
    ) -> Result<(), ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while !shutdown.triggered() && !events.is_closed() {
            match self.follow(events, shutdown, &mut backoff, &failing).await {
                Ok(()) => {}
                Err(Broken::Session(error)) => return Err(error),
                Err(Broken::Cursor(error)) => {
                    let position = self.reader.position();
                    let error = fault::judge(error, position)?;
                    let reason = mongo::error_text(&error);
                    tracing::warn!(
                        reason,
                        %position,
                        "the source failed; the change stream is opened again"
                    );
                    self.failed = true;
                    failing(Some(&reason));
                    if !backoff.sleep(shutdown).await {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows one cursor, from opening to its end.
    async fn follow(
        &mut self,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
        failing: &impl Fn(Option<&str>),
    ) -> Result<(), Broken> {
        self.reader.reopened();
        let opening = self.stream.open(&self.open_at);
        let Some(cursor) = shutdown.unless(opening).await else {
            return Ok(());
        };
        let mut cursor = cursor.map_err(Broken::Cursor)?;
        let (mut is_idle_sent, mut is_first) = (false, true);
        loop {
            let patience = Patience {
                idle_after: IDLE_AFTER,
                silent_after: self.silent_after,
            };
            let next = next_reply(&mut cursor, patience, &mut is_idle_sent, events);
            let Some(next) = shutdown.unless(next).await else {
                return Ok(());
            };
            let reply = match next {
                NextReply::Reply(reply) => reply,
                NextReply::Failed(error) => return Err(Broken::Cursor(error)),
                NextReply::Silence => {
                    self.note_silence(failing);
                    return Ok(());
                }
                NextReply::Closed => return Ok(()),
                // An `invalidate` ends the cursor. The stream continues after its token.
                NextReply::End => {
                    backoff.sleep(shutdown).await;
                    return Ok(());
                }
            };
            if std::mem::replace(&mut self.failed, false) {
                failing(None);
            }
            let Some(reply) = self.read(reply, events).await? else {
                return Ok(());
            };
            // The first reply is that of opening the stream, which may work although no `getMore` does.
            if !std::mem::replace(&mut is_first, false) {
                backoff.reset();
                self.silent_after = SILENT_AFTER;
            }
            is_idle_sent = !reply.is_full;
            if !self.pass_on(reply, events).await {
                return Ok(());
            }
        }
    }

    /// Sends what a reply contained. Returns false if the queue is closed.
    async fn pass_on(&self, reply: ReadReply, events: &Sender<SourceEvent>) -> bool {
        let has_news = !reply.batch.is_empty();
        if has_news && events.send(SourceEvent::Events(reply.batch)).await.is_err() {
            return false;
        }
        if reply.is_full {
            return true;
        }
        match has_news {
            true => events.send(at_rest(reply.is_caught_up)).await.is_ok(),
            false => pass_on_empty(reply.is_caught_up, events),
        }
    }

    /// Notes that the server has not replied for too long. The next wait is twice as long: a server
    /// does not reply while it scans its oplog for the first event that the stream may contain.
    fn note_silence(&mut self, failing: &impl Fn(Option<&str>)) {
        self.silent_after = self.silent_after.saturating_mul(2).min(MOST_SILENT);
        let reason = "the source does not respond; the change stream is opened again";
        tracing::warn!(reason);
        self.failed = true;
        failing(Some(reason));
    }

    /// Converts the events of a reply. Sends the entries early whenever they reach [`FULL_REPLY`],
    /// because lookups may make them much larger than the events. Returns `None` if the queue is
    /// closed.
    async fn read(
        &mut self,
        reply: RawBatch,
        events: &Sender<SourceEvent>,
    ) -> Result<Option<ReadReply>, ProducerError> {
        let reply = Batch::Reply(reply);
        let mut batch = self.reader.batch();
        let mut joined = Vec::new();
        let mut count = 0;
        for document in reply.documents()? {
            let document = document.map_err(ProducerError::undecodable)?;
            count += 1;
            let taken = self.reader.take(document, &mut joined, &mut batch)?;
            if !matches!(taken, Taken::Entry | Taken::Nothing) {
                let document = match joined.is_empty() {
                    true => document,
                    false => Document::new(&joined).map_err(ProducerError::undecodable)?,
                };
                let event = Event::read(document)?;
                match taken {
                    Taken::Locate => self.locate(&event, &mut batch).await?,
                    _ => self.look_up(&event, &mut batch).await?,
                }
            }
            joined.clear();
            if batch.size() >= FULL_REPLY {
                self.note_open_at(&batch)?;
                let full = std::mem::replace(&mut batch, self.reader.batch());
                if events.send(SourceEvent::Events(full)).await.is_err() {
                    return Ok(None);
                }
            }
        }
        let token = reply.resume_token().map_err(ProducerError::undecodable)?;
        if let Some(token) = token {
            self.reader.reach(token, &mut batch);
        }
        let marked = token.and_then(time_of);
        let is_caught_up = count == 0 && self.newest.is_some() && marked >= self.newest;
        self.newest = reply.operation_time().map_err(ProducerError::undecodable)?;
        self.note_open_at(&batch)?;
        Ok(Some(ReadReply {
            batch,
            is_full: count >= BATCH_EVENTS || reply.size() >= FULL_REPLY,
            is_caught_up,
        }))
    }

    /// Notes the token after which the stream is opened again.
    fn note_open_at(&mut self, batch: &EventBatch) -> Result<(), ProducerError> {
        if let Some(reading) = batch.high_water()? {
            self.open_at = OpenAt::Token(reading.point.token.as_bytes().to_vec());
        } else if let Some(last) = batch.iter().last() {
            self.open_at = OpenAt::Token(last?.point.token.as_bytes().to_vec());
        }
        Ok(())
    }

    /// Asks the source whether the document of a delete still exists. If so, it is at another
    /// place, or was inserted again, and the event of that insert replaces it on the target. Its
    /// document key is not compared: the key before the move may be a part of the key after it.
    async fn locate(
        &mut self,
        event: &Event<'_>,
        batch: &mut EventBatch,
    ) -> Result<(), ProducerError> {
        let found = documents::find(&self.stream.source, event).await?;
        let still_exists = found.document.is_some();
        self.reader.carry_delete(event, still_exists, batch)?;
        Ok(())
    }

    async fn look_up(
        &mut self,
        event: &Event<'_>,
        batch: &mut EventBatch,
    ) -> Result<(), ProducerError> {
        let found = documents::find(&self.stream.source, event).await?;
        let document = found.document.as_deref().map(Document::new).transpose();
        let document = document.map_err(ProducerError::undecodable)?;
        if document.is_none() {
            tracing::warn!(
                ns = event.ns(),
                at = %event.time,
                "an update is skipped: its description is ambiguous, and its collection no longer has the \
                 document. If the document was deleted, a later event removes it; if the collection was \
                 renamed since, verify the renamed collection"
            );
        }
        self.reader.carry(event, document, found.at, batch)?;
        Ok(())
    }
}

/// A reply that was read.
struct ReadReply {
    batch: EventBatch,
    /// True if another reply follows.
    is_full: bool,
    /// True if everything that the source had at the previous reply was read.
    is_caught_up: bool,
}

fn token_of(point: &ResumePoint) -> Result<Vec<u8>, ProducerError> {
    let token = point.token();
    token.map_err(|error| {
        let reason = error.to_string();
        SavedError::ResumePoint { reason }.into()
    })
}
