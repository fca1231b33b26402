//! Topics that are for readers only: they have the changes of documents, and nothing of what only a
//! replay needs.

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

    /// Passes an entry over. The table of routes follows a command, whose collection may have another
    /// name afterwards.
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
            && !route.changes.is_empty()
        {
            self.open_state(chunk)?;
            self.save_routes(&route.changes, chunk)?;
            self.router.apply(route.changes);
        }
        Ok(())
    }

    /// Notes the current time for the records of a batch, if the format has it.
    pub(super) fn note_time(&mut self) {
        if let Format::Debezium(_) = self.format {
            self.place.processed_at = now_ms();
        }
    }
}
