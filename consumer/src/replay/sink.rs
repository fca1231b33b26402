//! Replays batches into a target: plans them, sends the writes and commands, and retries the
//! documents that are held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mongodb::Client;
use oplog_relay_runtime::config::{ConfigError, Fault};
use oplog_relay_runtime::mongo::{self, REPLY_LIMIT};
use oplog_relay_runtime::shutdown::Shutdown;

use crate::config::{GroupConfig, NotEmpty, RefusedOptions, ReplayConfig, ShardKeys, Unmatched};
use crate::dead_letter::Reasons;
use crate::error::ConsumerError;
use crate::group::start::{Past, Traces};
use crate::replay::catalog::{Catalog, OtherSubscription, Subscription};
use crate::replay::held_documents::held_document::{HeldByKey, HeldDocuments};
use crate::replay::held_documents::suspended_indexes::note::MakingWay;
use crate::replay::ordered::Known;
use crate::replay::plan::{BulkKind, Lane, Plan, Planner, Step};
use crate::replay::target::{LONGEST_PAUSE, Target};
use crate::replay::writes::permits::Permits;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::worker::applied::{Applied, Refusal, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::Batch;

/// Maximum number of connections to the target, unless the connection string has `maxPoolSize`.
const CONNECTIONS: u32 = 64;
/// Interval between two checks of the namespaces that the catalog records for the group.
const SUBSCRIPTION_INTERVAL: Duration = Duration::from_secs(3);
/// Number of writes whose documents are looked up among those that are being moved with one query.
const RESTORED_AT_ONCE: usize = 1_000;
/// Time after a failure for which the commands of other lanes may still be under way.
const LANES_PATIENCE: Duration = REPLY_LIMIT.saturating_add(LONGEST_PAUSE);
/// Server selection timeout, after which an attempt counts as failed and is retried.
const SELECTION_PATIENCE: Duration = Duration::from_secs(10);

/// Applies batches to a target.
#[derive(Debug)]
pub struct MongoSink {
    pub(super) target: Target,
    pub(super) planner: Planner,
    pub(super) catalog: Catalog,
    pub(super) policies: Policies,
    pub(super) held_documents: HeldDocuments,
    pub(super) permits: Permits,
    /// Refused writes that become dead letters when their batch is done.
    pub(super) refused: Mutex<Vec<Refusal>>,
    pub(super) known_order: Mutex<Known>,
}

/// The operator's choices.
#[derive(Debug)]
pub(super) struct Policies {
    /// The reasons for which records become dead letters.
    pub(super) dead_letter: Reasons,
    pub(super) unmatched: Unmatched,
    pub(super) if_not_empty: NotEmpty,
    /// True if options that the target does not know are left out.
    pub(super) leaves_out_options: bool,
    pub(super) allow_lossy: bool,
    /// The shard keys of collections that are created sharded.
    pub(super) shard_collections: ShardKeys,
}

/// The settings of a replay.
///
/// The value of a flag passes from `ReplayArguments` through [`ReplayConfig`] to these settings, in
/// [`MongoSink::connect`], and from them to `Policies`, the [`Planner`] or the [`Catalog`], in
/// [`MongoSink::open`]. `verify/repair.rs` also creates settings, for the repairs of `verify`.
#[derive(Debug, Clone)]
pub struct Settings<'s> {
    /// The consumer group whose commands the catalog records.
    pub group: &'s str,
    /// True if lossy formats are accepted.
    pub allow_lossy: bool,
    /// The policy for an update that does not find a document.
    pub unmatched: Unmatched,
    /// The policy for a full sync into a collection that has documents.
    pub if_not_empty: NotEmpty,
    /// The policy for a command option that the target does not know.
    pub refused_options: RefusedOptions,
    /// The planner of the batches.
    pub planner: Planner,
    /// The reasons for which records become dead letters.
    pub dead_letter: Reasons,
    /// The shard keys of collections that are created sharded.
    pub shard_collections: ShardKeys,
}

pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).expect("a count has at most 64 bits")
}

pub(super) fn catalog_unreadable(error: &mongodb::error::Error) -> mongo::MongoError {
    mongo::MongoError::from_driver("the target's catalog", error)
}

/// Returns the fault of a target that cannot shard collections.
fn not_sharded() -> ConfigError {
    ConfigError::Faults(vec![Fault {
        place: "--shard-collections".to_owned(),
        message:
            "the target is not a sharded cluster: give --target the address of its mongos, or \
                  leave this flag out"
                .to_owned(),
    }])
}

