//! The source of a session: a live deployment or a dump, and its identity.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, doc};
use mongodb::Client;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::resume::ResumePoint;
use oplog_relay_core::state::{History, SourceMode, SourceRecord};
use oplog_relay_core::topic::check_source_name;
use oplog_relay_runtime::config::{Secret, Start};
use oplog_relay_runtime::mongo::{self, Hello, REPLY_LIMIT, in_time};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::telemetry::in_current_span;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};

use crate::config::{self, StreamConfig, WantedMode};
use crate::error::ProducerError;
use crate::oplog_window::OplogWindow;
use crate::prepare::lookup::{BeforeLookup, CurrentLookup, StoredDocuments};
use crate::prepare::route::Collections;
use crate::prepare::transaction::{OplogHistory, Parts, SpooledParts, Transactions};
use crate::session::pipeline::Until;
use crate::source::change_stream::{ChangeStream, EventTail};
use crate::source::collections::LiveCollections;
use crate::source::dump::Dump;
use crate::source::error::SourceError;
use crate::source::full_sync::{FullSync, Interleaving, SourceReader};
use crate::source::live_documents::LiveDocuments;
use crate::source::oplog::{Oplog, STALLED_AFTER, Tail, newest_of_majority};
use crate::source::{QUEUE_BATCHES, SourceEvent, StartAt};

/// A source that was reached and checked.
#[derive(Debug)]
pub struct Origin {
    record: SourceRecord,
    kind: Kind,
    stalled_after: Duration,
}

#[derive(Debug)]
enum Kind {
    Live {
        client: Client,
        oplog: Oplog,
    },
    Events {
        client: Client,
        stream: ChangeStream,
    },
    Dump(Arc<Dump>),
}

/// The saved data that a source needs, besides the position, to continue there.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// Time of the first entry of a dump's oldest open transaction.
    pub open: Option<Timestamp>,
    /// The point at which a change stream continues.
    pub point: Option<ResumePoint>,
}

/// A live source that answers, and is not a shard.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) client: Client,
    pub(crate) hello: Hello,
    /// The reason why the source is read through a change stream; `None` if its oplog is read.
    pub(crate) reason: Option<String>,
}

impl Reached {
    /// Connects to a source and determines the mode in which it is read.
    ///
    /// # Errors
    /// [`ProducerError::Mongo`] if it cannot be reached; [`SourceError::Shard`]; the errors of the
    /// attempt to read the oplog.
    pub(crate) async fn of(uri: &Secret, wanted: WantedMode) -> Result<Self, ProducerError> {
        let client = mongo::connect(uri, "oplog-producer", |_| ()).await?;
        let hello = mongo::hello(&client).await.map_err(ProducerError::Source)?;
        let reason = match wanted {
            WantedMode::Oplog => None,
            WantedMode::ChangeStream => Some("--source-mode change-stream".to_owned()),
            WantedMode::Auto => reason_for_change_stream(&client, &hello).await?,
        };
        // Through a mongos, `refuse_shard` would find the `shardIdentity` of the config servers, if
        // they have one.
        if !hello.is_mongos {
            refuse_shard(&client).await?;
        }
        Ok(Self {
            client,
            hello,
            reason,
        })
    }
}

impl Origin {
    /// Connects to the source of a stream and determines the mode in which it is read, or finds the
    /// files of a dump.
    ///
    /// # Errors
    /// The errors of [`Origin::open`]; [`SourceError`] if the source cannot be read in the
    /// wanted mode.
    pub async fn of(config: &StreamConfig) -> Result<Self, ProducerError> {
        let config::Origin::Live(uri) = &config.origin else {
            return Self::open(&config.origin, config.source_name.as_deref()).await;
        };
        let reached = Reached::of(uri, config.mode).await?;
        let name = config.source_name.as_deref();
        let Some(reason) = reached.reason else {
            return Self::open_oplog(reached.client, reached.hello, name).await;
        };
        let Reached { client, hello, .. } = reached;
        let name = source_name(name, &hello)?;
        let is_sharded = hello.is_mongos;
        let stream = ChangeStream::new(&client, &config.filter, is_sharded).await?;
        tracing::info!(
            reason,
            scope = %stream.scope(),
            expanded_events = stream.abilities().expanded_events,
            "the source is read through a change stream"
        );
        let record = SourceRecord {
            set_name: hello.set_name,
            ..SourceRecord::new(name, SourceMode::ChangeStream)
        };
        Ok(Self::new(record, Kind::Events { client, stream }))
    }

