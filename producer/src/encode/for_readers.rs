//! Topics that are for readers only: they contain the changes of documents, but nothing that only a
//! replay needs.

use oplog_relay_core::command::scope;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::format::{Format, is_for_readers};
use oplog_relay_runtime::clock::now_ms;

use super::Encoder;
use crate::encode::chunk::Chunk;
use crate::error::ProducerError;
use crate::prepare::route::Decision;

impl Encoder {
    /// Returns true if an entry has no record in the topics because they are for readers only.
    #[inline]
    pub(super) fn is_for_replays_only(&self, entry: &Entry<'_>) -> bool {
        !self.format.is_replayable() && !is_for_readers(entry)
    }

    /// Skips an entry. A command still changes the routing table, because its collection may have
    /// another name afterwards.
    #[cold]
    pub(super) fn leave_to_replays(
        &mut self,
        entry: &Entry<'_>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        if entry.operation != Operation::Noop {
            chunk.counts.filtered += 1;
        }
        if entry.operation == Operation::Command
            && let Decision::Command(route) = self.router.decide(entry)?
        {
            if self.format.is_latest_state() {
                warn_of_stale_documents(entry)?;
            }
            if route.changes.is_empty() {
                return Ok(());
            }
            self.open_state(chunk)?;
            self.save_routes(&route.changes, chunk)?;
            self.router.apply(route.changes);
        }
        Ok(())
    }

    /// Notes the current time for the records of a batch, if the format contains it.
    pub(super) fn note_time(&mut self) {
        if let Format::Debezium(_) = self.format {
            self.place.processed_at = now_ms();
        }
    }
}

/// Warns of a command after which a topic of latest states differs from its collection. No
/// tombstones can be written, because the keys of the documents are not in the oplog.
#[cold]
fn warn_of_stale_documents(entry: &Entry<'_>) -> Result<(), ProducerError> {
    let damaged = |error| ProducerError::damaged(entry, &error);
    let Some(scope) = scope(entry).map_err(damaged)? else {
        return Ok(());
    };
    let (ns, at) = (scope.ns(), entry.ts);
    match (scope.to_ns(), entry.command().map_err(damaged)?.name) {
        (Some(to), _) => tracing::warn!(
            ns,
            to,
            %at,
            "the collection was renamed: its old topic keeps its documents, and the new topic receives only \
             documents that change from now on. Run oplog-producer full-sync --namespaces {to} to copy the \
             others. Documents of a replaced collection stay in the new topic"
        ),
        (None, b"drop") => tracing::warn!(
            ns,
            %at,
            "the collection was dropped: its topic keeps the last state of its documents, because their \
             keys are not in the oplog. To remove them, start again under another --topic-prefix with a \
             new full sync"
        ),
        (None, b"emptycapped") => tracing::warn!(
            ns,
            %at,
            "all documents of the collection were removed: its topic keeps their last state, because their \
             keys are not in the oplog. To remove them, start again under another --topic-prefix with a \
             new full sync"
        ),
        _ => {}
    }
    Ok(())
}