impl MongoSink {
    /// Connects to the target.
    ///
    /// # Errors
    /// Returns an error if the target cannot be reached, if its catalog cannot be read, or if the
    /// catalog records other namespaces for the group.
    pub async fn connect(
        config: &ReplayConfig,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let client = mongo::connect(&config.target, "oplog-consumer", |options| {
            options.max_pool_size.get_or_insert(CONNECTIONS);
            options.server_selection_timeout = Some(SELECTION_PATIENCE);
        })
        .await?;
        let settings = Settings {
            group: &config.group.group,
            allow_lossy: config.allow_lossy,
            unmatched: config.unmatched,
            if_not_empty: config.if_not_empty,
            refused_options: config.refused_options,
            planner: config.planner(),
            dead_letter: config.group.dead_letter.clone(),
            shard_collections: config.shard_collections.clone(),
        };
        let sink = Self::open(client, settings, metrics, readiness, shutdown).await?;
        let GroupConfig {
            group,
            subscription,
            ..
        } = &config.group;
        let subscribed = sink
            .catalog
            .subscribe(subscription, config.change_subscription)
            .await;
        match subscribed.map_err(|error| catalog_unreadable(&error))? {
            Some(noted) => Err(OtherSubscription {
                group: group.clone(),
                noted,
                own: subscription.clone(),
            }
            .into()),
            None => Ok(sink),
        }
    }

    /// Returns the evidence of earlier runs of the group in the target's catalog.
    ///
    /// # Errors
    /// Returns an error if the target refuses the query.
    pub async fn past(&self, prefix: &str) -> Result<Past, ConsumerError> {
        let has_begun = self
            .persist("reading the catalog", || self.catalog.has_begun(prefix))
            .await?;
        Ok(if has_begun {
            Past::Traces(Traces::Catalog)
        } else {
            Past::Nothing
        })
    }

    /// Records in the catalog that the group has committed offsets.
    ///
    /// # Errors
    /// Returns an error if the target refuses the write.
    pub async fn note_begun(&self, prefix: &str) -> Result<(), ConsumerError> {
        self.persist("writing the catalog", || self.catalog.note_begun(prefix))
            .await
    }

    /// Polls the namespaces that the catalog records for the group, and fails when they differ from
    /// this member's own. If another member has changed them, this member would skip entries that
    /// the group must apply.
    ///
    /// # Errors
    /// Returns an error if the namespaces have changed, or if the target refuses the query.
    pub async fn watch_subscription(&self, own: &Subscription) -> Result<(), ConsumerError> {
        loop {
            tokio::select! {
                () = self.target.shutdown.wait() => return Ok(()),
                () = tokio::time::sleep(SUBSCRIPTION_INTERVAL) => {}
            }
            let noted = self
                .persist("reading the catalog", || self.catalog.subscription())
                .await;
            if self.target.shutdown.triggered() {
                return Ok(());
            }
            if let Some(noted) = noted?.filter(|noted| noted != own) {
                return Err(OtherSubscription {
                    group: self.catalog.group().to_owned(),
                    noted,
                    own: own.clone(),
                }
                .into());
            }
        }
    }

    /// Opens the replay into a target with an existing client.
    ///
    /// # Errors
    /// Returns an error if the target's limits and features, or its catalog, cannot be read, or if
    /// collections are to be sharded on a target that is not a sharded cluster.
    pub async fn open(
        client: Client,
        settings: Settings<'_>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let target = Target::open(client, metrics, readiness, shutdown).await?;
        if target.sharding.is_none() && !settings.shard_collections.is_empty() {
            return Err(not_sharded().into());
        }
        let catalog = Catalog::open(&target.client, settings.group)
            .await
            .map_err(|error| catalog_unreadable(&error))?;
        target.readiness.target_reached();
        target.metrics.set_catalog_held(catalog.held());
        Ok(Self {
            target,
            catalog,
            planner: settings.planner,
            policies: Policies {
                dead_letter: settings.dead_letter,
                unmatched: settings.unmatched,
                if_not_empty: settings.if_not_empty,
                leaves_out_options: settings.refused_options == RefusedOptions::LeaveOut,
                allow_lossy: settings.allow_lossy,
                shard_collections: settings.shard_collections,
            },
            held_documents: HeldDocuments::default(),
            permits: Permits::default(),
            refused: Mutex::default(),
            known_order: Mutex::default(),
        })
    }