    /// Connects to a replica set whose oplog is read, or finds the files of a dump.
    ///
    /// # Errors
    /// [`SourceError`] for a mongos, a shard, a standalone server or a missing name;
    /// [`ProducerError::Mongo`] if the source cannot be reached; the errors of [`Dump::open`].
    pub async fn open(origin: &config::Origin, name: Option<&str>) -> Result<Self, ProducerError> {
        match origin {
            config::Origin::Dump(path) => {
                let kind = Kind::Dump(Arc::new(Dump::open(path)?));
                let name = name.ok_or(SourceError::NoName)?.to_owned();
                Ok(Self::new(SourceRecord::new(name, SourceMode::Oplog), kind))
            }
            config::Origin::Live(uri) => {
                let Reached { client, hello, .. } = Reached::of(uri, WantedMode::Oplog).await?;
                Self::open_oplog(client, hello, name).await
            }
        }
    }

    async fn open_oplog(
        client: Client,
        hello: Hello,
        name: Option<&str>,
    ) -> Result<Self, ProducerError> {
        if hello.is_mongos {
            return Err(SourceError::Mongos.into());
        }
        Oplog::check(&client).await?;
        let name = source_name(name, &hello)?;
        let record = SourceRecord {
            set_name: hello.set_name,
            replica_set_id: replica_set_id(&client).await,
            ..SourceRecord::new(name, SourceMode::Oplog)
        };
        let oplog = Oplog::new(&client);
        Ok(Self::new(record, Kind::Live { client, oplog }))
    }

    const fn new(record: SourceRecord, kind: Kind) -> Self {
        Self {
            record,
            kind,
            stalled_after: STALLED_AFTER,
        }
    }

    /// Sets the time after which a stall of the source is reported.
    #[must_use]
    pub const fn reporting_stalls_after(mut self, stalled_after: Duration) -> Self {
        self.stalled_after = stalled_after;
        self
    }

    /// Returns the time after which a stall of the source is reported.
    #[must_use]
    pub const fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    /// Returns the source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Returns the source's record for the state topic.
    #[must_use]
    pub fn record(&self) -> SourceRecord {
        self.record.clone()
    }

    /// Returns the client of a live source.
    #[must_use]
    pub const fn client(&self) -> Option<&Client> {
        match &self.kind {
            Kind::Live { client, .. } | Kind::Events { client, .. } => Some(client),
            Kind::Dump(_) => None,
        }
    }

    /// Returns the client with which a full sync copies documents; `None` for a dump, which has no
    /// documents, and for a change stream.
    #[must_use]
    pub const fn client_of_copies(&self) -> Option<&Client> {
        match &self.kind {
            Kind::Live { client, .. } => Some(client),
            Kind::Events { .. } | Kind::Dump(_) => None,
        }
    }

    /// Returns true if the source is read through a change stream.
    #[must_use]
    pub const fn is_change_stream(&self) -> bool {
        matches!(self.kind, Kind::Events { .. })
    }

