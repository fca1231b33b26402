//! Opens a session: fences older instances, reads the checkpoint, and makes the encoder that continues
//! from it.

use std::sync::Arc;

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::State;
use oplog_relay_core::topic::position_topic;
use oplog_relay_runtime::config::Start;
use oplog_relay_runtime::telemetry::in_current_span;

use super::Supervisor;
use crate::encode::{Encoder, FIRST_ROUTING, Rules};
use crate::error::ProducerError;
use crate::prepare::claims::Claims;
use crate::prepare::internal_topics::InternalLimits;
use crate::prepare::lookup::{BeforeLookup, CurrentLookup};
use crate::prepare::route::Router;
use crate::prepare::topics::{self, Topics};
use crate::publish::{Publisher, RecordSizes};
use crate::saved::checkpoint::Checkpoint;
use crate::session::check::{Checked, FoundCluster};
use crate::session::pipeline::{BeginsAt, Until};
use crate::session::plan::StreamStart;
use crate::source::StartAt;
use crate::source::full_sync::FullSync;
use crate::source::origin::Resume;

/// The lookups of documents of a session.
#[derive(Debug, Default)]
struct OpenLookups {
    current: Option<CurrentLookup>,
    before: Option<Box<BeforeLookup>>,
}

/// A session after its checkpoint was read and its publisher has fenced older instances.
pub(super) struct OpenSession {
    pub(super) publisher: Publisher,
    pub(super) encoder: Encoder,
    pub(super) begin: Begin,
    pub(super) until: Until,
}

/// The starting point of a session.
pub(super) struct Begin {
    pub(super) start: StartAt,
    /// What the source needs besides the start to continue there.
    pub(super) resume: Resume,
    /// The full sync that runs beside the tail. Every live source has one, because a full sync may be
    /// requested at any time.
    pub(super) sync: Option<FullSync>,
    /// The saved position, and a position that must be saved even if no entry follows.
    pub(super) begins_at: BeginsAt,
    /// The saved version of the routing table, and the wanted one.
    pub(super) routing: (u32, u32),
    /// True if the state topic contains the source's record.
    pub(super) has_state: bool,
    /// Reader of the claims of other sources.
    pub(super) claims: Claims,
}

/// Returns the position that the stream starts after, if the start is a position.
const fn after(start: StartAt) -> Option<Position> {
    match start {
        StartAt::After(position) => Some(position),
        StartAt::Oldest | StartAt::Now | StartAt::At(_) => None,
    }
}

/// Returns the timestamp after which a stream begins. `oldest` is the time of its first entry.
const fn begin_of(start: StartAt, oldest: Timestamp) -> Timestamp {
    match start {
        StartAt::After(position) => position.ts,
        StartAt::At(ts) => ts.before(),
        StartAt::Oldest | StartAt::Now => oldest.before(),
    }
}

/// Returns the position to save even if no entry follows: the one at which `--start now` begins.
/// The position of a new full sync is saved only together with its plan. Otherwise a session that
/// ends between the two would leave a position without a plan, and the full sync would never run.
fn unsaved(start: StartAt, saved: Option<Position>, asked: Option<Start>) -> Option<Position> {
    after(start).filter(|_| saved.is_none() && asked.is_some())
}

/// Returns what the source needs besides the saved position to continue there.
fn resume_of(checkpoint: &Checkpoint) -> Resume {
    Resume {
        open: checkpoint.history.open,
        point: checkpoint.resume.clone(),
    }
}

impl Supervisor {
    /// Returns the state of the cluster if a producer may be opened, which fences the running instance.
    /// Returns `None` if a shutdown is requested before Kafka has answered.
    async fn cluster_to_open(&self) -> Result<Option<FoundCluster>, ProducerError> {
        // A broker that does not answer must not delay a shutdown.
        let Some(cluster) = self.shutdown.unless(self.find_cluster()).await else {
            return Ok(None);
        };
        let cluster = cluster?;
        // An error that must end this instance has to be detected before the running one is fenced.
        self.check_before_fencing(&cluster).await?;
        Ok(self.may_fence().await.then_some(cluster))
    }

