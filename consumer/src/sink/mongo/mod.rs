//! Replaying: plans as bulk writes to a MongoDB.
//!
//! Inserts are optimistic: a document that is there is replaced, which is what the insert means
//! when a stretch is replayed (and left alone if it is the same). An update that no command can
//! say, or that a command cannot apply to the stored document, is a rewrite: read, change, replace.
//! While the target cannot be
//! reached a write is repeated for ever, with growing pauses; what the target refuses for good
//! ends the program (the directives).

mod bulk;
mod find;
mod limits;
mod present;
mod reply;
mod rewrite;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::try_join_all;
use mongodb::Client;
use mongodb::bson::doc;
use oplog_relay_core::runtime::mongo::{self, error_code, is_transient};
use oplog_relay_core::runtime::retry::Backoff;
use oplog_relay_core::runtime::shutdown::Shutdown;
use tokio::sync::Semaphore;

use crate::assignment::Token;
use crate::batch::Batch;
use crate::config::{ReplayConfig, Unmatched};
use crate::directive::{Directive, rule_for};
use crate::error::ConsumerError;
use crate::metrics::Metrics;
use crate::plan::{BulkKind, Lane, Plan, Planner, Step};
use crate::sink::{Applied, SinkError};
use crate::status::Readiness;

use limits::Limits;

/// First and longest pause before a write is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Connections to the target, unless the connection string says otherwise.
const CONNECTIONS: u32 = 64;
/// How long to look for a usable server before a write counts as failed.
const SELECTION_PATIENCE: Duration = Duration::from_secs(10);

/// Applies plans to a target.
#[derive(Debug)]
pub struct MongoSink {
    client: Client,
    planner: Planner,
    limits: Limits,
    /// Turns for bulks of rewrites.
    rewrites: Semaphore,
    unmatched: Unmatched,
    allow_lossy: bool,
    /// Whether the target lets validation be bypassed; until it refuses.
    bypass_validation: AtomicBool,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    shutdown: Shutdown,
}

impl MongoSink {
    /// Connects to the target.
    ///
    /// # Errors
    /// When it cannot be reached or takes no writes.
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
        let hello = mongo::hello(&client)
            .await
            .map_err(|error| mongo::MongoError::from_driver("the target", &error))?;
        let limits = Limits::of(&hello, limits::is_ferretdb(&client).await);
        readiness.target_reached();
        Ok(Self {
            client,
            planner: Planner::new(config.lanes),
            limits,
            rewrites: Semaphore::new(rewrite::BULKS_AT_ONCE),
            unmatched: config.unmatched,
            allow_lossy: config.allow_lossy,
            bypass_validation: AtomicBool::new(true),
            metrics,
            readiness,
            shutdown,
        })
    }

    /// Whether lossy formats were allowed.
    #[must_use]
    pub const fn takes_lossy(&self) -> bool {
        self.allow_lossy
    }

    /// Plans a batch and sends it.
    ///
    /// # Errors
    /// [`SinkError::Entry`] for an entry that cannot be replayed; anything else ends the program.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        let plan: Plan<'_> = self.planner.plan(batch.entries).map_err(SinkError::Entry)?;
        self.metrics.folded.inc_by(plan.folded);
        for step in &plan.steps {
            let applied = match step {
                Step::Write(lanes) => self.send_lanes(lanes, token).await?,
                Step::Create { db, collection, .. } => self.create(db, collection, token).await?,
            };
            if applied == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    async fn send_lanes(
        &self,
        lanes: &[Lane<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let sent = lanes.iter().map(|lane| async move {
            for bulk in &lane.bulks {
                let sent = match bulk.kind {
                    BulkKind::Rewrite => self.rewrite_bulk(bulk, token).await?,
                    BulkKind::Insert | BulkKind::Delete | BulkKind::Update => {
                        self.send_bulk(bulk, token).await?
                    }
                };
                if sent == Applied::Abandoned {
                    return Ok::<_, ConsumerError>(Applied::Abandoned);
                }
            }
            Ok(Applied::Done)
        });
        let all: Vec<Applied> = try_join_all(sent).await?;
        let done = all.iter().all(|applied| *applied == Applied::Done);
        Ok(if done {
            Applied::Done
        } else {
            Applied::Abandoned
        })
    }

    /// Creates a collection, unless it is there.
    async fn create(
        &self,
        db: &str,
        collection: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            let command = doc! { "create": collection, "writeConcern": { "w": "majority" } };
            let Err(error) = self.client.database(db).run_command(command).await else {
                return Ok(Applied::Done);
            };
            let rule = error_code(&error).map(rule_for);
            match rule.map(|rule| rule.directive) {
                Some(Directive::Skip) => return Ok(Applied::Done),
                directive if directive == Some(Directive::Retry) || is_transient(&error) => {
                    self.readiness.target_failed(&error.kind.to_string());
                    self.metrics.count_error("target");
                    if !backoff.sleep(&self.shutdown).await {
                        return Ok(Applied::Abandoned);
                    }
                }
                _ => {
                    let reason = rule.map_or("the target refuses it", |rule| rule.reason);
                    return Err(ConsumerError::Refused(format!(
                        "collection {db}.{collection} cannot be created on the target: {}: {reason}",
                        error.kind
                    )));
                }
            }
        }
    }
}
