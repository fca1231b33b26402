//! Reads of single entries by their place in the oplog: the window, and the entries next to a time.

use bson::{Document as Bson, doc};
use mongodb::options::{FindOneOptions, ReadConcern};
use oplog_relay_core::document::Document;
use oplog_relay_core::position::{OpTime, Position, Timestamp};
use oplog_relay_runtime::mongo::{self, in_time};

use super::link::optime;
use super::{Oplog, SCAN, bson_timestamp};
use crate::error::ProducerError;
use crate::oplog_window::OplogWindow;

impl Oplog {
    /// Returns the times between which the oplog has entries; `None` if it is empty, or if the server
    /// does not report its newest entry, because other ways to find that may read the whole oplog. The
    /// primary is asked if the oplog of the member that is read does not reach back to `position`.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn window(
        &self,
        position: Option<Timestamp>,
    ) -> Result<Option<OplogWindow>, ProducerError> {
        let hello = mongo::hello(self.entries.client()).await;
        let hello = hello.map_err(ProducerError::Source)?;
        let Some(newest) = hello.last_majority_write.or(hello.last_write) else {
            return Ok(None);
        };
        let Some(mut oldest) = self.oldest().await? else {
            return Ok(None);
        };
        if position.is_some_and(|position| position < oldest.ts) {
            // The oplog of a member that was synced recently is shorter than that of its set.
            oldest = self.on_primary().oldest().await?.unwrap_or(oldest);
        }
        Ok(Some(OplogWindow {
            oldest: oldest.ts,
            newest: newest.ts.max(oldest.ts),
        }))
    }

    /// Returns time and term of the last entry at or before a time.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn last_until(&self, ts: Timestamp) -> Result<Option<Position>, ProducerError> {
        self.last_of(doc! { "ts": { "$lte": bson_timestamp(ts) } })
            .await
    }

    /// Returns the last entry that this oplog can share with another history, which has an entry at
    /// `position` that this one does not have. It is the last entry before that time in the same or an
    /// earlier term: a later term began where the histories part.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn last_shared(&self, position: Position) -> Result<Option<Position>, ProducerError> {
        // Without terms, as on FerretDB, one history cannot be told from another.
        if position.term < 0 {
            return Ok(None);
        }
        let filter = doc! {
            "ts": { "$lt": bson_timestamp(position.ts) },
            "t": { "$lte": position.term },
        };
        self.last_of(filter).await
    }

    /// Returns time and term of the last entry that matches.
    async fn last_of(&self, filter: Bson) -> Result<Option<Position>, ProducerError> {
        // Only these fields are read, because an entry may have 16 MB.
        let fields = doc! { "_id": 0, "ts": 1, "t": 1 };
        let options = FindOneOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(fields)
            .sort(doc! { "$natural": -1 })
            .build();
        let found = self.entries.find_one(filter).with_options(options);
        let found = in_time(SCAN, found).await.map_err(ProducerError::Source)?;
        let Some(found) = found else { return Ok(None) };
        let document = Document::new(found.as_bytes()).map_err(ProducerError::undecodable)?;
        let OpTime { ts, term } = optime(document).map_err(ProducerError::undecodable)?;
        Ok(Some(Position { ts, term, ord: 0 }))
    }
}