    /// Opens a session. Returns `None` if it must not be opened.
    pub(super) async fn open(&self) -> Result<Option<OpenSession>, ProducerError> {
        let source = self.origin.name();
        let Some(cluster) = self.cluster_to_open().await? else {
            return Ok(None);
        };
        let publisher = self.open_publisher(&cluster).await?;
        let Checked {
            checkpoint,
            others,
            noted,
        } = self.check(&cluster, self.metrics.position()).await?;
        if self.metrics.session_count() == 0 {
            topics::warn_of_retention(&checkpoint.state, &cluster.existing);
            self.log_ignored_flags(&checkpoint);
        }
        self.resume(&checkpoint);
        let StreamStart { start, sync } = self.plan(&checkpoint, &cluster).await?;
        let until = match &sync {
            Some(sync) if sync.options.ends => Until::End,
            _ => self.until(checkpoint.position).await?,
        };
        let oldest = self.oldest(start).await?;
        let topics = self.topics(&cluster, others, oldest);
        let rules = checkpoint.position.and(self.other_rules(&checkpoint.state));
        let saved = checkpoint.position;
        let routing = checkpoint.routing.unwrap_or(FIRST_ROUTING);
        let resume = resume_of(&checkpoint);
        let held = sync.iter().flat_map(|sync| sync.copies.held());
        let reads = checkpoint.reads;
        let has_state = checkpoint.state.source.is_some();
        let OpenLookups { current, before } = *Box::pin(self.lookups()).await?;
        let encoder = self
            .encoder(checkpoint, start, topics, begin_of(start, oldest))?
            .changing(routing, rules)
            .noting(noted)
            .copying(reads, held)
            .looking_up_current(current)
            .looking_up_before(before);
        tracing::info!(source, start = ?start, "session opened");
        self.metrics.session_opened();
        let unsaved = unsaved(start, saved, self.config.stream.start);
        let wanted = routing + u32::from(rules.is_some());
        let begin = Begin {
            start,
            resume,
            sync,
            begins_at: BeginsAt { saved, unsaved },
            routing: (routing, wanted),
            has_state,
            claims: self.claims(&cluster),
        };
        Ok(Some(OpenSession {
            publisher,
            encoder,
            begin,
            until,
        }))
    }

    /// Returns true if this instance may open the producer, which fences the instance that follows the
    /// source. An instance that was suspended and has lost its sources, or that is losing this one, must
    /// not.
    async fn may_fence(&self) -> bool {
        let Some(leadership) = &self.leadership else {
            return !self.shutdown.triggered();
        };
        // A rebalance that revokes the source blocks the member's thread until this session ends, so the
        // thread cannot confirm. The shutdown of the lease ends the wait.
        self.shutdown
            .unless(leadership.confirm())
            .await
            .unwrap_or(false)
    }

    /// Notes from where the session continues.
    fn resume(&self, checkpoint: &Checkpoint) {
        self.metrics.resumed(checkpoint.position);
        self.metrics.know_moves(checkpoint.moves());
    }

    /// Returns the configured rules if they differ from the saved ones and may be changed.
    pub(super) fn other_rules(&self, saved: &State) -> Option<Rules> {
        let (order, format) = (self.config.stream.order, self.config.stream.format);
        let differ = saved.routes.values().any(|route| route.rule != order)
            || saved.topics.values().any(|topic| topic.format != format);
        (self.config.change_routing && differ).then_some(Rules { order, format })
    }

