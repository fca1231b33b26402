//! Finds routed collections that have ended on the source.
//!
//! A replay identifies collections by their UUIDs. A drop or a rename that it never receives leaves the
//! name with the old collection, and the first later entry of another collection under this name stops the
//! replay for good. If the source is given, a position is therefore moved forward only if the collections
//! of the routing table still have their names.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Client;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::RouteRecord;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, in_time};

use crate::error::ProducerError;

/// The collections that a source has now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SourceCollections {
    /// The names of all collections.
    names: BTreeSet<String>,
    /// The names by UUID.
    by_uuid: BTreeMap<String, String>,
}

impl SourceCollections {
    /// Lists the collections of the databases that have routes.
    ///
    /// # Errors
    /// [`ProducerError::Source`], also if the user may not list them.
    pub(super) async fn read(
        client: &Client,
        routes: &BTreeMap<String, RouteRecord>,
    ) -> Result<Self, ProducerError> {
        let databases: BTreeSet<&str> = routes
            .values()
            .map(|route| Namespace::split(&route.ns).db)
            .collect();
        let mut collections = Self::default();
        for db in databases {
            let database = client.database(db);
            let listed = async {
                let command = doc! { "listCollections": 1 };
                let mut run = database.run_cursor_command(command);
                if let Some(criteria) = client.selection_criteria() {
                    run = run.selection_criteria(criteria.clone());
                }
                run.await?.try_collect::<Vec<Document>>().await
            };
            let listed = in_time(REPLY_LIMIT, listed).await;
            for described in listed.map_err(ProducerError::Source)? {
                collections.take(db, &described);
            }
        }
        Ok(collections)
    }

    /// Adds an element of a reply to `listCollections`.
    fn take(&mut self, db: &str, described: &Document) {
        let ns = format!("{db}.{}", described.get_str("name").unwrap_or_default());
        let info = described.get_document("info").ok();
        if let Some(Bson::Binary(uuid)) = info.and_then(|info| info.get("uuid"))
            && let Ok(bytes) = uuid.bytes.as_slice().try_into()
        {
            self.by_uuid
                .insert(CollectionUuid(bytes).to_string(), ns.clone());
        }
        self.names.insert(ns);
    }

    /// Returns the routed collections that no longer exist under their names, as clauses.
    pub(super) fn ended(&self, routes: &BTreeMap<String, RouteRecord>) -> Vec<String> {
        let ended = |route: &RouteRecord| {
            let ns = &route.ns;
            match &route.ui {
                Some(ui) => match self.by_uuid.get(ui) {
                    Some(now) if now == ns => None,
                    Some(now) => Some(format!("{ns} is now {now}")),
                    None if self.names.contains(ns) => {
                        Some(format!("{ns} is another collection now"))
                    }
                    None => Some(format!("{ns} no longer exists")),
                },
                None if self.names.contains(ns) => None,
                None => Some(format!("{ns} no longer exists")),
            }
        };
        routes.values().filter_map(ended).collect()
    }
}

#[cfg(test)]
mod tests {
    use bson::Binary;
    use bson::spec::BinarySubtype;
    use oplog_relay_core::state::{Order, OrderRule, STATE_VERSION};

    use super::*;

    #[test]
    fn collections_that_were_dropped_renamed_or_created_again_are_named() {
        let uuid = |number: u8| CollectionUuid([number; 16]);
        let mut found = SourceCollections::default();
        for (name, number) in [("same", 1), ("moved", 2), ("again", 9)] {
            let bytes = uuid(number).0.to_vec();
            let subtype = BinarySubtype::Uuid;
            let info = doc! { "uuid": Binary { subtype, bytes } };
            found.take("s", &doc! { "name": name, "info": info });
        }
        found.take("s", &doc! { "name": "plain" });
        let route = |ns: &str, number: Option<u8>| RouteRecord {
            v: STATE_VERSION,
            ns: ns.to_owned(),
            ui: number.map(|number| uuid(number).to_string()),
            topic: String::new(),
            order: Order::Id,
            rules: 1,
            rule: OrderRule::Auto,
        };
        let ended = |ns: &str, number| {
            let routes = BTreeMap::from([("x".to_owned(), route(ns, number))]);
            found.ended(&routes).join(", ")
        };
        assert_eq!(ended("s.same", Some(1)), "");
        assert_eq!(ended("s.plain", None), "");
        assert_eq!(ended("s.old", Some(2)), "s.old is now s.moved");
        assert_eq!(
            ended("s.again", Some(3)),
            "s.again is another collection now"
        );
        assert_eq!(ended("s.gone", Some(4)), "s.gone no longer exists");
        assert_eq!(ended("s.gone", None), "s.gone no longer exists");
    }
}
