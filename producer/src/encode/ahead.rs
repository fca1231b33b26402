//! Lookups of documents, and the creation of topics. Both are done for several entries of a batch
//! together, before the first of these entries is encoded.

use std::collections::BTreeSet;

use oplog_relay_core::entry::{Entry, Operation};

use super::Encoder;
use crate::error::ProducerError;
use crate::source::Documents;

/// The progress of the creation of topics in a batch.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Number of topics that were known before the batch.
    known_topics: usize,
    /// True if the topics of the following entries were created.
    has_topics: bool,
}

impl Ahead {
    /// Returns the progress at the beginning of a batch.
    pub(super) fn of(encoder: &Encoder) -> Self {
        Self {
            known_topics: encoder.indexes.len(),
            has_topics: false,
        }
    }
}

impl Encoder {
    /// Looks up the documents and creates the topics that an entry needs, together with those of
    /// the following entries; `rest` begins with the entry.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        entry: &Entry<'_>,
        rest: Documents<'_>,
        ahead: &mut Ahead,
    ) -> Result<(), ProducerError> {
        if self.current.is_some() {
            self.look_up_ahead(entry, &rest)?;
        }
        if self.before.is_some() {
            self.look_up_before_ahead(entry, &rest)?;
        }
        // Several collections are often new at once; at the start all of them are.
        if !ahead.has_topics && (self.indexes.len() > ahead.known_topics || self.needs_topic(entry))
        {
            ahead.has_topics = true;
            self.look_ahead(rest)?;
        }
        Ok(())
    }

    /// Returns true if an entry is a command on a collection whose topic has not been used yet, such
    /// as the `create` that a server logs ahead of the first insert.
    #[inline]
    fn needs_topic(&self, entry: &Entry<'_>) -> bool {
        let is_new = |topic: &String| !self.indexes.contains_key(topic);
        entry.operation == Operation::Command
            && self.format.is_replayable()
            && self.router.topics_ahead(entry).iter().any(is_new)
    }

    /// Creates the topics of the following entries together.
    #[cold]
    fn look_ahead(&mut self, documents: Documents<'_>) -> Result<(), ProducerError> {
        // A damaged entry is reported when it is encoded.
        let entries = documents.map_while(|document| Entry::parse(document.ok()?).ok());
        let entries = entries.filter(|entry| !self.is_for_replays_only(entry));
        let topics = entries.flat_map(|entry| self.router.topics_ahead(&entry));
        let topics: BTreeSet<_> = topics
            .filter(|topic| !self.indexes.contains_key(topic))
            .collect();
        if topics.len() > 1 {
            self.topics.prepare(&topics)?;
        }
        Ok(())
    }
}