    /// Resolves `--start`.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`SourceError::NoOldestEvent`] for a start at the oldest entry of
    /// a change stream; [`SourceError::NoLogicalTime`] for a start at the present if the source of
    /// a change stream does not report its logical time.
    pub async fn start(&self, start: Start) -> Result<StartAt, ProducerError> {
        Ok(match start {
            Start::Oldest if self.is_change_stream() => {
                return Err(SourceError::NoOldestEvent.into());
            }
            Start::Oldest => StartAt::Oldest,
            Start::Position { seconds, increment } => {
                StartAt::At(Timestamp::new(seconds, increment))
            }
            Start::At(millis) => {
                // The fraction is dropped, so the start includes the whole second. A BSON timestamp
                // has seconds from 1970 to 2106, so no entry is outside of this range.
                let seconds = millis.div_euclid(1000).clamp(0, u32::MAX.into());
                let seconds = u32::try_from(seconds).expect("it was limited to 32 bits");
                StartAt::At(Timestamp::new(seconds, 0))
            }
            Start::Now => match self.newest().await? {
                Some(newest) => StartAt::After(newest),
                None if self.is_change_stream() => {
                    return Err(SourceError::NoLogicalTime.into());
                }
                None => StartAt::Oldest,
            },
        })
    }

    /// Returns the newest majority-committed entry, or the newest entry if the server does not report
    /// the majority commit point. For a change stream, returns the logical time of the source. `None`
    /// for a dump.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        match &self.kind {
            Kind::Live { client, .. } => newest_of_majority(client).await,
            Kind::Events { stream, .. } => stream.newest().await,
            Kind::Dump(_) => Ok(None),
        }
    }

    /// Returns the time of the oldest entry; `None` if the oplog is empty, and for a change stream
    /// or a dump from standard input, which do not report it.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn oldest(&self) -> Result<Option<Timestamp>, ProducerError> {
        match &self.kind {
            Kind::Live { oplog, .. } => Ok(oplog.oldest().await?.map(|oldest| oldest.ts)),
            Kind::Events { .. } => Ok(None),
            Kind::Dump(dump) => Ok(dump.oldest()),
        }
    }

    /// Returns the times between which the oplog has entries; `None` for a dump, and for a source whose
    /// oplog cannot be read. The primary is asked if the oplog of the member that is read does not reach
    /// back to `position`.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn window(
        &self,
        position: Option<Timestamp>,
    ) -> Result<Option<OplogWindow>, ProducerError> {
        match &self.kind {
            Kind::Live { oplog, .. } => oplog.window(position).await,
            Kind::Events { client, stream } if !stream.is_sharded() => {
                Oplog::new(client).window(position).await
            }
            Kind::Events { .. } | Kind::Dump(_) => Ok(None),
        }
    }

    /// Returns the stop condition for a source that has nothing newer than the saved position: stop at
    /// once, or at the end of the dump.
    #[must_use]
    pub const fn until_nothing_new(&self) -> Until {
        match self.kind {
            Kind::Live { .. } | Kind::Events { .. } => Until::Reached(Timestamp::new(0, 0)),
            Kind::Dump(_) => Until::End,
        }
    }

    /// Returns the transaction state of a stream that starts at `start`, with the saved `history`. It
    /// must be called within a tokio runtime.
    #[must_use]
    pub fn transactions(
        &self,
        start: StartAt,
        history: History,
        shutdown: Shutdown,
    ) -> Transactions {
        let parts = match &self.kind {
            Kind::Live { oplog, .. } => {
                Parts::Live(OplogHistory::new(oplog.clone(), Handle::current()))
            }
            // The events of a transaction arrive one by one, after its commit.
            Kind::Events { .. } | Kind::Dump(_) => Parts::Spooled(SpooledParts::default()),
        };
        Transactions::new(parts, history, start == StartAt::Oldest, shutdown)
    }

    /// Returns the reader of collection properties, or `None` for a dump, whose commands are the only
    /// source of them. It must be called within a tokio runtime.
    #[must_use]
    pub fn collections(&self) -> Option<Box<dyn Collections>> {
        let client = self.client()?;
        let live = LiveCollections::new(client.clone(), Handle::current());
        Some(Box::new(live))
    }

    /// Returns the lookup for the documents of updates. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SourceError::DumpWithoutDocuments`] for a dump; [`ProducerError::Source`].
    pub async fn current_lookup(&self, shutdown: Shutdown) -> Result<CurrentLookup, ProducerError> {
        Ok(CurrentLookup::new(self.stored_documents(shutdown).await?))
    }

    /// Returns a lookup of the documents before changes.
    ///
    /// # Errors
    /// [`SourceError::DumpWithoutDocuments`] for a dump; [`SourceError::BeforeLookupOfEvents`] for a
    /// change stream; [`ProducerError::Source`].
    pub async fn before_lookup(&self, shutdown: Shutdown) -> Result<BeforeLookup, ProducerError> {
        if self.is_change_stream() {
            return Err(SourceError::BeforeLookupOfEvents.into());
        }
        Ok(BeforeLookup::new(self.stored_documents(shutdown).await?))
    }

    async fn stored_documents(&self, shutdown: Shutdown) -> Result<StoredDocuments, ProducerError> {
        let Some(client) = self.client() else {
            return Err(SourceError::DumpWithoutDocuments.into());
        };
        let reader = SourceReader::new(client.clone()).await?;
        let documents = LiveDocuments::new(reader, Handle::current(), shutdown);
        Ok(StoredDocuments::Live(documents))
    }

    /// Sends entries from `start` on until the dump ends, the queue is closed or a shutdown is
    /// requested. The result is available before this function drops its end of the queue.
    /// `failing` is called with the reason when the source fails, and with `None` when the source
    /// responds again.
    ///
    /// # Errors
    /// The errors of [`Tail::run`], [`EventTail::run`] and [`Dump::run`].
    pub async fn feed(
        &self,
        start: StartAt,
        resume: Resume,
        events: Sender<SourceEvent>,
        shutdown: Shutdown,
        failing: impl Fn(Option<&str>),
    ) -> Result<(), ProducerError> {
        match &self.kind {
            Kind::Live { oplog, .. } => {
                let tail = Tail::begin(oplog.clone(), start).await?;
                let tail = tail.reporting_stalls_after(self.stalled_after);
                tail.run(&events, &shutdown, failing).await
            }
            Kind::Events { stream, .. } => {
                let tail = EventTail::begin(stream.clone(), start, resume.point.as_ref())?;
                tail.run(&events, &shutdown, failing).await
            }
            Kind::Dump(dump) => {
                let dump = Arc::clone(dump);
                let (queue, mut read) = channel(1);
                let stop = shutdown.clone();
                let reading = tokio::task::spawn_blocking(in_current_span(move || {
                    dump.run(start, resume.open, &queue, &stop)
                }));
                // Events are forwarded by this task, because the thread may block on a pipe without
                // data. A receiver that finds the queue closed aborts this task, so the result must be
                // available before the queue is closed.
                while let Some(Some(event)) = shutdown.unless(read.recv()).await {
                    if events.send(event).await.is_err() {
                        return Ok(());
                    }
                }
                if shutdown.triggered() {
                    return Ok(());
                }
                reading
                    .await
                    .map_err(|_| ProducerError::Ended("the thread that reads the dump ended"))?
            }
        }
    }
}

