//! The target of a replay: its client, its limits and features, and whether it can be reached.

use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use oplog_relay_runtime::mongo;
use oplog_relay_runtime::shutdown::Shutdown;

use crate::error::ConsumerError;
use crate::replay::capabilities::{accepts_literals, accepts_uuids};
use crate::replay::sharding::known::Sharding;
use crate::replay::writes::bypass::Bypass;
use crate::replay::writes::limits::{Limits, is_ferretdb};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

/// Pause before the first retry of an operation on the target. It doubles with each retry, up to
/// `LONGEST_PAUSE`.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause before a retry.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A target that has been reached.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) limits: Limits,
    /// True if the target accepts `collectionUUID` in commands.
    pub(super) accepts_uuids: bool,
    /// True if the target accepts a whole document as a literal in an update pipeline, which keeps
    /// zero timestamps.
    pub(super) accepts_literals: bool,
    pub(super) bypass: Bypass,
    /// The shard keys of collections, if the target is a sharded cluster.
    pub(super) sharding: Option<Sharding>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) shutdown: Shutdown,
}

impl Target {
    /// Queries the limits and features of a server.
    ///
    /// # Errors
    /// Returns an error if the server does not reply, refuses `hello`, or replies to a probe of a feature
    /// with a transient error.
    pub(super) async fn open(
        client: Client,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let failed =
            |error: mongodb::error::Error| mongo::MongoError::from_driver("the target", &error);
        let hello = mongo::hello(&client).await.map_err(failed)?;
        Ok(Self {
            limits: Limits::of(&hello, is_ferretdb(&client).await),
            accepts_uuids: accepts_uuids(&client).await.map_err(failed)?,
            accepts_literals: accepts_literals(&client).await.map_err(failed)?,
            bypass: Bypass::default(),
            sharding: hello.is_mongos.then(Sharding::default),
            client,
            metrics,
            readiness,
            shutdown,
        })
    }
}
