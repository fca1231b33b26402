//! Writes that a cluster keeps refusing because of the shard key, or because of an orphaned document.

use crate::error::ConsumerError;
use crate::replay::directive::{DUPLICATE_KEY, Directive, rule_for};
use crate::replay::plan::Write;
use crate::replay::sink::MongoSink;
use crate::replay::writes::outcome::refusal;
use crate::replay::writes::reply::WriteError;

/// The code of a refusal by this program: the document is no longer where it was.
const NO_CODE: i32 = 0;

impl MongoSink {
    /// Returns true if a shard refuses an insert because of an orphaned document, which a migration of
    /// chunks has left behind, which no lookup returns, and which the shard deletes later. In a
    /// collection with a collation, the other document may have an equal `_id` instead.
    pub(crate) async fn waits_for_orphan(
        &self,
        ns: &str,
        error: &WriteError,
    ) -> Result<bool, ConsumerError> {
        let key = self.shard_key_of(ns).await?;
        if error.code != DUPLICATE_KEY || key.is_none_or(|key| key.has_collation()) {
            return Ok(false);
        }
        self.target.metrics.count_error("target");
        self.target.readiness.target_failed(&format!(
            "a shard has an orphaned document of {ns} with the _id of an entry; the insert is repeated \
             until the shard has deleted it (run cleanupOrphaned on the shard to delete it now): {}",
            error.text
        ));
        Ok(true)
    }

    /// Refuses a write that a cluster keeps refusing because of its shard key. A code that may concern
    /// every write stops the replay.
    pub(crate) fn refuse_misrouted(
        &self,
        ns: &str,
        write: &Write<'_>,
        error: &WriteError,
    ) -> Result<(), ConsumerError> {
        if error.code != NO_CODE && rule_for(error.code).directive == Directive::Stop {
            return Err(refusal(ns, write, error).into());
        }
        self.refuse_write(ns, write, error)
    }
}