/// Sends the entries of a live source interleaved with the reads of a full sync, as [`Origin::feed`]
/// does. A stall of the source is reported after `stalled_after`.
///
/// # Errors
/// The errors of [`Tail::run`] and [`Interleaving::run`].
pub async fn feed_full_sync(
    sync: FullSync,
    start: StartAt,
    events: Sender<SourceEvent>,
    shutdown: Shutdown,
    stalled_after: Duration,
    failing: impl Fn(Option<&str>),
) -> Result<(), ProducerError> {
    let oplog = Oplog::new(sync.source.client());
    let tail = Tail::begin(oplog, start).await?;
    let tail = tail.reporting_stalls_after(stalled_after);
    let (entries_in, entries) = channel(QUEUE_BATCHES);
    let interleaving = Interleaving::new(sync, entries, events, shutdown.clone());
    let tailing = async move {
        // `Interleaving::run` ends when this queue is closed.
        let outcome = tail.run(&entries_in, &shutdown, failing).await;
        drop(entries_in);
        outcome
    };
    tokio::try_join!(tailing, Box::pin(interleaving.run())).map(drop)
}

/// Returns the reason why a source is read through a change stream; `None` if its oplog can be read.
async fn reason_for_change_stream(
    client: &Client,
    hello: &Hello,
) -> Result<Option<String>, ProducerError> {
    if hello.is_mongos {
        return Ok(Some("the source is a mongos".to_owned()));
    }
    match Oplog::new(client).oldest().await {
        Ok(_) => Ok(None),
        Err(ProducerError::Source(error)) if !mongo::is_interrupted(&error) => Ok(Some(format!(
            "the oplog cannot be read: {}",
            mongo::error_text(&error)
        ))),
        Err(error) => Err(error),
    }
}

