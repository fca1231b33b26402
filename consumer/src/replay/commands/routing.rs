//! Applies a change of the routing table to the target. If the entries of a collection are spread
//! over all partitions from then on, its unique indexes become non-unique, because they depend on
//! the order of the entries.

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::routing::{RoutingChange, SpreadCollection};
use oplog_relay_runtime::mongo::is_set;

use crate::error::ConsumerError;
use crate::replay::catalog::{Moment, Note, Resolved};
use crate::replay::commands::failure::CommandFailure;
use crate::replay::sink::MongoSink;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;
use crate::worker::batch::Located;

/// Fields that are removed to make an index non-unique.
const UNIQUE_FIELDS: [&str; 3] = ["unique", "prepareUnique", "ns"];

impl MongoSink {
    /// Makes the unique indexes of each spread collection non-unique, unless that was done before,
    /// and records the entry in the catalog, which the workers at its barriers check.
    ///
    /// # Errors
    /// Returns an error if the target refuses the change, or if the entry cannot be read.
    pub async fn change_routing(
        &self,
        source: &str,
        located: &Located<'_>,
        filter: &NamespaceFilter,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let Located { id, entry, .. } = *located;
        if self.has_run(source, id).await? {
            return Ok(Applied::Done);
        }
        let change = RoutingChange::read(&entry)
            .ok()
            .flatten()
            .ok_or(CommandFailure::RoutingUnreadable { entry: id })?;
        let incarnations = self.incarnations_at(source, id).await?;
        let spread = change.spread.iter();
        for SpreadCollection { ns, ui } in spread.filter(|spread| filter.passes(&spread.ns)) {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            if let Resolved::Live(ns) = incarnations.resolve(ns, Moment::Time(id), *ui) {
                if Box::pin(self.restore_of(ns, token)).await? == Applied::Abandoned {
                    return Ok(Applied::Abandoned);
                }
                if self.make_non_unique(ns, id, token).await? == Applied::Abandoned {
                    return Ok(Applied::Abandoned);
                }
            }
        }
        self.forget_order();
        let note = Note::passed_over(id, entry.ns.to_owned(), None);
        self.note(source, &note).await?;
        Ok(Applied::Done)
    }

    /// Makes the unique indexes of a collection non-unique.
    async fn make_non_unique(
        &self,
        ns: &str,
        id: EntryId,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        for index in self.indexes_of(ns).await? {
            let name = index.get_str("name").unwrap_or_default();
            if name == "_id_" || !is_set(&index, "unique") {
                continue;
            }
            tracing::warn!(
                ns,
                index = %index,
                entry = %id,
                "making the unique index non-unique on the target, because the collection is \
                 partitioned by _id from now on (--order id)"
            );
            let mut rebuilt = index.clone();
            for field in UNIQUE_FIELDS {
                rebuilt.remove(field);
            }
            let rebuilding = Box::pin(self.rebuild_index(ns, id, rebuilt, token));
            if rebuilding.await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }
}
