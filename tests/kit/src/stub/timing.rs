//! The time from the commit of an entry at the source until its document is inserted.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bson::{Document as Bson, doc};
use oplog_relay_core::document::Document;

/// An inserted document.
#[derive(Debug, Clone, Copy)]
struct Insert {
    /// Its field `ordered`: the commit time at the source, in milliseconds since 1970.
    ordered: i64,
    /// Microseconds from then until the insert.
    micros: i64,
}

/// The inserts so far.
#[derive(Debug, Default)]
pub(super) struct Timing(Mutex<Vec<Insert>>);

impl Timing {
    /// Notes documents that are inserted now. Those without `ordered` are ignored.
    pub(super) fn note<'d>(&self, documents: impl Iterator<Item = Document<'d>>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_micros());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let ordered = documents.filter_map(|document| {
            let ordered = document.get("ordered").ok()??;
            ordered.date().ok()
        });
        let mut inserts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inserts.extend(ordered.map(|ordered| Insert {
            ordered,
            micros: now - ordered * 1000,
        }));
    }

    /// Returns all inserts, as two arrays.
    pub(super) fn report(&self) -> Bson {
        let inserts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ordered: Vec<i64> = inserts.iter().map(|insert| insert.ordered).collect();
        let micros: Vec<i64> = inserts.iter().map(|insert| insert.micros).collect();
        doc! { "ordered": ordered, "micros": micros }
    }
}