/// Refuses a shard, whose oplog and change streams are only a part of the history.
async fn refuse_shard(client: &Client) -> Result<(), ProducerError> {
    let version = client
        .database("admin")
        .collection::<bson::Document>("system.version");
    // Without the privilege to read this collection the check is skipped, because it only guards
    // against a configuration mistake.
    let shard = version.find_one(doc! { "_id": "shardIdentity" });
    let shard = in_time(REPLY_LIMIT, shard).await.ok().flatten();
    if shard.is_some() {
        return Err(SourceError::Shard.into());
    }
    Ok(())
}

fn source_name(given: Option<&str>, hello: &Hello) -> Result<String, ProducerError> {
    let name = given.or(hello.set_name.as_deref());
    let name = name.ok_or(SourceError::NoName)?;
    check_source_name(name).map_err(|reason| SourceError::InvalidName {
        name: name.to_owned(),
        reason,
    })?;
    Ok(name.to_owned())
}

/// Returns `settings.replicaSetId`; `None` if it cannot be read or does not exist.
pub(crate) async fn replica_set_id(client: &Client) -> Option<String> {
    let config = client
        .database("local")
        .collection::<bson::Document>("system.replset");
    let found = config.find_one(doc! {});
    let found = in_time(REPLY_LIMIT, found).await.ok().flatten()?;
    match found.get_document("settings").ok()?.get("replicaSetId")? {
        Bson::ObjectId(id) => Some(id.to_hex()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
    use tokio::task::JoinSet;

    use super::*;

    /// When the encoder finds the queue closed, it ends the session, which aborts this task.
    #[tokio::test]
    async fn the_result_of_a_dump_is_available_before_its_queue_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oplog.bson");
        let entry = rawdoc! {
            "op": "n", "ns": "", "o": {}, "ts": bson::Timestamp { time: 9, increment: 1 }, "v": 2_i64,
        };
        std::fs::write(&path, entry.as_bytes()).unwrap();
        let dump = config::Origin::Dump(path.to_string_lossy().into_owned());
        let origin = Origin::open(&dump, Some("dump")).await.unwrap();
        let saved = Position {
            ts: Timestamp::new(3, 1),
            term: 1,
            ord: 0,
        };
        let (events, mut queue) = channel(QUEUE_BATCHES);
        let mut parts = JoinSet::new();
        let feeding = parts.spawn(async move {
            let start = StartAt::After(saved);
            origin
                .feed(start, Resume::default(), events, Shutdown::manual(), |_| ())
                .await
        });
        while queue.recv().await.is_some() {}
        feeding.abort();
        let ended = parts.join_next().await.unwrap().unwrap();
        assert!(
            matches!(ended, Err(ProducerError::PositionLost(_))),
            "{ended:?}"
        );
    }
}
