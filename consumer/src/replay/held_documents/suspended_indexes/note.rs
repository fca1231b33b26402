//! The note of a suspended index.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use oplog_relay_core::position::EntryId;

use crate::replay::held_documents::error::HeldError;
use crate::topic_partition::TopicPartition;

/// The collection of the notes, in the catalog's database.
pub(super) const COLLECTION: &str = "suspended_indexes";

/// An index that was dropped and will be built again.
#[derive(Debug, Clone)]
pub(crate) struct SuspendedIndex {
    /// The `_id` of its note.
    pub(crate) note: String,
    /// Namespace of its collection.
    pub(crate) ns: String,
    pub(crate) definition: Document,
    /// The partition whose worker builds the index again. A command that rebuilds an index builds it
    /// itself, or when it is run again.
    pub(crate) owner: Option<TopicPartition>,
    /// The entry whose document the index refused, or the entry of the command.
    pub(crate) entry: EntryId,
    /// Time of the suspension, of its takeover by this member, or of the last failed build, in
    /// seconds since the Unix epoch. Entries that are newer cannot have been applied before it.
    pub(crate) since: u64,
    /// Number of failed builds.
    pub(crate) failures: u32,
    /// Earliest time of the next build.
    pub(crate) next: Instant,
}

impl SuspendedIndex {
    pub(crate) fn is_of(&self, topic: &str, partition: i32) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| owner.is(topic, partition))
    }

    pub(crate) fn name(&self) -> &str {
        self.definition.get_str("name").unwrap_or_default()
    }

    /// Returns true if the index can be built again. `applied` is the time of the last applied
    /// entry, in seconds since the Unix epoch, or `None` if the partition has nothing to apply.
    pub(crate) fn is_due(&self, applied: Option<u32>) -> bool {
        let is_over = applied.is_none_or(|seconds| u64::from(seconds) > self.since);
        is_over && self.next <= Instant::now()
    }

    pub(crate) fn document(&self, group: &str) -> mongodb::error::Result<Document> {
        let bytes = Binary {
            subtype: BinarySubtype::Generic,
            bytes: self.definition.to_vec()?,
        };
        let mut note = doc! {
            "_id": &self.note, "group": group, "ns": &self.ns, "name": self.name(), "index": bytes,
            "ts": self.entry.ts.to_string(), "ord": i64::from(self.entry.ord),
        };
        if let Some(TopicPartition { topic, partition }) = &self.owner {
            note.extend(doc! { "topic": topic, "partition": partition });
        }
        Ok(note)
    }

    pub(crate) fn read(note: &Document) -> Option<Self> {
        let definition = note.get_binary_generic("index").ok()?;
        let owner = if note.contains_key("topic") {
            Some(TopicPartition {
                topic: note.get_str("topic").ok()?.to_owned(),
                partition: note.get_i32("partition").ok()?,
            })
        } else {
            None
        };
        Some(Self {
            note: note.get_str("_id").ok()?.to_owned(),
            ns: note.get_str("ns").ok()?.to_owned(),
            definition: Document::from_reader(definition.as_slice()).ok()?,
            owner,
            entry: EntryId {
                ts: note.get_str("ts").ok()?.parse().ok()?,
                ord: u32::try_from(note.get_i64("ord").ok()?).ok()?,
            },
            since: now(),
            failures: 0,
            next: Instant::now(),
        })
    }

    /// Returns the error for an index that the target refuses to build.
    pub(crate) fn refusal(&self, error: &mongodb::error::Error) -> HeldError {
        HeldError::IndexRefused {
            definition: self.definition.clone(),
            ns: self.ns.clone(),
            entry: self.entry,
            reason: error.kind.to_string(),
            collection: COLLECTION,
            note: self.note.clone(),
        }
    }
}

/// Returns the seconds since the Unix epoch by this host's clock.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The indexes that may be suspended so that a held document can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MakingWay {
    /// Indexes that were created by a command after the document's last entry.
    Newer,
    /// Also unique indexes that were created by an earlier command, because the target is known to be
    /// ahead. Other kinds of indexes refuse a document because of its own values, so they refused it
    /// when the entry was first applied as well.
    AlsoOlder,
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::Timestamp;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let index = SuspendedIndex {
            note: "g/s.a/k_1".to_owned(),
            ns: "s.a".to_owned(),
            definition: doc! {
                "v": 2, "key": { "k.x": 1 }, "name": "k_1", "unique": true,
                "partialFilterExpression": { "k.x": { "$gt": 1 } },
            },
            owner: Some(TopicPartition {
                topic: "p.s.a".to_owned(),
                partition: 3,
            }),
            entry: EntryId {
                ts: Timestamp::new(7, 2),
                ord: 1,
            },
            since: 0,
            failures: 0,
            next: Instant::now(),
        };
        let note = index.document("g").unwrap();
        let read = SuspendedIndex::read(&note).unwrap();
        assert_eq!(read.definition, index.definition);
        assert_eq!(
            (read.ns, read.owner),
            (index.ns.clone(), index.owner.clone())
        );
        assert_eq!(read.entry, index.entry);
        let of_command = SuspendedIndex {
            owner: None,
            ..index
        };
        let note = of_command.document("g").unwrap();
        assert_eq!(SuspendedIndex::read(&note).unwrap().owner, None);
        assert!(SuspendedIndex::read(&doc! { "_id": "g" }).is_none());
    }
}