    fn encoder(
        &self,
        checkpoint: Checkpoint,
        start: StartAt,
        topics: Topics,
        begin: Timestamp,
    ) -> Result<Encoder, ProducerError> {
        let stream = &self.config.stream;
        let identity = self.identity(checkpoint.state.source.as_ref(), begin);
        let router = Router::new(
            &stream.topic_prefix,
            stream.filter.clone(),
            checkpoint.state,
        );
        // The encoder changes the rule itself, behind barriers; until then the saved one applies.
        let router = match self.config.change_routing && !router.follows(stream.order) {
            true => router.as_saved(),
            false => router.ordered(stream.order)?,
        };
        let shutdown = self.shutdown.clone();
        Ok(Encoder::new(
            self.origin.name(),
            stream.format,
            router.with_collections(self.origin.collections()),
            topics,
            after(start),
            identity,
            self.origin
                .transactions(start, checkpoint.history, shutdown),
        )
        .with_router_headers(stream.headers)
        .resuming(checkpoint.resume)
        .paced(self.pace.clone()))
    }

    /// Returns the lookups of documents that are configured.
    async fn lookups(&self) -> Result<Box<OpenLookups>, ProducerError> {
        let wanted = self.config.stream.lookups;
        let mut lookups = Box::new(OpenLookups::default());
        if wanted.current {
            lookups.current = Some(self.origin.current_lookup(self.shutdown.clone()).await?);
        }
        if wanted.before {
            let before = self.origin.before_lookup(self.shutdown.clone()).await?;
            lookups.before = Some(Box::new(before));
        }
        Ok(lookups)
    }

    async fn open_publisher(&self, cluster: &FoundCluster) -> Result<Publisher, ProducerError> {
        let config = Arc::clone(&self.config);
        let InternalLimits { position, state } = cluster.internal;
        let limits = cluster.existing.values().map(topics::limit);
        let limits = limits.chain([position, state]);
        let smallest = limits.fold(cluster.new_settings.max_bytes, usize::min);
        // A batch is at most half of the allowed bytes, because several are in flight at once.
        let smallest = smallest.min(self.pace.buffer_bytes() / 2);
        let sizes = RecordSizes {
            oversize: config.oversize,
            smallest_limit: smallest,
            position_limit: position,
        };
        let source = self.origin.name().to_owned();
        let opened = tokio::task::spawn_blocking(in_current_span(move || {
            let prefix = &config.stream.topic_prefix;
            let transactional_id = format!("{prefix}.{source}");
            let topic = position_topic(prefix, &source);
            Publisher::open(&config.kafka, &transactional_id, &topic, &source, sizes)
        }));
        opened
            .await
            .map_err(|_| ProducerError::Ended("the thread that opens the producer ended"))?
    }

    /// Returns the condition under which the stream is done.
    async fn until(&self, saved: Option<Position>) -> Result<Until, ProducerError> {
        if !self.config.until_caught_up {
            return Ok(Until::End);
        }
        let newest = self.origin.newest().await?;
        let until = newest.and_then(|newest| Until::newest(newest, saved));
        // If there is no newer entry to wait for, a live source is done at once. A dump is read to
        // its end.
        Ok(until.unwrap_or_else(|| self.origin.until_nothing_new()))
    }

    /// Returns the time of the oldest entry that the stream may contain.
    async fn oldest(&self, start: StartAt) -> Result<Timestamp, ProducerError> {
        Ok(match start {
            StartAt::After(position) => position.ts,
            StartAt::At(ts) => ts,
            StartAt::Oldest | StartAt::Now => self.origin.oldest().await?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_a_full_sync_is_not_saved_before_its_plan() {
        let position = Position {
            ts: Timestamp::new(7, 1),
            term: 1,
            ord: 0,
        };
        let start = StartAt::After(position);
        assert_eq!(unsaved(start, None, None), None);
        assert_eq!(unsaved(start, None, Some(Start::Now)), Some(position));
        assert_eq!(unsaved(start, Some(position), Some(Start::Now)), None);
        assert_eq!(unsaved(StartAt::Oldest, None, Some(Start::Oldest)), None);
    }
}
