//! Reads of single entries by their place in the oplog: the window, and the entries next to a time.

use bson::{Document as Bson, doc};
use mongodb::options::{FindOneOptions, FindOptions, ReadConcern};
use oplog_relay_core::document::Document;
use oplog_relay_core::position::{OpTime, Position, Timestamp};
use oplog_relay_runtime::mongo::{self, in_time};

use super::link::optime;
use super::{Oplog, SCAN, bson_timestamp};
use crate::error::ProducerError;
use crate::oplog_window::OplogWindow;

/// Length in seconds of the first stretch before a time that is searched for its last entry.
const STRETCH: u32 = 10;

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

    /// Returns the oplog of the member that is read, or that of the primary if only that one may reach back
    /// to a time: the oplog of a member that was synced recently is shorter than that of its set.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn reaching(self, ts: Timestamp) -> Result<Self, ProducerError> {
        let oldest = self.oldest().await?;
        Ok(match oldest {
            Some(oldest) if oldest.ts > ts => self.on_primary(),
            _ => self,
        })
    }

    /// Returns time and term of the entry with exactly this time.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn position_at(&self, ts: Timestamp) -> Result<Option<Position>, ProducerError> {
        let options = FindOneOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(fields())
            .build();
        let found = self.entries.find_one(doc! { "ts": bson_timestamp(ts) });
        let found = in_time(SCAN, found.with_options(options)).await;
        let found = found.map_err(ProducerError::Source)?;
        found.map(|found| read(found.as_bytes())).transpose()
    }

    /// Returns time and term of the last entry at or before a time; `None` if the oplog begins later.
    ///
    /// A server finds the first entry at or after a time at once. A scan in the other direction would
    /// begin at the newest entry, so short stretches before the time are read forward.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn last_until(&self, ts: Timestamp) -> Result<Option<Position>, ProducerError> {
        let Some(oldest) = self.oldest().await? else {
            return Ok(None);
        };
        for stretch in stretches(oldest.ts, ts) {
            if let Some(last) = self.last_in(stretch).await? {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// Returns time and term of the last entry in a stretch.
    async fn last_in(&self, stretch: Stretch) -> Result<Option<Position>, ProducerError> {
        let Stretch { first, last } = stretch;
        let (from, through) = (bson_timestamp(first), bson_timestamp(last));
        let options = FindOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(fields())
            .build();
        let filter = doc! { "ts": { "$gte": from, "$lte": through } };
        let found = self.entries.find(filter).with_options(options);
        let mut found = in_time(SCAN, found).await.map_err(ProducerError::Source)?;
        let mut before = None;
        while in_time(SCAN, found.advance())
            .await
            .map_err(ProducerError::Source)?
        {
            let position = read(found.current().as_bytes())?;
            if position.ts > last {
                break;
            }
            before = Some(position);
        }
        Ok(before)
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
        let options = FindOneOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(fields())
            .sort(doc! { "$natural": -1 })
            .build();
        let found = self.entries.find_one(filter).with_options(options);
        let found = in_time(SCAN, found).await.map_err(ProducerError::Source)?;
        found.map(|found| read(found.as_bytes())).transpose()
    }
}

/// Times between which an oplog is searched, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: Timestamp,
    last: Timestamp,
}

/// Returns the stretches from a time back to the oldest entry. Each one is twice as long as the one
/// after it.
fn stretches(oldest: Timestamp, ts: Timestamp) -> impl Iterator<Item = Stretch> {
    let mut last = (oldest <= ts).then_some(ts);
    let mut seconds = STRETCH;
    std::iter::from_fn(move || {
        let end = last?;
        let begin = Timestamp::new(end.seconds.saturating_sub(seconds), 0).max(oldest);
        last = (begin > oldest).then(|| begin.before());
        seconds = seconds.saturating_mul(2);
        Some(Stretch {
            first: begin,
            last: end,
        })
    })
}

/// Returns the fields that are read. No others are, because an entry may have 16 MB.
pub(super) fn fields() -> Bson {
    doc! { "_id": 0, "ts": 1, "t": 1 }
}

/// Reads time and term of an entry.
pub(super) fn read(bytes: &[u8]) -> Result<Position, ProducerError> {
    let document = Document::new(bytes).map_err(ProducerError::undecodable)?;
    let OpTime { ts, term } = optime(document).map_err(ProducerError::undecodable)?;
    Ok(Position { ts, term, ord: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oplog_is_searched_backwards_in_growing_stretches() {
        let found = |oldest, seconds| -> Vec<(u32, u32)> {
            let ts = Timestamp::new(seconds, 7);
            let stretches: Vec<Stretch> = stretches(Timestamp::new(oldest, 1), ts).collect();
            for pair in stretches.windows(2) {
                assert_eq!(pair[1].last, pair[0].first.before(), "nothing is left out");
            }
            let seconds = |it: &Stretch| (it.first.seconds, it.last.seconds);
            stretches.iter().map(seconds).collect()
        };
        assert_eq!(found(95, 100), [(95, 100)]);
        assert_eq!(found(50, 100), [(90, 100), (69, 89), (50, 68)]);
        assert!(found(101, 100).is_empty());
        assert_eq!(found(100, 100), [(100, 100)]);
    }
}
