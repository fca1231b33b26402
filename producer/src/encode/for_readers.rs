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
                warn_of_stale_documents(entry, route.as_drop_of.is_some())?;
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
fn warn_of_stale_documents(entry: &Entry<'_>, leaves_stream: bool) -> Result<(), ProducerError> {
    let damaged = |error| ProducerError::damaged(entry, &error);
    let Some(scope) = scope(entry).map_err(damaged)? else {
        return Ok(());
    };
    let (ns, to, at) = (scope.ns(), scope.to_ns(), entry.ts);
    let to = to.as_deref();
    let command = entry.command().map_err(damaged)?.name;
    if let Some(stale) = stale_documents(to, command, leaves_stream) {
        tracing::warn!(ns, to, %at, "{stale}");
    }
    Ok(())
}

/// Returns what differs after a command, and what an operator can do; `to` is the new name after a
/// rename.
fn stale_documents(to: Option<&str>, command: &[u8], leaves_stream: bool) -> Option<String> {
    const REMOVE: &str =
        "To remove them, start again under another --topic-prefix with a new full sync";
    let what = match (to, command) {
        // A copy of an excluded collection would be refused.
        (Some(to), _) if leaves_stream => format!(
            "the collection was renamed to {to}, which is not streamed: its topic keeps the last state of its \
             documents. {REMOVE}"
        ),
        (Some(to), _) => format!(
            "the collection was renamed: its old topic keeps its documents, and the new topic receives only \
             documents that change from now on. Run oplog-producer full-sync --namespaces {to} to copy the \
             others, which is not possible beside a change stream. Documents of a replaced collection stay \
             in the new topic"
        ),
        (None, b"drop") => format!(
            "the collection was dropped: its topic keeps the last state of its documents, because their \
             keys are not in the oplog. {REMOVE}"
        ),
        (None, b"emptycapped") => format!(
            "all documents of the collection were removed: its topic keeps their last state, because their \
             keys are not in the oplog. {REMOVE}"
        ),
        _ => return None,
    };
    Some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_recommended_only_of_a_collection_that_is_streamed() {
        let text = |leaves| stale_documents(Some("shop.b"), b"renameCollection", leaves).unwrap();
        assert!(text(false).contains("full-sync --namespaces shop.b"));
        assert!(!text(true).contains("full-sync") && text(true).contains("--topic-prefix"));
        assert_eq!(stale_documents(None, b"create", false), None);
    }
}
