//! New rules for a routing table that is in use, as requested by `--change-routing`.

use std::collections::BTreeSet;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::routing::SpreadCollection;
use oplog_relay_core::state::{Order, OrderRule, RouteRecord};

use super::order::query_order;
use super::{RouteChange, Router};
use crate::error::ProducerError;

/// The changes that new rules make to the routing table.
#[derive(Debug, Default)]
pub struct Rerouted {
    /// The new record of every route that was made by another rule.
    pub changes: Vec<RouteChange>,
    /// Topics whose entries are routed to other partitions from now on.
    pub topics: BTreeSet<String>,
    /// The collections that were in one partition and are now spread over all.
    pub spread: Vec<SpreadCollection>,
}

impl Router {
    /// Uses the rule of the saved routes until [`Router::reroute`] is called.
    #[must_use]
    pub fn as_saved(mut self) -> Self {
        let saved = self.saved.routes.values().next();
        self.rule = saved.map_or(self.rule, |route| route.rule);
        self
    }

    /// Returns true if all saved routes were made by this rule.
    #[must_use]
    pub fn follows(&self, rule: OrderRule) -> bool {
        self.saved.routes.values().all(|route| route.rule == rule)
    }

    /// Switches to another rule. The caller saves the changes, and sends barriers to the topics.
    ///
    /// # Errors
    /// The error of a live source that is queried about a collection.
    pub fn reroute(&mut self, rule: OrderRule) -> Result<Rerouted, ProducerError> {
        let mut rerouted = Rerouted::default();
        for (name, route) in &self.saved.routes {
            if route.rule == rule {
                continue;
            }
            let ui = route
                .ui
                .as_deref()
                .and_then(|text| text.parse::<CollectionUuid>().ok());
            let order = self.order_under(rule, route, ui)?;
            if order != route.order {
                rerouted.topics.insert(route.topic.clone());
                if order == Order::Id {
                    rerouted.spread.push(SpreadCollection {
                        ns: route.ns.clone(),
                        ui,
                    });
                }
            }
            let record = RouteRecord {
                order,
                rule,
                ..route.clone()
            };
            rerouted.changes.push(RouteChange {
                name: name.clone(),
                record: Some(record),
            });
        }
        self.rule = rule;
        // Nothing changes for commands, which go to partition 0, or for collections without a route.
        self.apply(rerouted.changes.clone());
        Ok(rerouted)
    }

    /// Returns the order of a collection under a rule. A dump contains no properties of its
    /// collections, so under `auto` each keeps its order.
    fn order_under(
        &self,
        rule: OrderRule,
        route: &RouteRecord,
        ui: Option<CollectionUuid>,
    ) -> Result<Order, ProducerError> {
        match (rule, &self.collections) {
            (OrderRule::Auto, Some(collections)) => {
                query_order(collections.as_ref(), &route.ns, ui)
            }
            (OrderRule::Auto, None) => Ok(route.order),
            (OrderRule::Id | OrderRule::Collection, _) => Ok(rule.order()),
        }
    }
}
