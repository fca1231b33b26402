//! The end of a copy: indexes, and views after everything else.

use std::collections::BTreeMap;

use bson::{Document as Typed, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::CopyKind;

use super::copies::Copy;
use super::listing::Listed;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::full_sync::interleave::Interleaving;
use crate::source::{Copied, SourceEvent, Work};
use oplog_relay_runtime::clock::now_ms;

/// A collection on the source with its indexes; `None` if it does not exist.
type Seen = Option<(Listed, Vec<Typed>)>;

impl Interleaving {
    /// Ends the copies whose documents have all been read. The tail must first pass the time of their
    /// last read. Their indexes are listed before and after that, and sent if both lists are equal. A
    /// copy whose collection or indexes changed in between is retried in the next turn.
    pub(super) async fn finish(&mut self) -> Result<(), ProducerError> {
        let copies = &self.sync.copies;
        let views = copies.are_views();
        let ready =
            copies.keys_of(|copy| copy.is_read() && (views || copy.record.kind != CopyKind::View));
        if ready.is_empty() {
            return Ok(());
        }
        let before = self.list_with_indexes(&ready).await?;
        self.tail_past_now().await?;
        let after = self.list_with_indexes(&ready).await?;
        for (key, seen) in after {
            if before.get(&key) == Some(&seen) {
                match seen {
                    Some((listed, indexes)) => self.end(&key, listed, indexes).await?,
                    None => self.close(&key).await?,
                }
            }
        }
        Ok(())
    }

    async fn list_with_indexes(
        &self,
        keys: &[String],
    ) -> Result<BTreeMap<String, Seen>, ProducerError> {
        let mut all = BTreeMap::new();
        for copy in self
            .sync
            .copies
            .iter()
            .filter(|copy| keys.contains(&copy.key))
        {
            let source = &self.sync.source;
            let seen = match source.find(&copy.record.ns, copy.ui).await? {
                Some(listed) if listed.kind == CopyKind::View => Some((listed, Vec::new())),
                Some(listed) => {
                    let indexes = source.indexes(&listed.ns).await?;
                    Some((listed, indexes))
                }
                None => None,
            };
            all.insert(copy.key.clone(), seen);
        }
        Ok(all)
    }

    async fn end(
        &mut self,
        key: &str,
        listed: Listed,
        indexes: Vec<Typed>,
    ) -> Result<(), ProducerError> {
        let Some(copy) = self.sync.copies.remove(key) else {
            return Ok(());
        };
        let work = last_work(&copy, &listed, indexes);
        let work = work.map_err(|error| EntryFault::Definition {
            part: "definition",
            ns: listed.ns.clone(),
            reason: error.to_string(),
        })?;
        let record = &copy.record;
        tracing::info!(
            ns = listed.ns,
            documents = record.documents,
            bytes = record.bytes,
            "collection copied"
        );
        self.sync.metrics.full_sync.finished(record);
        let copied = Copied {
            ns: listed.ns,
            ui: copy.ui,
            captured_at: now_ms(),
            work,
            saves: copy.close(),
            holds_indexes: Some(false),
        };
        self.send(SourceEvent::Copied(Box::new(copied))).await
    }
}

/// Returns the records of the last step of a copy.
fn last_work(copy: &Copy, listed: &Listed, indexes: Vec<Typed>) -> bson::error::Result<Work> {
    let name = Namespace::split(&listed.ns).collection;
    if copy.record.kind == CopyKind::View {
        let mut view = doc! { "_id": &listed.ns };
        view.extend(listed.options.clone());
        return Ok(Work::View(view.to_vec()?));
    }
    if copy.record.only_documents || indexes.is_empty() {
        return Ok(Work::Nothing);
    }
    Ok(Work::Command(
        doc! { "createIndexes": name, "indexes": indexes }.to_vec()?,
    ))
}
