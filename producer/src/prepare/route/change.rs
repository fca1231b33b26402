//! Other rules for a table of routes that is in use: what the operator asked for by
//! `--change-routing`.

use std::collections::BTreeSet;

use oplog_relay_core::state::{Order, OrderRule, RouteRecord};

use super::order::ask;
use super::{RouteChange, Router, uuid_bytes};
use crate::error::ProducerError;

/// What other rules make of the table.
#[derive(Debug, Default)]
pub struct Rerouted {
    /// Every route that was made by another rule, as it is from here on.
    pub changes: Vec<RouteChange>,
    /// Topics in which entries go to other partitions from here on.
    pub topics: BTreeSet<String>,
    /// Collections that kept to one partition and do so no longer: `db.collection`, UUID.
    pub spread: Vec<(String, Option<[u8; 16]>)>,
}

impl Router {
    /// The same under the rule of the saved routes, until [`Router::reroute`].
    #[must_use]
    pub fn as_saved(mut self) -> Self {
        let saved = self.saved.routes.values().next();
        self.rule = saved.map_or(self.rule, |route| route.rule);
        self
    }

    /// Whether the saved routes were made by this rule, all of them.
    #[must_use]
    pub fn follows(&self, rule: OrderRule) -> bool {
        self.saved.routes.values().all(|route| route.rule == rule)
    }

    /// Goes on under another rule. The caller saves what changes, and sends barriers to the topics.
    ///
    /// # Errors
    /// What a live source answers when it is asked about a collection.
    pub fn reroute(&mut self, rule: OrderRule) -> Result<Rerouted, ProducerError> {
        let mut rerouted = Rerouted::default();
        for (name, route) in &self.saved.routes {
            if route.rule == rule {
                continue;
            }
            let ui = route.ui.as_deref().and_then(uuid_bytes);
            let order = self.order_under(rule, route, ui)?;
            if order != route.order {
                rerouted.topics.insert(route.topic.clone());
                if order == Order::Id {
                    rerouted.spread.push((route.ns.clone(), ui));
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
        // Of commands that go to first partitions, and of collections without a route, nothing
        // changes.
        self.apply(rerouted.changes.clone());
        Ok(rerouted)
    }

    /// A dump does not tell what its collections are: under `auto` each keeps the order it has.
    fn order_under(
        &self,
        rule: OrderRule,
        route: &RouteRecord,
        ui: Option<[u8; 16]>,
    ) -> Result<Order, ProducerError> {
        match (rule, &self.collections) {
            (OrderRule::Auto, Some(collections)) => ask(collections.as_ref(), &route.ns, ui),
            (OrderRule::Auto, None) => Ok(route.order),
            (OrderRule::Id | OrderRule::Collection, _) => Ok(rule.order()),
        }
    }
}
