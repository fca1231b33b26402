//! Reads of one entry by its time, which may project some of its fields.

use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Bson, Document as Doc};
use oplog_relay_core::document::{Document, Malformed, kind};
use oplog_relay_core::position::Timestamp;

/// Number of reads of single entries that were answered.
#[derive(Debug, Default)]
pub(super) struct Points {
    projected: AtomicU64,
    whole: AtomicU64,
}

impl Points {
    pub(super) fn add(&self, projection: &Doc) {
        let counter = match projection.is_empty() {
            true => &self.whole,
            false => &self.projected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of projected reads, and of reads of whole entries.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = [&self.projected, &self.whole].map(|counter| counter.load(Ordering::Relaxed));
        counts.into()
    }
}

/// Returns the time of `{ts: <time>}`.
pub(super) fn at(filter: Document<'_>) -> Result<Option<Timestamp>, Malformed> {
    let ts = filter.get("ts")?.filter(|ts| ts.kind == kind::TIMESTAMP);
    ts.map(|ts| Ok(Timestamp::from_le_bytes(ts.fixed()?)))
        .transpose()
}

/// Returns the fields of an inclusive projection; paths have two parts at most.
pub(crate) fn project(entry: Doc, projection: &Doc) -> Doc {
    if projection.is_empty() {
        return entry;
    }
    let mut left = Doc::new();
    for (name, value) in entry {
        if projection.contains_key(&name) {
            left.insert(name, value);
        } else if let Bson::Document(inner) = value {
            let prefix = format!("{name}.");
            let named = |inner: &String| projection.contains_key(format!("{prefix}{inner}"));
            if projection.keys().any(|path| path.starts_with(&prefix)) {
                let inner: Doc = inner.into_iter().filter(|(name, _)| named(name)).collect();
                left.insert(name, inner);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_projection_keeps_the_named_fields() {
        let entry = || doc! { "ts": 1, "o": { "applyOps": [1], "count": 2 }, "o2": { "x": 1 } };
        let projection = doc! { "_id": 0, "ts": 1, "o.count": 1 };
        let expected = doc! { "ts": 1, "o": { "count": 2 } };
        assert_eq!(project(entry(), &projection), expected);
        assert_eq!(project(entry(), &doc! {}), entry());
    }
}
