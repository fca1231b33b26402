//! Tails `local.oplog.rs` of a replica-set member, also through a port-forward.
//!
//! Reads only: one `find` and its `getMore`s on the oplog, single entries of transactions by their
//! time, and at start `hello` and a few reads in `local`. Nothing that a managed service refuses, and nothing is written.

use std::sync::Once;
use std::time::Duration;

use bson::{Document as Bson, RawDocumentBuf, Timestamp as BsonTimestamp, doc};
use futures_util::StreamExt;
use mongodb::options::{CursorType, FindOneOptions, FindOptions, ReadConcern};
use mongodb::raw_batch_cursor::RawBatchCursor;
use mongodb::{Client, Collection};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::runtime::mongo::{self, ANSWER, in_time};
use oplog_relay_core::runtime::retry::Backoff;
use oplog_relay_core::runtime::shutdown::Shutdown;
use tokio::sync::mpsc::Sender;

use crate::error::{Gap, PositionLost, ProducerError};
use crate::source::{Batch, SourceEvent, StartAt};
use crate::transaction::{Link, OpTime};

/// How long a `getMore` waits at the server for the next entry.
const AWAIT: Duration = Duration::from_secs(1);
/// A new cursor has nothing if it is silent for that long.
const IDLE_AFTER: Duration = Duration::from_millis(5);
/// Entries per reply at most; a reply is cut at 16 MB in any case. Enough that the way to the server
/// counts for little, few enough that most replies stay in the processor's cache.
const BATCH_ENTRIES: u32 = 5_000;
/// A reply of that size, or of that many entries, was cut: the next one is on its way, however
/// slowly. A smaller one is all that there was.
const FULL_REPLY: usize = 4 << 20;
/// A server that answers nothing for that long, not even an empty batch, counts as gone.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// A FerretDB reads its whole oplog for an entry of some time.
const SCAN: Duration = Duration::from_secs(600);
/// Said once: a full sync asks often.
static WARNED: Once = Once::new();

/// The oplog of one replica set.
#[derive(Debug, Clone)]
pub struct Oplog {
    entries: Collection<RawDocumentBuf>,
}

