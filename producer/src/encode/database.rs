//! The drop of a database.
//!
//! Servers from 3.6 on log a `drop` of each collection before `dropDatabase`. Servers up to 3.4 log
//! `dropDatabase` alone. Such a `dropDatabase` is encoded as a `drop` of each known collection
//! without a UUID, each with barriers like any other `drop`, followed by the `dropDatabase` itself.
//! The drops have the ordinals 0, 1, … of the entry. Each drop removes its collection from the
//! routing table, in the Kafka transaction that also moves the position. A session that starts
//! after some of the drops therefore continues with the remaining collections.

use oplog_relay_core::command::write_drop;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;

use super::{Encoder, HandOn, damaged};
use crate::encode::chunk::Chunk;
use crate::error::ProducerError;

impl Encoder {
    /// Encodes a `dropDatabase`, of which an earlier session has sent `done` drops.
    #[cold]
    pub(crate) fn encode_drop_database(
        &mut self,
        entry: &Entry<'_>,
        done: u32,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let db = entry.namespace().db;
        let collections = self.router.collections_without_uuid(db);
        let mut id = EntryId {
            ts: entry.ts,
            ord: done,
        };
        if !collections.is_empty() {
            tracing::info!(
                db,
                at = %entry.ts,
                collections = collections.len(),
                "the source logged dropDatabase without a drop of each collection, as MongoDB up \
                 to 3.4 does; sending the drops one by one"
            );
        }
        for collection in collections {
            let mut drop = Vec::new();
            write_drop(entry, &collection, &mut drop).map_err(|error| damaged(entry, &error))?;
            let drop = Document::new(&drop).map_err(ProducerError::undecodable)?;
            let drop = self.read_entry(drop)?;
            self.encode_operation(&drop, id, true, chunk)?;
            id.ord += 1;
            self.reach(entry, id.ord, chunk);
            self.hand_on_full(chunk, hand_on)?;
        }
        self.encode_operation(entry, id, false, chunk)
    }
}