    /// Returns the driver's client of the target.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.target.client
    }

    /// Returns true if lossy formats are accepted.
    #[must_use]
    pub const fn takes_lossy(&self) -> bool {
        self.policies.allow_lossy
    }

    /// Plans a batch and applies it.
    ///
    /// # Errors
    /// Returns [`SinkError::Entry`] for an entry that cannot be replayed; any other error ends the
    /// program.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        let applied = self.apply_all(batch, token).await?;
        if applied == Applied::Abandoned {
            // The next owner of the partition reads these entries again.
            drop(self.take_refused(batch));
        }
        Ok(applied)
    }

    async fn apply_all(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        let ordered = self.ordered_of(batch.entries).await?;
        let partition = batch.partition();
        let plan: Plan<'_> = self
            .planner
            .plan_ordered(batch.entries, &partition, &|ns| ordered.contains(ns))
            .map_err(SinkError::Entry)?;
        self.target.metrics.folded.inc_by(plan.folded);
        for step in &plan.steps {
            let applied = match step {
                Step::Write(lanes) => self.send_lanes(lanes, token).await?,
                Step::Command(command) => self.command(command, batch.source, token).await?,
            };
            if applied == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        if !self.held().is_empty()
            && Box::pin(self.try_held(batch, MakingWay::Newer, token)).await? == Applied::Abandoned
        {
            return Ok(Applied::Abandoned);
        }
        match batch.entries.last() {
            Some(last) => {
                let applied = Some(last.id.ts.seconds);
                let restored = self.restore_due(batch.topic, batch.partition, applied, token);
                Ok(Box::pin(restored).await?)
            }
            None => Ok(Applied::Done),
        }
    }

    /// Retries the writes of the held documents of a partition when the partition reaches a command.
    /// If the command has already run, the target is ahead, so all unique indexes that the replay
    /// created may be suspended.
    ///
    /// # Errors
    /// Returns an error if the target refuses a query.
    pub async fn release_held(
        &self,
        batch: &Batch<'_>,
        command_ran: bool,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let making_way = if command_ran {
            MakingWay::AlsoOlder
        } else {
            MakingWay::Newer
        };
        Box::pin(self.try_held(batch, making_way, token)).await
    }

    /// Returns the held documents. A panic cannot leave them inconsistent, so poisoning is ignored.
    pub(super) fn held(&self) -> MutexGuard<'_, HeldByKey> {
        self.held_documents
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known_order(&self) -> MutexGuard<'_, Known> {
        self.known_order
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_lanes(
        &self,
        lanes: &[Lane<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let right = token.dependent();
        let sent = lanes.iter().map(|lane| self.send_lane(lane, &right));
        let mut sent: FuturesUnordered<_> = sent.collect();
        let mut all = Applied::Done;
        while let Some(applied) = sent.next().await {
            let error = match applied {
                Ok(Applied::Done) => continue,
                Ok(Applied::Abandoned) => {
                    all = Applied::Abandoned;
                    continue;
                }
                Err(error) => error,
            };
            // The other lanes stop after the commands under way, whose effect would be unknown if they
            // were given up: a document that moves may be deleted and not inserted yet.
            right.invalidate();
            let ended = sent.for_each(|_| std::future::ready(()));
            if tokio::time::timeout(LANES_PATIENCE, ended).await.is_err() {
                return Err(error);
            }
            Box::pin(self.restore_lanes(lanes, &error, token)).await;
            return Err(error);
        }
        Ok(all)
    }

    async fn send_lane(&self, lane: &Lane<'_>, token: &Token) -> Result<Applied, ConsumerError> {
        for bulk in &lane.bulks {
            let sent = match bulk.kind {
                BulkKind::Rewrite => self.rewrite_bulk(bulk, token).await?,
                BulkKind::Insert | BulkKind::Delete | BulkKind::Update => {
                    self.send_bulk(bulk, token).await?
                }
            };
            if sent == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    /// Restores the documents of lanes that were being moved when another lane failed with this error.
    async fn restore_lanes(&self, lanes: &[Lane<'_>], error: &ConsumerError, token: &Token) {
        for bulk in lanes.iter().flat_map(|lane| &lane.bulks) {
            for writes in bulk.writes.chunks(RESTORED_AT_ONCE) {
                self.restore_before_stop(bulk.ns, writes, error, token)
                    .await;
            }
        }
    }
}