impl Oplog {
    /// The oplog that a client reaches. Nothing is sent yet.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            entries: client.database("local").collection("oplog.rs"),
        }
    }

    /// Checks that there is an oplog.
    ///
    /// # Errors
    /// [`ProducerError::Usage`] that says how to get one.
    pub async fn check(client: &Client) -> Result<(), ProducerError> {
        let database = client.database("local");
        let listed = database
            .list_collection_names()
            .filter(doc! { "name": "oplog.rs" });
        let names = in_time(ANSWER, listed).await;
        let names = names.map_err(ProducerError::Source)?;
        if names.is_empty() {
            return Err(ProducerError::Usage(
                "the source has no oplog (local.oplog.rs): it is a standalone server. Make it a \
                 replica set of one: start mongod with --replSet rs0 and run rs.initiate() once; \
                 no other change is needed"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Time and term of the oldest entry.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; a read that a truncation overtook (136) is tried again a few times,
    /// and then by the next session.
    pub async fn oldest(&self) -> Result<Option<Position>, ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
        loop {
            match self.end(1).await {
                Err(error) if mongo::is_truncated(&error) && backoff.attempts() < 4 => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return self.header(result.map_err(ProducerError::Source)?),
            }
        }
    }

    /// Time and term of the newest entry. A reverse scan does not stop before holes: this is a
    /// hint where to stop or begin, never a saved position.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        let found = self.end(-1).await.map_err(ProducerError::Source)?;
        self.header(found)
    }

    async fn end(&self, direction: i32) -> mongodb::error::Result<Option<RawDocumentBuf>> {
        let found = self.entries.find_one(doc! {});
        let found = match direction {
            // Natural order is that of a plain read; FerretDB reads a whole oplog to sort it so.
            1 => found,
            _ => found.sort(doc! { "$natural": direction }),
        };
        let limit = if direction == 1 { ANSWER } else { SCAN };
        in_time(limit, found).await
    }

    fn header(&self, found: Option<RawDocumentBuf>) -> Result<Option<Position>, ProducerError> {
        found.map(|raw| position_of(raw.as_bytes())).transpose()
    }

    /// What the walk back along a transaction needs of the entry at an optime: its operations stay
    /// at the server. `None` if the entry is gone, or another one stands there.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`ProducerError::Behind`] if the oplog begins before it.
    pub async fn link(&self, at: OpTime) -> Result<Option<Link>, ProducerError> {
        let fields = Link::FIELDS.map(|field| (field.to_owned(), 1.into()));
        let projection = [("_id".to_owned(), 0.into())].into_iter().chain(fields);
        let Some(found) = self.find_at(at, Some(projection.collect())).await? else {
            return Ok(None);
        };
        let document = Document::new(found.as_bytes()).map_err(ProducerError::undecodable)?;
        let link = Link::read(document).map_err(ProducerError::undecodable)?;
        Ok((link.at == at).then_some(link))
    }

    /// The bytes of the entry at an optime. `None` as with [`Oplog::link`].
    ///
    /// # Errors
    /// As [`Oplog::link`].
    pub async fn entry(&self, at: OpTime) -> Result<Option<Vec<u8>>, ProducerError> {
        let Some(found) = self.find_at(at, None).await? else {
            return Ok(None);
        };
        let Position { ts, term, .. } = position_of(found.as_bytes())?;
        Ok((OpTime { ts, term } == at).then(|| found.into_bytes()))
    }

    async fn find_at(
        &self,
        at: OpTime,
        projection: Option<Bson>,
    ) -> Result<Option<RawDocumentBuf>, ProducerError> {
        let options = FindOneOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(projection)
            .build();
        let filter = doc! { "ts": bson_timestamp(at.ts) };
        let found = self.entries.find_one(filter).with_options(options);
        let found = in_time(SCAN, found).await;
        let found = found.map_err(ProducerError::Source)?;
        // Another member than the tail's may have been asked, and lag behind it.
        if found.is_none() && self.oldest().await?.is_none_or(|oldest| oldest.ts <= at.ts) {
            return Err(ProducerError::Behind(at.ts));
        }
        Ok(found)
    }

    async fn open(&self, from: Timestamp) -> Result<RawBatchCursor, ProducerError> {
        let options = FindOptions::builder()
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(AWAIT)
            .batch_size(BATCH_ENTRIES)
            .read_concern(ReadConcern::majority())
            .build();
        let found = self
            .entries
            .find(at_or_after(from))
            .with_options(options)
            .batch();
        let found = in_time(SCAN, found).await;
        found.map_err(ProducerError::Source)
    }
}

/// The newest entry that a majority has; where the server does not tell, the newest entry.
///
/// # Errors
/// [`ProducerError::Source`].
pub async fn newest_of_majority(client: &Client) -> Result<Option<Position>, ProducerError> {
    let hello = mongo::hello(client).await.map_err(ProducerError::Source)?;
    match hello.last_majority_write {
        Some((seconds, increment, term)) => {
            let ts = Timestamp::new(seconds, increment);
            Ok(Some(Position { ts, term, ord: 0 }))
        }
        None => {
            WARNED.call_once(|| {
                tracing::warn!(
                    "the source does not tell its majority commit point; the newest entry is \
                     taken for it"
                );
            });
            Oplog::new(client).newest().await
        }
    }
}

fn at_or_after(from: Timestamp) -> Bson {
    doc! { "ts": { "$gte": bson_timestamp(from) } }
}

const fn bson_timestamp(ts: Timestamp) -> BsonTimestamp {
    BsonTimestamp {
        time: ts.seconds,
        increment: ts.increment,
    }
}

/// Reads time and term from an entry's bytes.
pub(super) fn position_of(bytes: &[u8]) -> Result<Position, ProducerError> {
    let document = Document::new(bytes).map_err(ProducerError::undecodable)?;
    let entry = Entry::parse(document)?;
    Ok(Position {
        ts: entry.ts,
        term: entry.term,
        ord: 0,
    })
}

/// A tail that goes on over network faults and elections, from the last entry it fetched.
#[derive(Debug)]
pub struct Tail {
    oplog: Oplog,
    /// The entry that the next cursor must find first.
    after: Option<Position>,
    from: Timestamp,
    /// Whether an entry at `from` itself is wanted.
    inclusive: bool,
    /// Whether the source has not answered since it failed.
    failed: bool,
}

impl Tail {
    /// Resolves where to begin.
    ///
    /// # Errors
    /// [`ProducerError::PositionLost`] if the oplog begins later; [`ProducerError::Source`].
    pub async fn begin(oplog: Oplog, start: StartAt) -> Result<Self, ProducerError> {
        let (after, from, inclusive) = match start {
            // With an ordinal the entry itself is not done: a part of its operations is to come.
            StartAt::After(position) => (Some(position), position.ts, position.ord > 0),
            StartAt::Oldest => (None, Timestamp::default(), true),
            StartAt::At(ts) => (None, ts, true),
            // Resolved by the session, which saves the position that it means.
            StartAt::Now => (None, Timestamp::default(), true),
        };
        let tail = Self {
            oplog,
            after,
            from,
            inclusive,
            failed: false,
        };
        if let StartAt::After(_) | StartAt::At(_) = start {
            tail.check_not_rolled_over().await?;
        }
        Ok(tail)
    }

    async fn check_not_rolled_over(&self) -> Result<(), ProducerError> {
        let Some(oldest) = self.oplog.oldest().await? else {
            return Ok(());
        };
        if oldest.ts <= self.from {
            return Ok(());
        }
        let wanted = Position {
            ts: self.from,
            term: -1,
            ord: 0,
        };
        Err(Box::new(PositionLost::RolledOver {
            checkpoint: self.after.unwrap_or(wanted),
            oldest: oldest.ts,
            gap: Gap::between(self.from, oldest.ts),
        })
        .into())
    }

    /// Sends what the oplog gives until the queue closes or the shutdown comes. `failing` is told why
    /// when the source fails, and `None` when it answers again.
    ///
    /// # Errors
    /// What no retry mends: a lost position, missing rights, damaged entries.
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
                Err(ProducerError::Source(error)) => {
                    if mongo::is_truncated(&error) {
                        self.check_not_rolled_over().await?;
                    } else if !mongo::is_transient(&error) && !mongo::is_cursor_gone(&error) {
                        return Err(ProducerError::Source(error));
                    }
                    tracing::warn!(%error, from = %self.from, "the source failed, the tail opens again");
                    self.failed = true;
                    failing(Some(&error.to_string()));
                    if !backoff.sleep(shutdown).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One cursor, from opening to its end.
    async fn follow(
        &mut self,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
        failing: &impl Fn(Option<&str>),
    ) -> Result<(), ProducerError> {
        let mut cursor = self.oplog.open(self.from).await?;
        let mut first = true;
        let mut told_idle = false;
        let mut told_caught_up = false;
        loop {
            let idle_after = if first { IDLE_AFTER } else { AWAIT };
            let next = cursor.next();
            tokio::pin!(next);
            let batch = loop {
                tokio::select! {
                    biased;
                    batch = &mut next => break batch,
                    () = shutdown.wait() => return Ok(()),
                    () = tokio::time::sleep(SILENT_AFTER), if told_idle => {
                        let reason = "the source is silent, the tail opens again";
                        tracing::warn!(reason);
                        self.failed = true;
                        failing(Some(reason));
                        return Ok(());
                    }
                    () = tokio::time::sleep(idle_after), if !told_idle => {
                        told_idle = true;
                        if events.send(SourceEvent::Idle).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            };
            let Some(batch) = batch else {
                // The server closed the cursor: an empty oplog, or one that was dropped.
                return self.reopen(backoff, shutdown).await;
            };
            let batch = Batch::Reply(batch.map_err(ProducerError::Source)?);
            if std::mem::replace(&mut self.failed, false) {
                failing(None);
            }
            let Some((batch, last, is_full)) = self.take(batch, first).await? else {
                if !std::mem::replace(&mut told_caught_up, true)
                    && events.send(SourceEvent::CaughtUp).await.is_err()
                {
                    return Ok(());
                }
                continue;
            };
            first = false;
            // Under a steady load every reply has something, so a cursor is never silent.
            told_idle = !is_full;
            told_caught_up = false;
            backoff.reset();
            self.after = Some(last);
            self.from = last.ts;
            self.inclusive = false;
            if events.send(SourceEvent::Batch(batch)).await.is_err()
                || (told_idle && events.send(SourceEvent::Idle).await.is_err())
            {
                return Ok(());
            }
        }
    }

    async fn reopen(
        &self,
        backoff: &mut Backoff,
        shutdown: &Shutdown,
    ) -> Result<(), ProducerError> {
        if self.after.is_some() {
            self.check_not_rolled_over().await?;
        }
        backoff.sleep(shutdown).await;
        Ok(())
    }

    /// Checks the first batch of a cursor against the position, cuts off what was fetched before,
    /// and says where the batch ends, and whether the reply was cut. `None` for an empty batch.
    async fn take(
        &self,
        batch: Batch,
        first: bool,
    ) -> Result<Option<(Batch, Position, bool)>, ProducerError> {
        let (mut ends, mut count) = (None, 0);
        for document in batch.documents()? {
            let document = document.map_err(ProducerError::undecodable)?;
            count += 1;
            ends = Some(match ends {
                None => (document, document),
                Some((begin, _)) => (begin, document),
            });
        }
        let is_full = batch.size() >= FULL_REPLY || count >= BATCH_ENTRIES;
        let Some((begin, end)) = ends else {
            return Ok(None);
        };
        let last = position_of(end.as_bytes())?;
        if !first {
            return Ok(Some((batch, last, is_full)));
        }
        let found = position_of(begin.as_bytes())?;
        if let Some(wanted) = self.after
            && (wanted.ts, wanted.term) != (found.ts, found.term)
        {
            self.check_not_rolled_over().await?;
            let oldest = self
                .oplog
                .oldest()
                .await?
                .map_or(found.ts, |oldest| oldest.ts);
            let lost = PositionLost::RolledBack {
                checkpoint: wanted,
                found,
                oldest,
            };
            return Err(Box::new(lost).into());
        }
        let known = self.after.map_or(self.from, |after| after.ts);
        if self.inclusive || found.ts > known {
            return Ok(Some((batch, last, is_full)));
        }
        // The entry at the position itself is done: what follows it is copied once per cursor.
        let mut rest = Vec::new();
        for document in batch.documents()?.skip(1) {
            rest.extend_from_slice(document.map_err(ProducerError::undecodable)?.as_bytes());
        }
        Ok(Some((Batch::Bytes(rest), last, is_full)))
    }
}
